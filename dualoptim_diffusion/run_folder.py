"""A run folder's beginning: never over something else, and with all recipes that its results came from."""

import shutil
from pathlib import Path

import yaml

from dualoptim_diffusion.checkpoint import atomic_path
from dualoptim_diffusion.config import ClassifierRecipe, PretrainRecipe
from dualoptim_diffusion.errors import InputError
from dualoptim_diffusion.experiment import Experiment
from dualoptim_diffusion.recipes import load_recipe, recipe_sha256


def check_out(out: Path, experiment: Experiment, resume: bool, overwrite: bool) -> None:
    """Checks that a run may write to `out`, changing nothing.

    Raises:
        InputError: if something is there that is no run, or a run that was not asked to be continued or replaced.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / "recipe.yaml").is_file():
        raise InputError(f"{out} exists and is not a run folder; choose another --out.")
    if overwrite:
        return
    if not resume:
        raise InputError(f"The run folder {out} exists; use --resume to go on, --overwrite, or another --out.")
    stored = yaml.safe_load((out / "recipe.yaml").read_text(encoding="utf-8"))
    if recipe_sha256(stored) != experiment.recipe_sha256:
        raise InputError(f"The run in {out} was started with another recipe or class; use --overwrite to start anew.")


def claim(out: Path, experiment: Experiment, resume: bool) -> None:
    """Makes the run folder: the resolved recipe and the recipes it names, so that it can be evaluated anywhere."""
    if out.exists() and not resume:
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    with atomic_path(out / "recipe.yaml") as beside:
        beside.write_text(yaml.safe_dump(experiment.values, sort_keys=False), encoding="utf-8")
    beside, model, judge = experiment.recipe_path, experiment.recipe.model, experiment.recipe.evaluation.classifier
    if model.pretrain is not None:
        _write_recipe(out / Path(model.pretrain).name, load_recipe(PretrainRecipe, model.pretrain, beside=beside))
    if not Path(judge).is_dir():
        _write_recipe(out / Path(judge).name, load_recipe(ClassifierRecipe, judge, beside=beside))


def _write_recipe(path: Path, recipe: PretrainRecipe | ClassifierRecipe) -> None:
    with atomic_path(path) as beside:
        beside.write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
