"""`dualoptim train-classifier`: the judge from its recipe."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from dualoptim_diffusion.core.recipes import load_recipe
from dualoptim_diffusion.core.training_config import ClassifierRecipe
from dualoptim_diffusion.files.atomic import copy_folder
from dualoptim_diffusion.judge.classifier import Classifier
from dualoptim_diffusion.runs.obtain import make_accelerator, obtain_trained_classifier


def open_classifier_recipe(recipe: str, overrides: Sequence[str]) -> tuple[ClassifierRecipe, Accelerator]:
    """The recipe, and this process's accelerator.

    Raises:
        InputError: if either cannot be had.
    """
    loaded = load_recipe(ClassifierRecipe, recipe, overrides)
    return loaded, make_accelerator(loaded.run.device)


def make_classifier(recipe: ClassifierRecipe, accelerator: Accelerator, out: Path | None) -> dict[str, Any] | None:
    """Trains the classifier or finds it in the cache.

    Args:
        out: where to copy its folder.

    Returns:
        Folder and accuracy on held-out real images, on the main process.
    """
    folder = obtain_trained_classifier(recipe, accelerator)
    if not accelerator.is_main_process:
        return None
    folder = copy_folder(folder, out) if out else folder
    info = Classifier.load(folder).info
    return {"classifier": str(folder), "accuracy": info.accuracy, "n_held_out": info.n_held_out}
