"""A run folder's beginning: never over something else, and with all recipes that its results came from."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.recipes import read_yaml, recipe_sha256
from dualoptim_diffusion.files.atomic import atomic_path
from dualoptim_diffusion.files.json_files import write_json
from dualoptim_diffusion.runs.experiment import Experiment

BEGINNING = ("recipe.yaml", "pretrain.yaml", "classifier.yaml", "provenance.json")  # what a run folder has at first


def check_out(out: Path, experiment: Experiment, resume: bool, overwrite: bool, mask_path: Path | None = None) -> None:
    """Checks that a run may write to `out`, changing nothing.

    Raises:
        InputError: if something is there that is no run, or a run that was not asked to be continued or replaced, or
            one that holds an input of this run.
    """
    if not out.exists() or (out.is_dir() and _is_beginning(out)):
        return
    if not ((out / "recipe.yaml").is_file() and (out / "provenance.json").is_file()):
        raise InputError(f"{out} exists and is not a run folder; choose another --out.")
    if overwrite:
        for source in (experiment.recipe_path, experiment.recipe.model.path, experiment.recipe.evaluation.classifier):
            if source is not None and Path(source).exists() and _inside(Path(source), out):
                raise InputError(f"--overwrite would delete {source}, which this run needs; choose another --out.")
        if mask_path is not None and _inside(mask_path, out):
            raise InputError(f"--overwrite would delete {mask_path}, which this run needs; choose another --out.")
        return
    if not resume:
        raise InputError(f"The run folder {out} exists; use --resume to go on, --overwrite, or another --out.")
    if recipe_sha256(read_yaml(out / "recipe.yaml")) != experiment.recipe_sha256:
        raise InputError(f"The run in {out} was started with another recipe or class; use --overwrite to start anew.")


def _inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _is_beginning(out: Path) -> bool:
    """Whether a folder is empty, or a run was killed while it claimed it."""
    names = {path.name for path in out.iterdir()}
    begun = {name for name in names if name in BEGINNING or (name.startswith(".") and name.endswith(".part"))}
    return names == begun and not {"recipe.yaml", "provenance.json"} <= names


def claim(out: Path, experiment: Experiment, origin: Mapping[str, Any], resume: bool) -> None:
    """Makes the run folder: the resolved recipe, the recipes it names and, at last, where the run comes from.

    A run that goes on keeps its recipes and notes its new origin. The folder itself stays, for it may be mounted.
    """
    recipes = {"recipe.yaml": experiment.values}
    named = (("pretrain.yaml", experiment.pretrain_recipe), ("classifier.yaml", experiment.classifier_recipe))
    recipes |= {name: recipe.model_dump(mode="json") for name, recipe in named if recipe is not None}
    out.mkdir(parents=True, exist_ok=True)
    if not (resume and (out / "provenance.json").is_file()):
        for path in sorted(out.iterdir(), key=lambda path: path.name in BEGINNING):  # a run folder until the last
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        for name, values in recipes.items():
            with atomic_path(out / name) as beside:
                beside.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    write_json(out / "provenance.json", origin)
