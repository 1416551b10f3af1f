"""`dualoptim audit`: probes of the original, the unlearned model and a control, into audit.json and the report."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from dualoptim_diffusion.audit.context import AuditContext, AuditedModel, Trial
from dualoptim_diffusion.audit.probes import PROBES
from dualoptim_diffusion.audit.verdict import attacks, excesses, headline, steps_to_half
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.rates import Rate, rate
from dualoptim_diffusion.core.terminal import say
from dualoptim_diffusion.files.atomic import together
from dualoptim_diffusion.files.json_files import write_json
from dualoptim_diffusion.files.locks import locked_run
from dualoptim_diffusion.files.run_folder import RunFolder
from dualoptim_diffusion.report import write_report
from dualoptim_diffusion.runs.audit_work import PLAIN, forecast, run_units, units_of
from dualoptim_diffusion.runs.audited import Request, open_audit
from dualoptim_diffusion.runs.controls import NO_RECIPE
from dualoptim_diffusion.runs.experiment import Experiment
from dualoptim_diffusion.runs.forecast import speed

Audit = dict[str, Any]
KIND = "dualoptim audit"
WITHOUT = (
    "There is no control, so no excess and no verdict: any model relearns a class from enough images. Give --control "
    "RUN, a run of the method retrain, or --retrain to train some here (each takes about as long as pretraining)."
)
ONE = "One control does not tell how far retrained models differ, so the verdict holds against this one; give two."


def audit(experiment: Experiment, run: Path, request: Request, first: RunFolder | None = None) -> Audit:
    """Runs probes on all models, writes audit.json and the report; cached trials are not run again.

    Args:
        first: the run that the experiment's base model belongs to, where it is another (`runs.finished.open_chain`).

    Raises:
        InputError: if the run, a control or the judge does not fit.
    """
    folder = RunFolder(run)
    with locked_run(run, experiment.accelerator):
        if folder.results.is_file():
            folder.read_results()  # damaged ones are refused before any attack
        opened = open_audit(experiment, folder, request, first)
        context, models, sources, chosen, work = opened
        units = units_of(context, models, work)
        if len(sources) < 2:
            say(ONE if sources else WITHOUT)
        content = _identity(context, models, sources, request.budget_name)
        done = run_units(units, ", ".join(experiment.forget_names))
        plain = {role: rate(part["hits"][0], part["n"][0]) for role, part in done[PLAIN, PLAIN].items()}
        found = {
            name: {
                "question": probe.question,
                "source": probe.source,
                "trials": {
                    unit.trial.name: _trial(unit.trial, done[name, unit.trial.name], plain["original"])
                    for unit in units
                    if unit.probe == name
                },
            }
            for name, probe in chosen.items()
        }
        earlier = _earlier(folder, content)
        order = dict.fromkeys([*PROBES, *earlier, *found])
        content |= {"plain": plain, "probes": {n: part for n in order if (part := found.get(n) or earlier.get(n))}}
        content |= _verdict(content["probes"], sources) | {"model_files": folder.model_files_sha256()}
        with together():
            write_json(folder.audit, content)
            if folder.results.is_file():
                write_report(run)
    return content


def plan_audit(experiment: Experiment, run: Path, request: Request, first: RunFolder | None = None) -> dict[str, Any]:
    """What `audit` would do: trials of each probe, passes, seconds and bytes. No control is trained.

    Raises:
        InputError: as `audit` does.
    """
    controls = request.controls
    if controls.retrain and experiment.retraining_recipe is None:
        raise InputError(NO_RECIPE)
    without = request._replace(controls=replace(controls, retrain=False))
    opened = open_audit(experiment, RunFolder(run), without, first)
    context, models, recipe = opened.context, opened.models, experiment.retraining_recipe
    missing = controls.count - len(opened.sources) if controls.retrain and recipe else 0
    untrained = [replace(models[0], role="control", sha256=f"not trained yet, {i}") for i in range(missing)]
    units = units_of(context, [*models, *untrained], opened.work)
    found = speed(context.original.copied(), experiment.accelerator, experiment.recipe.run, request.budget.batch_size)
    training = missing * recipe.training.num_steps * found.update(recipe.data.batch_size) if recipe else 0.0
    return {
        "forget": experiment.forget_names,
        "controls": opened.sources,
        "controls_to_be_trained": {"models": missing, "estimated_seconds": round(training, 1)},
        **forecast(units, found),
    }


def _identity(context: AuditContext, models: Sequence[AuditedModel], sources: list[str], budget_name: str) -> Audit:
    """What two audits must share to stand in one file."""
    info = context.classifier.info
    forgotten = [context.labels[label] for label in context.forget_classes]
    auxiliary = {"auxiliary": context.auxiliary.sha256} if context.auxiliary is not None else {}
    return {
        "kind": KIND,
        "forgotten": forgotten,
        "budget": {"name": budget_name, **context.budget.model_dump(mode="json", exclude={"probes"}), **auxiliary},
        "models": {
            role: [audited.sha256 for audited in models if audited.role == role]
            for role in ("original", "unlearned", "control")
        },
        "controls": sources,
        "sampling": context.settings.model_dump(mode="json", exclude={"seeds"}),
        "classifier": {
            "name": info.name,
            "sha256": context.classifier.sha256,
            "accuracy": {name: info.accuracy[name] for name in forgotten if name in info.accuracy},
        },
    }


def _trial(trial: Trial, outcomes: dict[str, dict[str, Any]], original: Rate) -> dict[str, Any]:
    """One trial's part of audit.json."""
    part: dict[str, Any] = {"axis": trial.axis, "outcomes": outcomes}
    if trial.axis == "step":
        part["steps_to_half"] = {role: steps_to_half(curve, original) for role, curve in outcomes.items()}
    return part


def _earlier(folder: RunFolder, identity: Audit) -> dict[str, Any]:
    """Probes that an earlier audit of the same models under the same budget has left."""
    with suppress(InputError):  # a damaged file is replaced
        content = folder.read_audit() or {}
        if {key: content.get(key) for key in identity} == identity:
            return dict(content["probes"])
    return {}


def _verdict(probes: dict[str, Any], sources: Sequence[str]) -> Audit:
    """Excess at every point of every attack, and the surest."""
    if not sources:
        return {"excess": [], "headline": None, "note": WITHOUT}
    found = excesses(attacks(probes))
    return {"excess": found, "headline": headline(found)} | ({"note": ONE} if len(sources) == 1 else {})
