"""`dualoptim audit`: probes of the original, the unlearned model and a control, into audit.json and the report."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dualoptim_diffusion.audit.context import AuditContext, AuditedModel, Trial, curve
from dualoptim_diffusion.audit.probes import PROBES, find_probe, trials_of
from dualoptim_diffusion.audit.verdict import attacks, excesses, headline, pool, steps_to_half
from dualoptim_diffusion.core.budget import Budget
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.rates import Rate, rate
from dualoptim_diffusion.core.terminal import progress, say
from dualoptim_diffusion.diffusion.randomness import derive_seed
from dualoptim_diffusion.evaluation import match_classes
from dualoptim_diffusion.files.atomic import together
from dualoptim_diffusion.files.cache import cache_entry, get_or_make
from dualoptim_diffusion.files.json_files import read_json, write_json
from dualoptim_diffusion.files.locks import locked_run
from dualoptim_diffusion.files.run_folder import RunFolder
from dualoptim_diffusion.models import DenoisingModel, model_sha256
from dualoptim_diffusion.report import write_report
from dualoptim_diffusion.runs.controls import Controls, open_controls
from dualoptim_diffusion.runs.evaluate import JUDGE, check_judge, open_classifier
from dualoptim_diffusion.runs.experiment import Experiment
from dualoptim_diffusion.runs.models import OpenedModel, open_both_models
from dualoptim_diffusion.unlearning.saliency import load_mask

Audit = dict[str, Any]
KIND = "dualoptim audit"
WITHOUT = (
    "There is no control, so no excess and no verdict: any model relearns a class from enough images. Give --control "
    "RUN, a run of the method retrain, or --retrain to train some here (each takes about as long as pretraining)."
)
ONE = "One control does not tell how far retrained models differ, so the verdict holds against this one; give two."


def _plain(context: AuditContext, audited: AuditedModel) -> dict[str, Any]:
    """The forgotten labels without an attack."""
    return curve([(0, context.count(audited.model, context.forget_classes))])


PLAIN = ("plain", Trial("plain", _plain, ("images",), "step"))  # beside the probes' trials


def audit(
    experiment: Experiment,
    run: Path,
    budget: Budget,
    budget_name: str,
    probes: Sequence[str] = (),
    controls: Controls | None = None,
) -> Audit:
    """Runs probes on all models, writes audit.json and the report; cached trials are not run again.

    Args:
        budget: equal for all models.
        probes: those of the budget if none are named.
        controls: where the models come from that have never seen the class; by default those trained here before.

    Raises:
        InputError: if the run, a control or the judge does not fit.
    """
    if experiment.accelerator.num_processes > 1:
        raise InputError("An audit runs in one process; start it without a launcher.")
    folder = RunFolder(run)
    with locked_run(run, experiment.accelerator):
        if folder.results.is_file():
            folder.read_results()  # damaged ones are refused before any attack
        chosen = {name: find_probe(name) for name in probes or budget.probes}
        with_random = any(probe.with_random for probe in chosen.values())
        context, models, sources = _open(experiment, folder, budget, controls or Controls(), with_random)
        if len(sources) < 2:
            say(ONE if sources else WITHOUT)
        content = _identity(context, models, sources, budget_name)
        work = [PLAIN, *((name, trial) for name in chosen for trial in trials_of(name, context))]
        for name in [name for name in chosen if all(of != name for of, _ in work)]:
            say(f"The probe {name} has nothing to measure on: it needs held-out images of the class.")
            del chosen[name]
        done = _run(context, models, work)
        plain = {role: rate(part["hits"][0], part["n"][0]) for role, part in done["plain", "plain"].items()}
        found = {
            name: {
                "question": probe.question,
                "source": probe.source,
                "trials": {
                    trial.name: _trial(trial, done[name, trial.name], plain["original"])
                    for of, trial in work
                    if of == name
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


def _open(
    experiment: Experiment, folder: RunFolder, budget: Budget, controls: Controls, with_random: bool
) -> tuple[AuditContext, list[AuditedModel], list[str]]:
    """The context, its models, and where the controls come from."""
    recipe, accelerator = experiment.recipe, experiment.accelerator
    classifier = open_classifier(experiment)
    folder.check_origin("classifier_sha256", classifier.sha256, "classifier", JUDGE)
    check_judge(classifier, experiment.forget_names, recipe.evaluation.min_accuracy)
    ids = match_classes(classifier, experiment.labels)
    models = list(open_both_models(experiment, folder).items())
    original = models[0][1].model
    found = open_controls(experiment, original, controls)
    more = [("control", model) for model in found.values()]
    more += [("random", _random(original, budget.seed))] if with_random else []
    for role, model in more:
        experiment.prepare(model)
        models.append((role, OpenedModel(model, model_sha256(model))))
    forget_set, retain_set = experiment.training_sets(original)
    train, held_out = experiment.data
    context = AuditContext(
        classifier=classifier,
        forget_classes=experiment.forget_classes,
        judged_as=tuple(ids[label] for label in experiment.forget_classes),
        labels=experiment.labels,
        forget_set=forget_set,
        retain_set=retain_set,
        train=train,
        held_out=held_out,
        settings=experiment.sampling,
        budget=budget,
        original=original,
        mask=load_mask(folder.mask, original, experiment.forget_labels) if folder.mask.is_file() else None,
        accelerator=accelerator,
        horizontal_flip=recipe.data.horizontal_flip,
    )
    audited = [AuditedModel(role, *model) for role, model in models]
    _check_distinct(audited)
    retrained = tuple(one for one in audited if one.role == "control")
    return replace(context, controls=retrained), audited, list(found)


def _check_distinct(models: Sequence[AuditedModel]) -> None:
    """Equal weights are no second model: they would count as independent evidence.

    Raises:
        InputError: if two controls are one model, or one is the model under audit.
    """
    compared = [audited.sha256 for audited in models if audited.role in ("unlearned", "control")]
    if len(set(compared)) < len(compared):
        raise InputError(
            "Two of the controls, or a control and the audited model, are one model; retrain each with a run.seed of "
            "its own."
        )


def _random(original: DenoisingModel, seed: int) -> DenoisingModel:
    """The original's network with random weights."""
    model = original.frozen_copy()
    torch.manual_seed(derive_seed(seed, "random network"))
    model.network.load_state_dict(model.fresh_network().state_dict())
    return model


def _identity(context: AuditContext, models: Sequence[AuditedModel], sources: list[str], budget_name: str) -> Audit:
    """What two audits must share to stand in one file."""
    info = context.classifier.info
    forgotten = [context.labels[label] for label in context.forget_classes]
    return {
        "kind": KIND,
        "forgotten": forgotten,
        "budget": {"name": budget_name} | context.budget.model_dump(mode="json", exclude={"probes"}),
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


def _run(
    context: AuditContext, models: Sequence[AuditedModel], work: Sequence[tuple[str, Trial]]
) -> dict[tuple[str, str], dict[str, dict[str, Any]]]:
    """The outcome of every trial on every model: from the cache, or now."""
    with_random = {name for name in {probe for probe, _ in work} - {PLAIN[0]} if find_probe(name).with_random}
    units = [
        (probe, trial, audited, seed)
        for probe, trial in work
        for audited in models
        if audited.role != "random" or probe in with_random
        for seed in trial.seeds(context.budget, audited.role)
    ]
    made_from = repr(
        (
            context.classifier.sha256,
            context.judged_as,
            context.forget_classes,
            sorted(context.labels),
            context.train.sha256,
            context.held_out.sha256,
            context.settings.model_dump(mode="json", exclude={"seeds"}),
            context.horizontal_flip,
            next(audited.sha256 for audited in models if audited.role == "original"),
        )
    )
    done: dict[tuple[str, str], dict[str, dict[str, list[dict[str, Any]]]]] = {}
    with progress(
        total=len(units), desc=f"auditing {', '.join(context.labels[i] for i in context.forget_classes)}"
    ) as bar:
        for probe, trial, audited, seed in units:
            bar.set_postfix_str(f"{probe}, {trial.name}, {audited.role}")
            seeded = replace(context, budget=context.budget.model_copy(update={"seed": seed}))
            spent = repr({name: getattr(seeded.budget, name) for name in sorted(trial.settings)})
            key = (made_from, spent, probe, trial.name, trial.made_from, audited.sha256, audited.model.passes)
            path = cache_entry("audits", *key).with_suffix(".json")
            outcome = get_or_make(path, read_json, partial(trial.run, seeded, audited), _write_outcome)
            roles = done.setdefault((probe, trial.name), {})
            roles.setdefault(audited.role, {}).setdefault(audited.sha256, []).append(outcome)
            bar.update()
    is_attack = {(probe, trial.name): trial.axis is not None for probe, trial in work}
    return {
        which: {role: _together(list(by_model.values()), is_attack[which]) for role, by_model in roles.items()}
        for which, roles in done.items()
    }


def _together(outcomes: Sequence[Sequence[dict[str, Any]]], is_attack: bool) -> dict[str, Any]:
    """Of an attack all models of a role and all seeds in one curve; of anything else the first model's figures."""
    return pool(outcomes) if is_attack else outcomes[0][0]


def _write_outcome(path: Path, outcome: dict[str, Any]) -> None:
    path.write_text(json.dumps(outcome, allow_nan=False) + "\n", encoding="utf-8")


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
