"""A run folder's beginning: never over something else, and with all recipes that its results came from."""

import glob
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dualoptim_diffusion.checkpoint import atomic_path, write_json
from dualoptim_diffusion.errors import InputError
from dualoptim_diffusion.experiment import Experiment
from dualoptim_diffusion.recipes import read_yaml, recipe_sha256


def check_out(out: Path, experiment: Experiment, resume: bool, overwrite: bool, mask_path: Path | None = None) -> None:
    """Checks that a run may write to `out`, changing nothing.

    Raises:
        InputError: if something is there that is no run, or a run that was not asked to be continued or replaced, or
            one that holds an input of this run.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
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


def claim(out: Path, experiment: Experiment, origin: Mapping[str, Any], resume: bool) -> None:
    """Makes the run folder in one piece: the resolved recipe, the recipes it names, and where the run comes from.

    A run that goes on keeps its recipes and notes its new origin.
    """
    recipes = {"recipe.yaml": experiment.values}
    named = (("pretrain.yaml", experiment.pretrain_recipe), ("classifier.yaml", experiment.classifier_recipe))
    recipes |= {name: recipe.model_dump(mode="json") for name, recipe in named if recipe is not None}
    for left in out.parent.glob(f".{glob.escape(out.name)}.*.part"):  # of a killed run: nobody else may write here now
        shutil.rmtree(left)
    if resume and (out / "recipe.yaml").is_file():
        write_json(out / "provenance.json", origin)
        return
    with atomic_path(out) as beside:
        beside.mkdir()
        for name, values in recipes.items():
            (beside / name).write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        write_json(beside / "provenance.json", origin)
