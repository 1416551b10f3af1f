"""The recipes that a forgetting recipe names: of its base model, its classifier and its features."""

from pathlib import Path
from typing import Any

from dualoptim_diffusion.core.config import ForgetRecipe
from dualoptim_diffusion.core.recipes import load_recipe
from dualoptim_diffusion.core.training_config import ClassifierRecipe, PretrainRecipe
from dualoptim_diffusion.files.pipeline_folder import is_hub_id
from dualoptim_diffusion.files.run_folder import RunFolder


def resolve_sources(
    recipe: ForgetRecipe, path: Path, values: dict[str, Any]
) -> tuple[PretrainRecipe | None, ClassifierRecipe | None, ClassifierRecipe | None]:
    """The recipes of model, classifier and features, where there are any; in `values`, where a run folder has them."""
    pretrain, names = None, RunFolder("")
    if (source := recipe.model.path) is not None:
        values["model"] |= {"path": source if is_hub_id(source) else str(Path(source).resolve()), "pretrain": None}
    elif recipe.model.pretrain is not None:
        pretrain = load_recipe(PretrainRecipe, recipe.model.pretrain, beside=path)
        values["model"]["pretrain"] = names.pretrain_recipe.name
    networks: dict[str, ClassifierRecipe] = {}
    for key, kept in (("classifier", names.classifier_recipe), ("features", names.features_recipe)):
        source = getattr(recipe.evaluation, key)
        if key == "features" and not recipe.evaluation.features_are_trained:
            continue
        if Path(source).is_dir():
            values["evaluation"][key] = str(Path(source).resolve())
        else:
            networks[key] = load_recipe(ClassifierRecipe, source, beside=path)
            values["evaluation"][key] = kept.name
    return pretrain, networks.get("classifier"), networks.get("features")
