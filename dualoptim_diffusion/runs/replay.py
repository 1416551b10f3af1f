"""Replay: images that the base model draws of its retained classes, for methods that do without real ones."""

import torch

from dualoptim_diffusion.data import ImageSet
from dualoptim_diffusion.drawing.samples import describe, draw_samples
from dualoptim_diffusion.files.cache import cache_entry, place_for
from dualoptim_diffusion.models import DenoisingModel
from dualoptim_diffusion.runs.experiment import Experiment

FIRST_SEED = 1_000_000  # apart from the seeds that figures are taken with


def replay_set(experiment: Experiment, model: DenoisingModel, model_sha256: str) -> ImageSet:
    """`replay_per_class` images of each retained class, drawn as the recipe samples; cached."""
    settings, accelerator = experiment.recipe.sampling, experiment.accelerator
    seeds = range(FIRST_SEED, FIRST_SEED + experiment.recipe.method.replay_per_class)
    retained = experiment.retained_classes
    folder = place_for(cache_entry("samples", repr(describe(model, model_sha256, settings))))
    drawn = draw_samples(folder, model, model_sha256, dict.fromkeys(retained, seeds), settings, accelerator, "replay")
    labels = torch.tensor(retained).repeat_interleave(len(seeds))
    return ImageSet(torch.cat([drawn[label] for label in retained]), labels, model.id2label)
