"""What an audit works on: its models, what they share, and the trials of its probes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from dualoptim_diffusion.audit.attack import curve
from dualoptim_diffusion.audit.context import AuditContext, AuditedModel, Cost, Probe, Trial
from dualoptim_diffusion.audit.probes import find_probe, trials_of
from dualoptim_diffusion.core.budget import Budget
from dualoptim_diffusion.core.config import DataConfig
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.terminal import say
from dualoptim_diffusion.data import ImageSet, load_dataset
from dualoptim_diffusion.diffusion.randomness import derive_seed, generator
from dualoptim_diffusion.evaluation import match_classes
from dualoptim_diffusion.files.run_folder import RunFolder
from dualoptim_diffusion.models import DenoisingModel, model_sha256
from dualoptim_diffusion.runs.audit_work import PLAIN
from dualoptim_diffusion.runs.controls import Controls, open_controls
from dualoptim_diffusion.runs.evaluate import JUDGE, check_judge, open_classifier
from dualoptim_diffusion.runs.experiment import Experiment
from dualoptim_diffusion.runs.models import OpenedModel, open_both_models
from dualoptim_diffusion.unlearning.saliency import load_mask


def _plain(context: AuditContext, audited: AuditedModel) -> dict[str, Any]:
    """The forgotten labels without an attack."""
    return curve([(0, context.count(audited.model, context.forget_classes))])


class Request(NamedTuple):
    """What is asked of an audit.

    Attributes:
        budget: equal for all models.
        probes: those of the budget if none are named.
        controls: where the models come from that have never seen the class; by default those trained here before.
    """

    budget: Budget
    budget_name: str
    probes: tuple[str, ...] = ()
    controls: Controls = Controls()


class Opened(NamedTuple):
    """What an audit works on.

    Attributes:
        sources: where the controls come from.
        probes: by name, those that have trials here.
        work: the trials with the names of their probes.
    """

    context: AuditContext
    models: list[AuditedModel]
    sources: list[str]
    probes: dict[str, Probe]
    work: list[tuple[str, Trial]]


def open_audit(experiment: Experiment, folder: RunFolder, request: Request, first: RunFolder | None = None) -> Opened:
    """The models, what they share, and what is to be done with them.

    Args:
        first: the run that the experiment's base model belongs to, where it is another (`runs.finished.open_chain`).

    Raises:
        InputError: if the run, a control or the judge does not fit.
    """
    if experiment.accelerator.num_processes > 1:
        raise InputError("An audit runs in one process; start it without a launcher.")
    chosen = {name: find_probe(name) for name in request.probes or request.budget.probes}
    recipe, accelerator, budget = experiment.recipe, experiment.accelerator, request.budget
    classifier = open_classifier(experiment)
    folder.check_origin("classifier_sha256", classifier.sha256, "classifier", JUDGE)
    check_judge(classifier, experiment.forget_names, recipe.evaluation.min_accuracy)
    ids = match_classes(classifier, experiment.labels)
    models = list(open_both_models(experiment, folder, first).items())
    original = models[0][1].model
    found = open_controls(experiment, original, request.controls)
    more = [("control", model) for model in found.values()]
    if any(probe.with_random for probe in chosen.values()):
        more.append(("random", _random(original, budget.seed)))
    for role, model in more:
        experiment.prepare(model)
        models.append((role, OpenedModel(model, model_sha256(model))))
    has_mask = folder.mask.is_file() and (first is None or first.path == folder.path)  # of earlier runs there are more
    forget_set, retain_set = experiment.training_sets(original)
    train, held_out = experiment.data
    audited = [AuditedModel(role, *model) for role, model in models]
    _check_distinct(audited)
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
        mask=load_mask(folder.mask, original, experiment.forget_labels) if has_mask else None,
        accelerator=accelerator,
        horizontal_flip=recipe.data.horizontal_flip,
        controls=tuple(one for one in audited if one.role == "control"),
        auxiliary=_auxiliary(experiment, budget.auxiliary, original) if "relearn" in chosen else None,
    )
    cost = Cost(context.passes(len(context.forget_classes)))
    work = [(PLAIN, Trial(PLAIN, _plain, ("images",), "step", cost=cost))]
    work += [(name, trial) for name in chosen for trial in trials_of(name, context)]
    for name in [name for name in chosen if all(of != name for of, _ in work)]:
        say(f"The probe {name} has nothing to measure on: it needs held-out images of the class.")
        del chosen[name]
    return Opened(context, audited, list(found), chosen, work)


def _auxiliary(experiment: Experiment, path: str | None, original: DenoisingModel) -> ImageSet | None:
    """Images of a folder as the model draws them, each with any retained label; None where none is named.

    Raises:
        InputError: if there are none, or one cannot be read.
    """
    if path is None:
        return None
    channels, side = original.image_shape[0], original.image_shape[-1]
    config = DataConfig(name="image_folder", path=path, image_size=side, channels=1 if channels == 1 else 3)
    try:
        images = load_dataset(config)[0].images
    except InputError as error:
        raise InputError(f"audit.auxiliary is of no use: {error}") from None
    retained = torch.tensor(experiment.retained_classes)
    chosen = torch.randint(len(retained), (len(images),), generator=generator(0, "auxiliary"))
    return ImageSet(images, retained[chosen], dict(original.id2label))


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
