"""The job from Python: forget classes of a model, draw from it; no files unless asked for."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from dualoptim_diffusion.core.classes import resolve_class, resolve_classes
from dualoptim_diffusion.core.config import (
    ForgetDataConfig,
    ForgetRecipe,
    ForgetRunConfig,
    MethodConfig,
    OptimizersConfig,
    SamplingConfig,
    Section,
)
from dualoptim_diffusion.core.errors import InputError, nearest
from dualoptim_diffusion.core.sections import complaint
from dualoptim_diffusion.core.terminal import progress as progress_bar
from dualoptim_diffusion.data import DataFacts, ImageSet
from dualoptim_diffusion.data.given import image_set
from dualoptim_diffusion.drawing.samples import LazySamples
from dualoptim_diffusion.evaluation import evaluate
from dualoptim_diffusion.evaluation.features import Extractor
from dualoptim_diffusion.files.atomic import atomic_path, refuse_filled
from dualoptim_diffusion.files.results_file import Figures
from dualoptim_diffusion.judge.classifier import Classifier
from dualoptim_diffusion.models import DenoisingModel, model_sha256
from dualoptim_diffusion.runs.experiment import Experiment, forgotten_before, make_method, resolve_recipe
from dualoptim_diffusion.runs.forget import prepare_forgetting
from dualoptim_diffusion.runs.models import OpenedModel, check_model
from dualoptim_diffusion.runs.obtain import make_accelerator
from dualoptim_diffusion.unlearning.loop import Record, unlearn
from dualoptim_diffusion.unlearning.methods import find_method
from dualoptim_diffusion.unlearning.saliency import Mask, save_mask

USUAL_MASKS = {"sfron": {"kind": "fisher_ratio"}, "salun": {"kind": "top_fraction"}}  # of the paper; others have none
SECTIONS: dict[str, type[Section]] = {"method": MethodConfig, "run": ForgetRunConfig, "data": ForgetDataConfig}
DEFAULT_MODE = OptimizersConfig().mode
FILES = {"name": "image_folder", "path": ".", "latents": "each_step"}  # stands for images that are given
GIVEN = {"model": {"path": "."}, "evaluation": {"classifier": "none"}}  # likewise


@dataclass(frozen=True)
class Forgotten:
    """What `forget` made.

    Attributes:
        model: the unlearned model; `model.forgotten` names what it forgot.
        log: of each outer step: `forget_loss`, `retain_loss`, gradient norms, and the cosine of the gradients.
        mask: by parameter name, bool: the weights that forget steps may change; None without a mask.
        recipe: the settings that acted, as a recipe has them.
        experiment: the images and classes, and how they were used.
    """

    model: DenoisingModel
    log: list[Record]
    mask: Mask | None
    recipe: dict[str, Any]
    experiment: Experiment

    def figures(
        self,
        classifier: Classifier,
        seeds: Sequence[int] = range(100),
        *,
        reference: Tensor | None = None,
        extractor: Extractor | None = None,
        **settings: Any,
    ) -> Figures:
        """FA, RA, distances and all else that `evaluate` gives, of images that each label draws with these seeds.

        Args:
            reference: real images of the retained classes that the model was not trained on, uint8 [M, C, H, W]; None
                takes those of the dataset, which flatters a model that remembers them.
            extractor: where features for distances come from; the classifier itself if None.
            settings: as `sample` takes them.

        Raises:
            InputError: as `sample` and `evaluate`.
        """
        labels = self.experiment.labels
        drawn = sample(self.model, list(labels), seeds, device=self.experiment.recipe.run.device, **settings)
        if reference is None:
            reference = self.experiment.sets[1].images[:]
        gone = self.experiment.forget_classes
        return evaluate(drawn, classifier, labels, gone, reference, extractor=extractor)

    def save(self, folder: str | Path) -> None:
        """Writes `model/` (a diffusers pipeline), `metrics.jsonl`, `settings.json` and `mask.safetensors`.

        Raises:
            InputError: if the folder holds anything.
        """
        folder = Path(folder)
        refuse_filled(folder)
        with atomic_path(folder) as beside:
            beside.mkdir()
            self.model.save(beside / "model")
            (beside / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in self.log))
            (beside / "settings.json").write_text(json.dumps(self.recipe, indent=2) + "\n")
            if self.mask is not None:
                save_mask(beside / "mask.safetensors", self.mask, {"forget_classes": sorted(self.model.forgotten)})


def forget(
    model: DenoisingModel,
    dataset: Any,
    classes: Iterable[str | int],
    *,
    method: str = "sfron",
    optimizers: str | Mapping[str, Any] = "dual",
    on_step: Callable[[int, Record], None] | None = None,
    progress: bool = True,
    **settings: Any,
) -> Forgotten:
    """Makes a copy of the model forget classes, as `dualoptim forget` does.

    Args:
        model: from `load_model`; it stays as it is.
        dataset: the training images of all its classes; `data.given.image_set` says what it may be.
        classes: names or ids of those to forget.
        method: such as sfron, salun, null_matching; `dualoptim methods` lists them.
        optimizers: dual or shared, or the keys of a recipe's section `optimizers`.
        on_step: called with the number of finished outer steps and what the last one logged; may raise to stop.
        progress: show a bar.
        settings: keys of a recipe's sections `method` (num_steps, forget_lr, retain_lr, mask, ...), `run` (seed,
            device, precision, ...) and `data` (batch_size, horizontal_flip). SFRon and SalUn have the paper's mask
            unless `mask` says otherwise; None is no mask.

    Raises:
        InputError: one sentence about the first thing that does not fit.
        NonFiniteError: if a loss or gradient is not finite.
    """
    experiment = _experiment(model, dataset, classes, method, optimizers, settings)
    unlearned = model.copied()
    unlearned.network.to(experiment.accelerator.device)
    check_model(experiment, unlearned)
    forgetting = prepare_forgetting(experiment, OpenedModel(unlearned, model_sha256(unlearned)))
    training, log = forgetting.training(), []
    title = f"forgetting {', '.join(experiment.forget_names)}"
    with progress_bar(total=training.num_steps, desc=title, unit="step", disable=not progress) as bar:

        def noted(finished: int, record: Record) -> None:
            log.append(record)
            bar.update()
            if on_step is not None:
                on_step(finished, record)

        unlearn(
            training.network, training.optimizers, training.phases, training.num_steps,
            ema=training.ema, accelerator=experiment.accelerator, on_step=noted, log_cosine=training.log_cosine,
        )  # fmt: skip
    if training.ema is not None:
        unlearned.network.load_state_dict(training.ema.state_dict())
    unlearned.network.eval()
    unlearned.forgotten = sorted({*unlearned.forgotten, *experiment.forget_names})
    return Forgotten(unlearned, log, forgetting.mask, experiment.values, experiment)


def sample(
    model: DenoisingModel,
    classes: Iterable[str | int] = (),
    seeds: Sequence[int] = range(16),
    *,
    device: str = "auto",
    **settings: Any,
) -> dict[int, Tensor]:
    """Images by class id, uint8 [N, C, H, W], image i from seeds[i]; what `evaluate` takes.

    Args:
        classes: names or ids; all of the model's if none is given.
        settings: keys of a recipe's section `sampling` (scheduler, num_inference_steps, guidance_scale, batch_size).

    Raises:
        InputError: for an unknown class or setting.
    """
    names, unknown = [_as_text(name) for name in classes], settings.keys() - SamplingConfig.model_fields.keys()
    if unknown or "seeds" in settings:
        raise InputError(_no_setting(min(unknown), SamplingConfig.model_fields))
    ids = [resolve_class(name, model.id2label) for name in names] or list(model.id2label)
    try:
        config = SamplingConfig(**settings)
    except ValidationError as error:
        raise InputError(complaint(SamplingConfig, error)) from None
    accelerator = make_accelerator(device)
    model.network.to(accelerator.device)
    model.prepare(accelerator)
    return dict(LazySamples(model, {i: list(seeds) for i in ids}, config, accelerator))


def _experiment(
    model: DenoisingModel,
    dataset: Any,
    classes: Iterable[str | int],
    method: str,
    optimizers: str | Mapping[str, Any],
    settings: Mapping[str, Any],
) -> Experiment:
    """What a recipe would be resolved to, with the images that are given."""
    if find_method(method).from_scratch:
        raise InputError(f"{method} trains a model from scratch; use `dualoptim forget` with a recipe of pretraining.")
    recipe, values, dropped = resolve_recipe(_recipe(model, method, optimizers, settings))
    if dropped:
        raise InputError(f"{method} does not read {', '.join(dropped)}; leave it out.")
    names = model.id2label
    forget_classes = resolve_classes([_as_text(name) for name in classes], names)
    left_out = forgotten_before(model.forgotten, forget_classes, names)
    images = image_set(dataset, names, model.image_shape)
    counts = dict(enumerate(images.class_labels.bincount(minlength=len(names)).tolist()))
    if missing := [names[i] for i in forget_classes if not counts[i]]:
        raise InputError(f"The dataset holds no image of {missing[0]!r}, which is to be forgotten.")
    if not sum(n for i, n in counts.items() if i not in (*forget_classes, *left_out)):
        raise InputError("The dataset holds no image of another class, so there is nothing to retain.")
    values["data"]["forget_classes"] = [names[i] for i in forget_classes]
    accelerator = make_accelerator(recipe.run.device)
    facts = DataFacts(names, model.image_shape, counts)
    acts = make_method(recipe, forget_classes, facts, accelerator)
    nothing = ImageSet(images.images[:0], images.class_labels[:0], names)
    sources = (None, None, None)
    found = (recipe, Path(), values, *sources, accelerator, facts, forget_classes, left_out, acts)
    experiment = Experiment(*found, lambda: (images, nothing), keeps=False)
    experiment.check_states()
    return experiment


def _recipe(
    model: DenoisingModel, method: str, optimizers: str | Mapping[str, Any], settings: Mapping[str, Any]
) -> ForgetRecipe:
    """The settings as a recipe, each key in the section that has it."""
    sections: dict[str, dict[str, Any]] = {"method": {"name": method}, "run": {}, "data": dict(FILES)}
    known = {key: section for section, kind in SECTIONS.items() for key in kind.model_fields}
    for key in ("name", "path", "forget_classes", "checkpoint_every", "tracker"):  # of files, or given otherwise
        known.pop(key)
    if method in USUAL_MASKS:
        estimator = "plain" if model.null_class is None else "published"
        settings = {"mask": USUAL_MASKS[method] | {"estimator": estimator}} | dict(settings)
    for key, value in settings.items():
        if key not in known:
            raise InputError(_no_setting(key, known))
        sections[known[key]][key] = value
    chosen = {"mode": optimizers} if isinstance(optimizers, str) else dict(optimizers)
    if chosen.get("mode") == DEFAULT_MODE:  # as if unset, for methods that read none
        del chosen["mode"]
    try:
        return ForgetRecipe.model_validate(sections | {"optimizers": chosen} | GIVEN)
    except ValidationError as error:
        raise InputError(complaint(ForgetRecipe, error)) from None


def _no_setting(key: str, known: Iterable[str]) -> str:
    return f"There is no setting {key!r}: {nearest(key, list(known))}"


def _as_text(name: str | int) -> str:
    return name if isinstance(name, str) else f"id:{name}"
