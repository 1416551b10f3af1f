"""The beginning of a run: never over something else, and with all recipes that its results come from."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.recipes import read_yaml, recipe_sha256
from dualoptim_diffusion.files.atomic import atomic_path, next_of
from dualoptim_diffusion.files.json_files import write_json
from dualoptim_diffusion.files.run_folder import RunFolder
from dualoptim_diffusion.runs.experiment import Experiment


def check_out(
    folder: RunFolder, experiment: Experiment, resume: bool, overwrite: bool, mask_path: Path | None = None
) -> RunFolder:
    """Checks that a run may write to a folder, changing nothing.

    Returns:
        Where it writes until it is whole: inside the folder, if that holds a run that it will replace.

    Raises:
        InputError: if something is there that is no run, or a run that was not asked to be continued or replaced, or
            one that holds an input of this run.
    """
    out = folder.path
    if not out.exists() or (out.is_dir() and _is_beginning(folder)):
        return folder
    replacing = RunFolder(next_of(out))
    if not folder.is_run:
        raise InputError(f"{out} exists and is not a run folder; choose another --out.")
    if overwrite:
        recipe = experiment.recipe
        networks = recipe.evaluation.classifier, recipe.evaluation.features
        for source in (experiment.recipe_path, recipe.model.path, *networks, mask_path):
            if source is not None and Path(source).exists() and _inside(Path(source), out):
                raise InputError(f"--overwrite would delete {source}, which this run needs; choose another --out.")
        return replacing
    if not resume:
        raise InputError(f"The run folder {out} exists; use --resume to continue, --overwrite, or another --out.")
    begun = [run for run in (replacing, folder) if run.is_run and _is_of(run, experiment)]
    if not begun:
        raise InputError(f"The run in {out} was started with another recipe or class; use --overwrite to start again.")
    if "data_sha256" in begun[0].read_provenance():
        begun[0].check_origin("data_sha256", experiment.data_sha256, "data set", "data.path=FOLDER")
    return begun[0]


def _is_of(run: RunFolder, experiment: Experiment) -> bool:
    return recipe_sha256(read_yaml(run.recipe)) == experiment.recipe_sha256


def _inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _beginning(folder: RunFolder) -> set[str]:
    """Names of the files that a run folder has at first."""
    recipes = (folder.recipe, folder.pretrain_recipe, folder.classifier_recipe, folder.features_recipe)
    return {path.name for path in (*recipes, folder.provenance)}


def _is_beginning(folder: RunFolder) -> bool:
    """Whether a folder is empty, or a run was killed while it claimed it."""
    names = {path.name for path in folder.path.iterdir()}
    begun = {n for n in names if n in _beginning(folder) or (n.startswith(".") and n.endswith(".part"))}
    return names == begun and not folder.is_run


def claim(folder: RunFolder, experiment: Experiment, origin: Mapping[str, Any], resume: bool) -> None:
    """Makes the run folder: the resolved recipe, the recipes it names and, last, where the run comes from.

    A resumed run keeps its recipes and records its new origin. The folder itself is not replaced: it may be a mount.
    """
    recipes: dict[Path, dict[str, Any]] = {folder.recipe: experiment.values}
    named = (
        (folder.pretrain_recipe, experiment.pretrain_recipe),
        (folder.classifier_recipe, experiment.classifier_recipe),
        (folder.features_recipe, experiment.features_recipe),
    )
    recipes |= {path: recipe.model_dump(mode="json") for path, recipe in named if recipe is not None}
    folder.path.mkdir(parents=True, exist_ok=True)
    if not (resume and folder.provenance.is_file()):
        beginning = _beginning(folder)
        for path in sorted(folder.path.iterdir(), key=lambda path: path.name in beginning):  # a run until the last
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        for path, values in recipes.items():
            with atomic_path(path) as beside:
                beside.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    write_json(folder.provenance, origin)
