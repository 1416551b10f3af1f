"""A finished run outlives what it was made from being moved: it is known by content, and only by content."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from string import Template
from typing import NamedTuple

import pytest

from dualoptim_diffusion.core.errors import EXIT_STOPPED
from tests.helpers.commands import Outcome, call, refused
from tests.helpers.photos import write_photos, write_recipes

Run = Callable[..., Outcome]
AUDIT = "audit $run --probe weights"


class Case(NamedTuple):
    """A command on a finished run, after something was moved.

    Attributes:
        command: with $moved (the images), $other (other images), $run, $base and $judge in it.
        sentence: of the refusal; empty where it succeeds.
        empty_cache: nothing is kept.
    """

    claim: str
    command: str
    sentence: str = ""
    empty_cache: bool = False


HERE, OTHER = "data.path=$moved", "data.path=$other"
CASES = [
    Case("evaluate takes the images from where they are now", f"evaluate $run {HERE}"),
    Case("grid takes the images from where they are now", f"grid $run {HERE}"),
    Case("audit takes the images from where they are now", f"{AUDIT} {HERE}"),
    Case("a report needs no images", "report $run"),
    Case("a sample needs no images", "sample $run --class dog --seeds 0 --out $tmp/samples"),
    Case("evaluate names the override that mends it", "evaluate $run", "data.path=FOLDER"),
    Case("grid names the override that mends it", "grid $run", "data.path=FOLDER"),
    Case("audit names the override that mends it", AUDIT, "data.path=FOLDER"),
    Case("evaluate refuses other images", f"evaluate $run {OTHER}", "The data set is not the one"),
    Case("grid refuses other images", f"grid $run {OTHER}", "The data set is not the one"),
    Case("audit refuses other images", f"{AUDIT} {OTHER}", "The data set is not the one"),
    Case("an evaluation without a cache makes all anew", f"evaluate $run {HERE}", empty_cache=True),
    Case("a base model may be a folder now", f"evaluate $run {HERE} model.path=$base", empty_cache=True),
    Case("so may a judge", f"evaluate $run {HERE} evaluation.classifier=$judge", empty_cache=True),
    Case("an audit takes a judge's folder", f"{AUDIT} {HERE} evaluation.classifier=$judge", empty_cache=True),
    Case("grid takes a base model's folder", f"grid $run {HERE} model.path=$base", empty_cache=True),
    Case("another base model is refused", f"evaluate $run {HERE} model.path=$run", "made to forget 'cat' already"),
    Case("what made the run stays", f"grid $run {HERE} method.num_steps=2", "override data.path and model.path alone"),
]


class World(NamedTuple):
    root: Path
    run: Path
    names: dict[str, Path]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A finished run, and copies of its models."""
    root = tmp_path_factory.mktemp("world")
    recipe = write_recipes(root / "recipes", write_photos(root / "data"))
    names = {"run": root / "run", "base": root / "base", "judge": root / "judge", "moved": root / "moved"}
    names["other"] = write_photos(root / "other", seed=1)
    assert call("forget", recipe, "--class", "cat", "--out", names["run"]) == 0
    assert call("pretrain", recipe.with_name("p.yaml"), "--out", names["base"]) == 0
    assert call("train-classifier", recipe.with_name("c.yaml"), "--out", names["judge"]) == 0
    return World(root, names["run"], names)


@pytest.fixture
def moved(world: World, tmp_path: Path) -> Iterator[dict[str, Path]]:
    """The images lie elsewhere, and the run is copied elsewhere too."""
    os.rename(world.root / "data", world.names["moved"])
    yield world.names | {"run": shutil.copytree(world.run, tmp_path / "copy"), "tmp": tmp_path}
    os.rename(world.names["moved"], world.root / "data")


def figures(run: Path) -> dict[str, object]:
    results = json.loads((run / "results.json").read_text())
    return {key: results[key] for key in ("original", "unlearned", "protocol_hash")}


@pytest.mark.parametrize("moving", CASES, ids=lambda moving: moving.claim)
def test_a_run_is_known_by_what_it_was_made_from_and_not_by_where_that_lay(
    moving: Case, moved: dict[str, Path], world: World, dualoptim: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    if moving.empty_cache:
        monkeypatch.setenv("DUALOPTIM_CACHE", str(moved["tmp"] / "cache"))
    outcome = dualoptim(*Template(moving.command).substitute(moved).split())
    if moving.sentence:
        refused(outcome, moving.sentence)
    else:
        assert outcome.code == 0, outcome.err
    assert figures(moved["run"]) == figures(world.run)
    assert not (moved["run"] / "evaluations").exists()


def test_the_same_images_under_another_path_are_not_trained_on_anew(
    moved: dict[str, Path], world: World, dualoptim: Run, cache: Path
) -> None:
    before = {path for kind in ("models", "classifiers") for path in (cache / kind).iterdir() if path.is_dir()}
    for verb, name in (("pretrain", "p"), ("train-classifier", "c")):
        assert dualoptim(verb, world.root / "recipes" / f"{name}.yaml", f"data.path={moved['moved']}").code == 0
    assert before == {path for kind in ("models", "classifiers") for path in (cache / kind).iterdir() if path.is_dir()}


def test_a_run_goes_on_with_images_that_were_moved(world: World, dualoptim: Run, tmp_path: Path) -> None:
    words = ("forget", world.root / "recipes" / "f.yaml", "--class", "cat", "--out", tmp_path / "run")
    assert dualoptim(*words, "--stop-after", 2).code == EXIT_STOPPED
    there = shutil.copytree(world.root / "data", tmp_path / "data")
    refused(dualoptim(*words, "--resume", f"data.path={world.names['other']}"), "The data set is not the one")
    assert dualoptim(*words, "--resume", f"data.path={there}").code == 0
    assert figures(tmp_path / "run") == figures(world.run)
    assert dualoptim("evaluate", tmp_path / "run").code == 0


@pytest.mark.parametrize("verb", ["evaluate", "grid", "audit", "report"])
def test_a_run_is_the_same_from_any_working_directory_and_home(
    verb: str, world: World, dualoptim: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(world.run, tmp_path / "runs" / "x")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    outcome = dualoptim(verb, "../runs/x", *(("--probe", "weights") if verb == "audit" else ()))
    assert outcome.code == 0, outcome.err
    assert figures(tmp_path / "runs" / "x") == figures(world.run)
