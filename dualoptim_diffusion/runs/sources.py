"""The recipes that a forgetting recipe names: of its base model, its classifier and its features."""

from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from dualoptim_diffusion.core.config import ForgetRecipe
from dualoptim_diffusion.core.places import is_place
from dualoptim_diffusion.core.recipes import load_recipe
from dualoptim_diffusion.core.training_config import ClassifierRecipe, PretrainRecipe
from dualoptim_diffusion.files.pipeline_folder import is_hub_id
from dualoptim_diffusion.files.run_folder import RunFolder

Named = TypeVar("Named", PretrainRecipe, ClassifierRecipe)


class Sources(NamedTuple):
    """The recipes; None where the model or the network is given otherwise."""

    pretrain: PretrainRecipe | None
    classifier: ClassifierRecipe | None
    features: ClassifierRecipe | None


def resolve_sources(
    recipe: ForgetRecipe, path: Path, values: dict[str, Any], stored: ForgetRecipe | None = None
) -> Sources:
    """The recipes that are named; in `values`, where a run folder has them.

    Args:
        path: of the recipe.
        stored: of a finished run its recipe, before `recipe` said where things lie now.

    Raises:
        InputError: if one cannot be read.
    """
    pretrain, names = None, RunFolder("")
    if (stored or recipe).model.path is None and recipe.model.pretrain is not None:
        pretrain = _moved(load_recipe(PretrainRecipe, recipe.model.pretrain, beside=path), recipe, stored)
    values["model"]["pretrain"] = names.pretrain_recipe.name if pretrain else None
    if (source := recipe.model.path) is not None:
        values["model"]["path"] = source if is_hub_id(source) else str(Path(source).resolve())
    networks: dict[str, ClassifierRecipe] = {}
    for key, kept in (("classifier", names.classifier_recipe), ("features", names.features_recipe)):
        source = getattr(recipe.evaluation, key)
        if key == "features" and not recipe.evaluation.features_are_trained:
            continue
        gone = stored is not None and not Path(source).exists()  # who needs it says so
        if is_place(source) and (Path(source).is_dir() or gone):
            continue
        networks[key] = _moved(load_recipe(ClassifierRecipe, source, beside=path), recipe, stored)
        values["evaluation"][key] = kept.name
    return Sources(pretrain, networks.get("classifier"), networks.get("features"))


def _moved(named: Named, recipe: ForgetRecipe, stored: ForgetRecipe | None) -> Named:
    """A recipe that reads the run's own images reads them where they lie now."""
    if stored is None or named.data.path != stored.data.path:
        return named
    return named.model_copy(update={"data": named.data.model_copy(update={"path": recipe.data.path})})
