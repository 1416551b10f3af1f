"""`dualoptim saliency`: the mask of an experiment, given as a file, cached, or computed."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from dualoptim_diffusion.core.config import FisherRatioMask
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.terminal import progress
from dualoptim_diffusion.files.cache import cache_entry, get_or_make
from dualoptim_diffusion.models import DenoisingModel, model_sha256
from dualoptim_diffusion.runs.experiment import Experiment
from dualoptim_diffusion.runs.models import obtain_base
from dualoptim_diffusion.unlearning.class_fisher import ClassFishers
from dualoptim_diffusion.unlearning.saliency import (
    Mask,
    Progress,
    compute_mask,
    density,
    fisher_ratio_mask,
    gradients,
    load_mask,
    save_mask,
    write_mask,
)


def obtain_mask(experiment: Experiment, model: DenoisingModel, mask_path: Path | None) -> Mask | None:
    """The mask given, or the one the recipe asks for, or none."""
    if mask_path is not None:
        if not experiment.reads_mask:
            raise InputError(f"{experiment.recipe.method.name} uses no mask; leave out --mask {mask_path}.")
        return load_mask(mask_path, model, experiment.forget_labels)
    return saliency(experiment, model) if experiment.reads_mask and experiment.recipe.method.mask is not None else None


def make_mask(experiment: Experiment, out: Path) -> dict[str, Any] | None:
    """Writes the mask that the recipe asks for to `out`.

    Returns:
        File, density and provenance, on the main process.
    """
    model = obtain_base(experiment)
    base_sha256 = model_sha256(model)
    experiment.prepare(model)
    mask = saliency(experiment, model)
    if not experiment.accelerator.is_main_process:
        return None
    provenance = mask_provenance(experiment, model, base_sha256)
    save_mask(out, mask, provenance)
    return {"mask": str(out), "density": density(mask)} | provenance


def saliency(experiment: Experiment, model: DenoisingModel) -> Mask:
    """The mask the recipe asks for, on the CPU or the model's device; cached by its inputs.

    Raises:
        InputError: if the recipe asks for none.
    """
    config, accelerator = experiment.recipe.method.mask, experiment.accelerator
    if config is None:
        raise InputError("The recipe has no method.mask; set method.mask.kind=fisher_ratio or top_fraction.")

    def counted(total: int, title: str) -> Iterator[int]:
        return iter(progress(range(total), desc=title, disable=not accelerator.is_main_process))

    def make() -> Mask:
        pure = config.kind == "fisher_ratio" and config.estimator == "class_pure"
        return (_class_pure_mask if pure else _mask_of_two_sets)(experiment, model, counted)

    if not experiment.keeps:
        return make()
    provenance = mask_provenance(experiment, model, model_sha256(model))
    return get_or_make(
        cache_entry("masks", repr(sorted(provenance.items()))).with_suffix(".safetensors"),
        lambda path: load_mask(path, model, experiment.forget_labels),
        make,
        lambda path, mask: write_mask(path, mask, provenance),
        accelerator,
    )


def _mask_of_two_sets(experiment: Experiment, model: DenoisingModel, progress: Progress) -> Mask:
    """From batches of the forget set, and of the retain set where the mask compares with it."""
    config = experiment.recipe.method.mask
    assert config is not None  # saliency has seen to it
    sets = experiment.training_sets(model)
    forget_batches, retain_batches = (
        experiment.batches(model, part, f"saliency-{name}", config.batch_size)
        for part, name in zip(sets, ("forget", "retain"), strict=True)
    )
    one_pass = [-(-len(part) // config.batch_size) for part in sets]
    num_batches = (config.num_batches or one_pass[0], config.num_batches or one_pass[1])

    forget_batches.prepare(num_batches[0])
    if config.kind == "fisher_ratio":
        retain_batches.prepare(num_batches[1])
    return compute_mask(config, model, forget_batches, retain_batches, num_batches, progress)


def _class_pure_mask(experiment: Experiment, model: DenoisingModel, progress: Progress) -> Mask:
    """From batches of one class each; their sums are cached and serve every other class to be forgotten."""
    config = experiment.recipe.method.mask
    assert isinstance(config, FisherRatioMask)  # saliency has seen to it
    labels, names, images = list(experiment.labels), experiment.labels, experiment.training_sets(model)
    classes = {c: next(part for part in images if c in part.class_labels).of_classes([c]) for c in labels}
    num_batches = {c: config.num_batches or -(-len(part) // config.batch_size) for c, part in classes.items()}

    def gradients_of(label: int) -> Iterator[Mapping[str, Tensor]]:
        batches = experiment.batches(model, classes[label], f"saliency-class{label}", config.batch_size)
        batches.prepare(num_batches[label])
        return gradients(model, batches, num_batches[label], "plain", f"saliency, {names[label]}", progress)

    provenance = mask_provenance(experiment, model, model_sha256(model))
    inputs = {key: value for key, value in provenance.items() if key not in ("forget_classes", "mask")}
    inputs |= {"classes": labels, "batch_size": config.batch_size, "num_batches": config.num_batches}
    folder = cache_entry("fishers", repr(sorted(inputs.items())))
    fishers = ClassFishers(folder, labels, gradients_of, experiment.accelerator)
    sums = fishers.forget_and_retain(experiment.forget_classes)
    counts = [
        sum(n for c, n in num_batches.items() if (c in experiment.forget_classes) is gone) for gone in (True, False)
    ]
    forget, retain = ({name: value / n for name, value in f.items()} for f, n in zip(sums, counts, strict=True))
    parameters = {name: p.detach().cpu() for name, p in model.network.named_parameters()}
    return fisher_ratio_mask(forget, retain, parameters, config.threshold)


def mask_provenance(experiment: Experiment, model: DenoisingModel, base_sha256: str) -> dict[str, Any]:
    """What a mask was made from, and how."""
    config = experiment.recipe.method.mask
    return {
        "model_sha256": base_sha256,
        "data_sha256": experiment.train_set.sha256,
        "forget_classes": sorted(experiment.forget_names),
        "seed": experiment.recipe.run.seed,
        "passes": model.passes,
        "horizontal_flip": experiment.recipe.data.horizontal_flip,
        "mask": config.model_dump(mode="json") if config else None,
    }
