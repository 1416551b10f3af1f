"""`dualoptim audit`: probes of the original, the unlearned model and a control, into audit.json and the report."""

import json
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dualoptim_diffusion.audit.context import AuditContext, AuditedModel, Trial
from dualoptim_diffusion.audit.probes import PROBES
from dualoptim_diffusion.audit.verdict import excesses, headline, steps_to_half
from dualoptim_diffusion.core.budget import Budget, ProbeName
from dualoptim_diffusion.core.classes import same_classes
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.rates import Rate, rate
from dualoptim_diffusion.core.recipes import read_yaml
from dualoptim_diffusion.core.terminal import progress, say
from dualoptim_diffusion.diffusion.randomness import derive_seed
from dualoptim_diffusion.evaluation import match_classes
from dualoptim_diffusion.files.cache import cache_entry, get_or_make
from dualoptim_diffusion.files.json_files import read_json, write_json
from dualoptim_diffusion.files.locks import locked_run
from dualoptim_diffusion.files.run_folder import RunFolder
from dualoptim_diffusion.models import DenoisingModel, model_sha256
from dualoptim_diffusion.models.loading import load_model
from dualoptim_diffusion.report import write_report
from dualoptim_diffusion.runs.evaluate import check_judge
from dualoptim_diffusion.runs.experiment import Experiment
from dualoptim_diffusion.runs.models import OpenedModel, check_origin, open_both_models
from dualoptim_diffusion.runs.obtain import find_pretrained, obtain_classifier, obtain_pretrained
from dualoptim_diffusion.unlearning.saliency import load_mask

Audit = dict[str, Any]
KIND = "dualoptim audit"
WITHOUT = (
    "There is no control, so no excess and no headline: any model relearns a class from enough images. Give --control "
    "RUN, a run of the method retrain, or --retrain to train one here (about as long as pretraining)."
)


def _plain(context: AuditContext, audited: AuditedModel) -> dict[str, Any]:
    """The forgotten labels without an attack."""
    hits, n = context.count(audited.model, context.forget_classes)
    return {"hits": hits, "n": n}


PLAIN = ("plain", Trial("plain", _plain, ("images",)))  # beside the probes' trials


def audit(
    experiment: Experiment,
    run: Path,
    budget: Budget,
    budget_name: str,
    probes: Sequence[ProbeName] = (),
    control: Path | None = None,
    retrain: bool = False,
) -> Audit:
    """Runs probes on all models, writes audit.json and the report; cached trials are not run again.

    Args:
        budget: equal for all models.
        probes: those of the budget if none are named.
        control: a run of the method retrain, or its pipeline folder; without it one that was trained here before.
        retrain: train one here where there is none.

    Raises:
        InputError: if the run, the control or the judge does not fit.
    """
    if experiment.accelerator.num_processes > 1:
        raise InputError("An audit runs in one process; start it without a launcher.")
    folder = RunFolder(run)
    with locked_run(run, experiment.accelerator):
        names = list(dict.fromkeys(probes or budget.probes))
        with_random = any(PROBES[name].with_random for name in names)
        context, models, source = _open(experiment, folder, budget, control, retrain, with_random)
        if source is None:
            say(WITHOUT)
        content = _identity(context, models, source, budget_name)
        work = [PLAIN, *((name, trial) for name in names for trial in PROBES[name].trials(context))]
        done = _run(context, models, work)
        plain = {role: rate(**counts) for role, counts in done["plain", "plain"].items()}
        found = {
            name: {
                "question": PROBES[name].question,
                "source": PROBES[name].source,
                "trials": {
                    trial.name: _trial(trial, done[name, trial.name], plain["original"])
                    for of, trial in work
                    if of == name
                },
            }
            for name in names
        }
        earlier = _earlier(folder, content)
        content |= {"plain": plain, "probes": {n: part for n in PROBES if (part := found.get(n) or earlier.get(n))}}
        content |= _verdict(content["probes"], source) | {"model_files": folder.model_files_sha256()}
        write_json(folder.audit, content)
        if folder.results.is_file():
            write_report(run)
    return content


def _open(
    experiment: Experiment, folder: RunFolder, budget: Budget, control: Path | None, retrain: bool, with_random: bool
) -> tuple[AuditContext, list[AuditedModel], str | None]:
    """The context, its models, and where the control comes from."""
    recipe, accelerator = experiment.recipe, experiment.accelerator
    classifier = obtain_classifier(recipe.evaluation.classifier, experiment.recipe_path, accelerator)
    check_origin(folder, "classifier_sha256", classifier.sha256, "classifier")
    check_judge(classifier, experiment.forget_names, recipe.evaluation.min_accuracy)
    ids = match_classes(classifier, experiment.labels)
    models = open_both_models(experiment, folder)
    original = models["original"].model
    found, source = _control(experiment, original, control, retrain)
    more = {} if found is None else {"control": found}
    more |= {"random": _random(original, budget.seed)} if with_random else {}
    for role, model in more.items():
        experiment.prepare(model)
        models[role] = OpenedModel(model, model_sha256(model))
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
    return context, [AuditedModel(role, *model) for role, model in models.items()], source


def _control(
    experiment: Experiment, original: DenoisingModel, control: Path | None, retrain: bool
) -> tuple[DenoisingModel | None, str | None]:
    """A model that never saw the forgotten classes, and how it was had; None where there is none."""
    device, recipe = experiment.accelerator.device, experiment.retraining_recipe
    if control is not None:
        _check_retrained(RunFolder(control))
        model = load_model(control, device, original.null_class, original.id2label)
        if not same_classes(model.id2label, original.id2label) or model.x_0_shape != original.x_0_shape:
            raise InputError(f"The control {control} draws other classes or sizes; retrain the run's own model.")
        if missing := [name for name in experiment.forget_names if name not in model.forgotten]:
            raise InputError(f"The control {control} was not retrained without {missing[0]!r}; name one that was.")
        return model, str(control)
    if recipe is None:
        if retrain:
            raise InputError("--retrain needs a pretraining recipe, but the run's model was given as a folder.")
        return None, None
    retain_set = experiment.sets[1]
    if (folder := find_pretrained(recipe, retain_set)) is None and retrain:
        folder = obtain_pretrained(recipe, retain_set, experiment.accelerator)
    return (None, None) if folder is None else (load_model(folder, device), "retrained here")


def _check_retrained(control: RunFolder) -> None:
    if control.recipe.is_file():
        method = read_yaml(control.recipe).get("method")
        name = method.get("name") if isinstance(method, dict) else method
        if name != "retrain":
            raise InputError(
                f"The control {control.path} was made by the method {name!r}, expected retrain: a control has never "
                "seen the class."
            )


def _random(original: DenoisingModel, seed: int) -> DenoisingModel:
    """The original's network with random weights."""
    model = original.frozen_copy()
    torch.manual_seed(derive_seed(seed, "random network"))
    model.network.load_state_dict(model.fresh_network().state_dict())
    return model


def _identity(context: AuditContext, models: Sequence[AuditedModel], source: str | None, budget_name: str) -> Audit:
    """What two audits must share to stand in one file."""
    info = context.classifier.info
    forgotten = [context.labels[label] for label in context.forget_classes]
    return {
        "kind": KIND,
        "forgotten": forgotten,
        "budget": {"name": budget_name} | context.budget.model_dump(mode="json", exclude={"probes"}),
        "models": {audited.role: audited.sha256 for audited in models if audited.role != "random"},
        "control": source,
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
    with_random = {name for name, probe in PROBES.items() if probe.with_random}
    units = [
        (probe, trial, audited)
        for probe, trial in work
        for audited in models
        if audited.role != "random" or probe in with_random
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
    done: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    with progress(
        total=len(units), desc=f"auditing {', '.join(context.labels[i] for i in context.forget_classes)}"
    ) as bar:
        for probe, trial, audited in units:
            bar.set_postfix_str(f"{probe}, {trial.name}, {audited.role}")
            spent = repr({name: getattr(context.budget, name) for name in sorted(trial.settings)})
            key = (made_from, spent, probe, trial.name, trial.made_from, audited.sha256, audited.model.passes)
            path = cache_entry("audits", *key).with_suffix(".json")
            outcome = get_or_make(path, read_json, partial(trial.run, context, audited), _write_outcome)
            done.setdefault((probe, trial.name), {})[audited.role] = outcome
            bar.update()
    return done


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


def _verdict(probes: dict[str, Any], source: str | None) -> Audit:
    """Excess at every point of every attack, and the largest."""
    if source is None:
        return {"excess": [], "headline": None, "note": WITHOUT}
    attacks = {
        (name, trial): part["outcomes"]
        for name, probe in probes.items()
        for trial, part in probe["trials"].items()
        if part["axis"] is not None
    }
    found = excesses(attacks)
    return {"excess": found, "headline": headline(found)}
