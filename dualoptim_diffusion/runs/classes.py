"""`dualoptim classes`: the classes of a recipe's data or of a model; torch is loaded for ImageNet and replays alone."""

from collections.abc import Sequence
from pathlib import Path

from dualoptim_diffusion.core.classes import CIFAR10, DIGITS
from dualoptim_diffusion.core.config import ForgetRecipe
from dualoptim_diffusion.core.recipes import load_recipe
from dualoptim_diffusion.files.class_table import list_images
from dualoptim_diffusion.files.pipeline_folder import class_names, model_folder, pipeline_folder

FIXED = {"digits": DIGITS, "cifar10": CIFAR10}


def list_classes(source: str) -> dict[int, str]:
    """Names by id.

    Args:
        source: a recipe, a run folder or a pipeline folder.

    Raises:
        InputError: if it is none of these.
    """
    if (names := known_classes(source)) is not None:
        return names
    if Path(source).is_dir():
        return _names_of_network(model_folder(Path(source)))
    from dualoptim_diffusion.data import data_facts

    return data_facts(load_recipe(ForgetRecipe, source).data).id2label


def known_classes(source: str, overrides: Sequence[str] = ()) -> dict[int, str] | None:
    """The same without torch; None where a network, ImageNet's list or replayed images would have to tell.

    Args:
        overrides: of the recipe.
    """
    if Path(source).is_dir():
        with pipeline_folder(folder := model_folder(Path(source))):
            return class_names(folder) or None
    data = load_recipe(ForgetRecipe, source, overrides).data
    if data.name in FIXED:
        return dict(enumerate(FIXED[data.name]))
    if data.name == "image_folder":
        assert data.path is not None  # the recipe has checked it
        return list_images(data.path).id2label
    return None


def _names_of_network(folder: Path) -> dict[int, str]:
    """Ids as names, of a stock folder, whose weights say how many there are."""
    from dualoptim_diffusion.models.loading import load_model

    return load_model(folder).id2label
