"""Run folders made by hand: a model and its base, no training."""

import json
from pathlib import Path

import torch
import yaml

from dualoptim_diffusion.models import DenoisingModel, UNetModule, model_sha256
from tests.helpers.recipes import RECIPES

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def small_unet(norm_groups: int = 4) -> UNetModule:
    """Shaped for the digits, with random weights."""
    torch.manual_seed(0)
    return UNetModule(8, 1, 10, 16, (1, 2), 1, (4,), True, 0.0, norm_groups).eval()


def changed(model: DenoisingModel, *forgotten: str, seed: int = 1) -> DenoisingModel:
    """A model with other values in about a tenth of its weights."""
    source = torch.Generator().manual_seed(seed)
    other = model.frozen_copy()
    for value in other.network.parameters():
        value[torch.rand(value.shape, generator=source) < 0.1] += 1
    other.forgotten = sorted({*model.forgotten, *forgotten})
    return other


def write_run(folder: Path, base: Path, base_model: DenoisingModel, result: DenoisingModel, **model: object) -> Path:
    """A folder as `dualoptim forget` leaves it, as far as its model is concerned.

    Args:
        base: where the base model lies.
        base_model: that, as the run loads it.
        model: further keys of the recipe's section.
    """
    folder.mkdir()
    recipe = RECIPES["tiny.yaml"] | {"model": {"path": str(base), **model}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "provenance.json").write_text(json.dumps({"base_model_sha256": model_sha256(base_model)}))
    result.save(folder / "model")
    return folder
