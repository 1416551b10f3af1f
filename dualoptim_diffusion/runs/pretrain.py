"""`dualoptim pretrain`: a base model from its recipe."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from dualoptim_diffusion.core.recipes import load_recipe
from dualoptim_diffusion.core.training_config import PretrainRecipe
from dualoptim_diffusion.data import load_dataset
from dualoptim_diffusion.files.atomic import copy_folder
from dualoptim_diffusion.models import model_sha256
from dualoptim_diffusion.models.loading import load_model
from dualoptim_diffusion.runs.obtain import make_accelerator, obtain_pretrained


def open_pretraining(recipe: str, overrides: Sequence[str]) -> tuple[PretrainRecipe, Accelerator]:
    """The recipe, and this process's accelerator.

    Raises:
        InputError: if either cannot be had.
    """
    loaded = load_recipe(PretrainRecipe, recipe, overrides)
    return loaded, make_accelerator(loaded.run.device)


def make_base_model(
    recipe: PretrainRecipe, accelerator: Accelerator, out: Path | None, stop_after: int | None
) -> dict[str, Any] | None:
    """Trains the model or finds it in the cache.

    Args:
        out: where to copy the pipeline folder.
        stop_after: save and stop after so many steps.

    Returns:
        Folder and hash, on the main process.
    """
    folder = obtain_pretrained(recipe, load_dataset(recipe.data)[0], accelerator, stop_after)
    if not accelerator.is_main_process:
        return None
    folder = copy_folder(folder, out) if out else folder
    return {"model": str(folder), "sha256": model_sha256(load_model(folder))}
