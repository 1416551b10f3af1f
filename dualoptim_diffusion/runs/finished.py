"""A finished run: found to be one thing, and opened with what it was made from, wherever that lies now."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dualoptim_diffusion.core.classes import resolve_classes
from dualoptim_diffusion.core.config import ForgetRecipe
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.recipes import load_recipe, read_yaml
from dualoptim_diffusion.files.pipeline_folder import is_hub_id
from dualoptim_diffusion.files.run_folder import RunFolder
from dualoptim_diffusion.runs.experiment import Experiment, open_experiment
from dualoptim_diffusion.runs.models import MODEL_PATH

PLACES = (  # keys that say where something lies; what it holds is compared with what the run was made from
    *("data.path", "data.latents", "model.path"),
    *("evaluation.classifier", "evaluation.features", "evaluation.features_weights"),
)


def open_run(run: Path, overrides: Sequence[str] = (), allowed: Sequence[str] = ()) -> Experiment:
    """The experiment of a finished run.

    Args:
        overrides: `section.key=value` each.
        allowed: the sections that they may change, beside the keys in `PLACES`; the run was made with the others.

    Raises:
        InputError: if there is no run, a part of it is another run's, an override would change how it was made, or the
            images are others.
    """
    stored, recipe = open_recipes(run, overrides, allowed)
    _check_here(run, recipe)
    folder = RunFolder(run)
    experiment = open_experiment(str(folder.recipe), overrides=overrides, stored=stored)
    if experiment.facts.missing is None and "data_sha256" in folder.read_provenance():
        folder.check_origin("data_sha256", experiment.data_sha256, "data set", "data.path=FOLDER")
    return experiment


def open_chain(run: Path, overrides: Sequence[str] = (), allowed: Sequence[str] = ()) -> tuple[Experiment, RunFolder]:
    """The experiment of all classes that a run's model was made to forget, and the run that it began with.

    Where a run's base model is the model of another run, as of `forget --then`, that run's classes are added, and its
    base model takes the place of the run's; and so on. A run that was moved is looked for beside. With `model.path`
    among the overrides the run stands alone.

    Raises:
        InputError: as `open_run` does, or if a run was made with another model than the run before it has now.
    """
    first, places = RunFolder(run), [word for word in overrides if word.startswith(("data.", "evaluation."))]
    if any(word.startswith("model.") for word in overrides):
        return open_run(run, overrides, allowed), first
    before = _run_before(first)
    moved = [] if before is None else [f"model.path={before.model}"]
    experiment = open_run(run, [*overrides, *moved], allowed)
    names = list(experiment.forget_names)
    while before is not None:
        first.check_origin("base_model_sha256", before.read_provenance().get("model_sha256"), "base model", MODEL_PATH)
        first, before = before, _run_before(before)
        moved = [] if before is None else [f"model.path={before.model}"]
        earlier = open_run(first.path, [*places, *moved])
        names = [*earlier.forget_names, *names]
        experiment = replace(
            experiment,
            recipe=experiment.recipe.model_copy(update={"model": earlier.recipe.model}),
            pretrain_recipe=earlier.pretrain_recipe,
            forget_classes=resolve_classes(names, experiment.facts.id2label, {}),
            left_out=earlier.left_out,
        )
    return experiment, first


def _run_before(folder: RunFolder) -> RunFolder | None:
    """The run whose model a run starts from, where it says so or beside the run."""
    content = read_yaml(folder.recipe).get("model") if folder.recipe.is_file() else None
    path = content.get("path") if isinstance(content, dict) else None
    if not isinstance(path, str) or is_hub_id(path):
        return None
    named = [Path(path), Path(path).parent]
    beside = [folder.path.parent / place.name for place in named]
    found = [RunFolder(place) for place in (*named, *beside)]
    return next((one for one in found if one.recipe.is_file() and one.model.is_dir() and one.path != folder.path), None)


def open_recipes(
    run: Path, overrides: Sequence[str] = (), allowed: Sequence[str] = ()
) -> tuple[ForgetRecipe, ForgetRecipe]:
    """The recipe of a finished run as it is stored, and with the overrides; arguments and errors as of `open_run`."""
    folder = RunFolder(run)
    for override in overrides:
        if override.partition(".")[0] not in allowed and override.partition("=")[0] not in PLACES:
            named = " and ".join(allowed or ("data.path", "model.path"))
            raise InputError(f"{override!r} would change how the run was made; override {named} alone.")
    if not folder.recipe.is_file():
        raise InputError(f"There is no run folder {str(run)!r} (it would hold recipe.yaml).")
    folder.check_whole()
    path = str(folder.recipe)
    return load_recipe(ForgetRecipe, path), load_recipe(ForgetRecipe, path, overrides)


def _check_here(run: Path, recipe: ForgetRecipe) -> None:
    """Checks that the images and the base model are where the recipe says."""
    data, model = recipe.data, recipe.model
    of_files = data.name in ("image_folder", "replay")
    for key, what, path in (("data", "images", data.path if of_files else None), ("model", "base model", model.path)):
        if path is not None and not is_hub_id(path) and not Path(path).exists():
            raise InputError(f"The {what} of the run {run} are not in {path}; say where they are: {key}.path=FOLDER.")
