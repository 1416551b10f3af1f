"""Every command on classes of any name: forgotten by what is listed, reopened, drawn, exported and reported."""

import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from dualoptim_diffusion.runs.experiment import open_experiment
from tests.helpers.commands import Outcome, call
from tests.helpers.recipes import RECIPES

Run = Callable[..., Outcome]
FOLDERS = [
    b"cat, black", b"cat, white", b"Cat", b"cat", b"car", b"car (2)", b"#1: 50% {x}", b"caf\xe9", b"\x1b[2Afox\a",
    b"null label", b"none of these", "cafe\u0301".encode(), b"7", b"  ", b"x" * 200, "кошка".encode(), b"null", b"'a\"",
]  # fmt: skip


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny recipe on a folder of classes with such names."""
    root = tmp_path_factory.mktemp("names")
    for k, name in enumerate(FOLDERS):
        folder = os.path.join(os.fsencode(root), b"data", b"train", name)
        os.makedirs(folder)
        for i in range(5):
            Image.fromarray(np.full((8, 8), 12 * k + i, np.uint8)).save(os.path.join(os.fsdecode(folder), f"{i}.png"))
    for name, content in RECIPES.items():
        data = content["data"] | {"name": "image_folder", "path": str(root / "data")}
        (root / name).write_text(yaml.safe_dump(content | {"data": data}))
    return root / "tiny.yaml"


@pytest.fixture(scope="module")
def names(recipe: Path) -> dict[int, str]:
    """The classes as `dualoptim classes` lists them."""
    from dualoptim_diffusion.runs.classes import list_classes

    return list_classes(str(recipe))


def test_the_list_can_be_typed_and_printed_anywhere(dualoptim: Run, recipe: Path, names: dict[int, str]) -> None:
    listed = dualoptim("classes", recipe)
    assert listed.code == 0
    lines = [f"{i}  {name}" for i, name in names.items()]
    assert listed.out.splitlines() == lines
    assert len(lines) == len({*lines}) == len(FOLDERS)
    assert all(ord(c) >= 32 for line in lines for c in line)
    assert json.loads(dualoptim("classes", recipe, "--json").out) == {str(i): name for i, name in names.items()}


@pytest.mark.parametrize("raw", FOLDERS, ids=[repr(name[:20]) for name in FOLDERS])
def test_a_class_is_forgotten_by_its_name_or_by_its_folders(recipe: Path, names: dict[int, str], raw: bytes) -> None:
    label = sorted(map(os.fsdecode, FOLDERS)).index(os.fsdecode(raw))
    for typed in {names[label], os.fsdecode(raw), f"id:{label}"}:
        assert open_experiment(str(recipe), [typed]).forget_names == [names[label]]


def test_the_command_takes_such_a_class(dualoptim: Run, recipe: Path, names: dict[int, str]) -> None:
    planned = dualoptim("forget", recipe, "--class", os.fsdecode(FOLDERS[8]), "--dry-run", "--json")
    assert planned.code == 0, planned.err
    assert len(forgotten := json.loads(planned.out)["forget"]) == 1
    assert {*forgotten} <= {*names.values()}


@pytest.fixture(scope="module")
def run(recipe: Path, names: dict[int, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that forgot those of the most awkward names."""
    out = tmp_path_factory.mktemp("runs") / "run"
    chosen = [names[sorted(map(os.fsdecode, FOLDERS)).index(os.fsdecode(name))] for name in FOLDERS[:12]]
    assert call("forget", recipe, *(word for name in chosen for word in ("--class", name)), "--out", out) == 0
    return out


def test_a_run_on_such_classes_is_read_by_every_command(
    dualoptim: Run, run: Path, names: dict[int, str], tmp_path: Path
) -> None:
    forgotten = json.loads((run / "results.json").read_text())["forgotten"]
    assert len(forgotten) == 12
    assert {*forgotten} <= {*names.values()}
    assert yaml.safe_load((run / "recipe.yaml").read_text())["data"]["forget_classes"] == forgotten
    for words in (
        ["evaluate", run],
        ["report", run],
        ["grid", run, "--class", forgotten[0], "--out", tmp_path / "grid.png"],
        ["classes", run],
        ["export", run, "--out", tmp_path / "exported"],
        ["sample", run, "--out", tmp_path / "drawn", "--png", "--seeds", "0-1"],
    ):
        result = dualoptim(*words)
        assert result.code == 0, result.err
        assert all(ord(c) >= 32 or c in "\n\t\r" for c in result.out + result.err), words
    folders = [path.name for path in (tmp_path / "drawn" / "png").iterdir()]
    assert len({unicodedata.normalize("NFC", name).casefold() for name in folders}) == len(FOLDERS)
    assert all(len(list((tmp_path / "drawn" / "png" / name).iterdir())) == 2 for name in folders)


def test_the_drawn_images_of_such_classes_are_read_back_as_real_ones(dualoptim: Run, run: Path, tmp_path: Path) -> None:
    assert dualoptim("sample", run, "--out", tmp_path / "drawn", "--png", "--seeds", "0-1").code == 0
    result = dualoptim("evaluate", run, "--real-images", tmp_path / "drawn" / "png")
    assert result.code == 0, result.err


def test_what_is_no_class_is_said_without_raw_characters(dualoptim: Run, recipe: Path) -> None:
    result = dualoptim("forget", recipe, "--class", "\x1b[2Jno\n" + "x" * 5000, "--dry-run")
    assert result.code == 1
    assert "\x1b" not in result.err
    assert len(result.err) < 3000
