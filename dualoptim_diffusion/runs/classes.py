"""`dualoptim classes`: the classes of a recipe's data or of a model."""

from pathlib import Path

from dualoptim_diffusion.core.config import ForgetRecipe
from dualoptim_diffusion.core.recipes import load_recipe


def list_classes(source: str) -> dict[int, str]:
    """Names by id.

    Args:
        source: a recipe, a run folder or a pipeline folder.

    Raises:
        InputError: if it is none of these.
    """
    if Path(source).is_dir():
        from dualoptim_diffusion.models.folders import model_folder
        from dualoptim_diffusion.models.loading import load_model

        return load_model(model_folder(Path(source))).id2label
    from dualoptim_diffusion.data import data_facts

    return data_facts(load_recipe(ForgetRecipe, source).data).id2label
