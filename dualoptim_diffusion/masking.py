"""The mask of an experiment: given as a file, found from an earlier time, or computed."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dualoptim_diffusion.errors import InputError
from dualoptim_diffusion.experiment import Experiment
from dualoptim_diffusion.models import DenoisingModel, model_sha256
from dualoptim_diffusion.provenance import cache_entry
from dualoptim_diffusion.saliency import Mask, compute_mask, load_mask, save_mask


def obtain_mask(experiment: Experiment, model: DenoisingModel, mask_path: Path | None) -> Mask | None:
    """The mask given, or the one the recipe asks for, or none."""
    reads_mask = "mask" in experiment.method.reads
    if mask_path is not None:
        if not reads_mask:
            raise InputError(f"{experiment.recipe.method.name} uses no mask; leave out --mask {mask_path}.")
        return load_mask(mask_path, model, experiment.forget_labels)
    return saliency(experiment, model) if reads_mask and experiment.recipe.method.mask is not None else None


def saliency(experiment: Experiment, model: DenoisingModel) -> Mask:
    """The mask the recipe asks for, on the CPU or the model's device; kept by its inputs for the next time.

    Raises:
        InputError: if the recipe asks for none.
    """
    config, accelerator = experiment.recipe.method.mask, experiment.accelerator
    if config is None:
        raise InputError("The recipe has no method.mask; set method.mask.kind=fisher_ratio or top_fraction.")
    provenance = mask_provenance(experiment, model, model_sha256(model))
    path = cache_entry("masks", repr(sorted(provenance.items()))).with_suffix(".safetensors")
    if path.is_file():
        with contextlib.suppress(InputError):  # damaged: made anew below
            return load_mask(path, model, experiment.forget_labels)
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

    def progress(total: int, title: str) -> Iterator[int]:
        return iter(tqdm(range(total), desc=title, disable=not accelerator.is_main_process))

    mask = compute_mask(config, model, forget_batches, retain_batches, num_batches, progress)
    if accelerator.is_main_process:
        save_mask(path, mask, provenance)
    accelerator.wait_for_everyone()
    return mask


def mask_provenance(experiment: Experiment, model: DenoisingModel, base_sha256: str) -> dict[str, Any]:
    """What a mask was made from, and how."""
    config = experiment.recipe.method.mask
    return {
        "model_sha256": base_sha256,
        "data_sha256": experiment.train_set.sha256,
        "forget_classes": sorted(experiment.forget_names),
        "seed": experiment.recipe.run.seed,
        "precision": experiment.accelerator.mixed_precision,
        "passes": model.passes,
        "horizontal_flip": experiment.recipe.data.horizontal_flip,
        "mask": config.model_dump(mode="json") if config else None,
    }
