"""`dualoptim encode`: all latents of a recipe's training images, once."""

from collections.abc import Sequence
from typing import Any

from dualoptim_diffusion.core.config import ForgetRecipe
from dualoptim_diffusion.core.recipes import find_recipe, load_recipe
from dualoptim_diffusion.data import load_dataset
from dualoptim_diffusion.data.encoding import encode_all
from dualoptim_diffusion.runs.obtain import make_accelerator, obtain_model
from dualoptim_diffusion.runs.sources import resolve_sources


def encode_recipe(recipe: str, overrides: Sequence[str]) -> dict[str, Any] | None:
    """Encodes every training image, mirrored too where the recipe mirrors; an interrupted call continues.

    Returns:
        Folder, counts and bytes, on the main process.

    Raises:
        InputError: if the model has no autoencoder, or the folder holds something else.
    """
    path, loaded = find_recipe(recipe), load_recipe(ForgetRecipe, recipe, overrides)
    sources = resolve_sources(loaded, path, loaded.model_dump())
    accelerator = make_accelerator(loaded.run.device)
    dataset, _ = load_dataset(loaded.data)
    model = obtain_model(loaded.model, sources.pretrain, accelerator)
    model.prepare(accelerator)
    written = encode_all(dataset, loaded.data, model, accelerator)
    return written if accelerator.is_main_process else None
