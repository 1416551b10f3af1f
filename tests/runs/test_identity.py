"""A run folder is one thing: no command reads a part that is another run's; a word means one recipe everywhere."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from PIL import Image

from dualoptim_diffusion.core.config import ForgetRecipe
from dualoptim_diffusion.core.errors import EXIT_STOPPED, InputError
from dualoptim_diffusion.core.recipes import load_recipe, read_yaml, recipe_folder
from tests.helpers.commands import Outcome, call, refused
from tests.helpers.photos import write_photos, write_recipes

Run = Callable[..., Outcome]
COMMANDS = {
    "evaluate": ("evaluate", "$run"),
    "evaluate in another way": ("evaluate", "$run", "evaluation.protocol=quick"),
    "grid": ("grid", "$run"),
    "audit": ("audit", "$run", "--probe", "weights"),
    "report": ("report", "$run"),
    "compare": ("report", "$run", "$own", "--out", "$tmp/report"),
    "take as control": ("report", "$own", "--control", "$run", "--out", "$tmp/report"),
    "attack as control": ("audit", "$own", "--probe", "weights", "--control", "$run"),
    "sample": ("sample", "$run", "--class", "one", "--seeds", "0", "--out", "$tmp/samples"),
}
EVERY = (*COMMANDS,)
DRAWING = ("evaluate", "grid")
PARTS = {  # of another run: which commands refuse them, and what they name
    "recipe.yaml": (EVERY, "recipe.yaml is not of the run"),
    "provenance.json": (EVERY, "recipe.yaml is not of the run"),
    "model": (EVERY, "model is not of the run"),
    "results.json": (EVERY, "results.json is not of the run"),
    "audit.json": (EVERY, "audit.json is not of the run"),
    "evaluations": (EVERY, ".json is not of the run"),
    "samples": (DRAWING, "drawn from other weights"),
    "pretrain.yaml": (("evaluate", "grid", "audit"), "The base model is not the one"),
    "classifier.yaml": (("evaluate", "audit"), "The classifier is not the one"),
    "mask.safetensors": (("audit",), "is of another model"),
}


@pytest.fixture(scope="module")
def runs(tiny: str, recipes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two finished runs, evaluated in two ways and audited; the other has another class, base model and judge."""
    root = tmp_path_factory.mktemp("identity")
    for name in ("pretrain", "classifier"):
        other = read_yaml(recipes / f"tiny_{name}.yaml") | {"run": {"device": "cpu", "seed": 3}}
        (root / f"{name}.yaml").write_text(yaml.safe_dump(other))
    changes = (f"model.pretrain={root}/pretrain.yaml", f"evaluation.classifier={root}/classifier.yaml")
    found = (root / "three", root / "four")
    for out, words in zip(found, ((), changes), strict=True):
        assert call("forget", tiny, "--class", out.name, "--out", out, *words) == 0
        assert call("evaluate", out, "evaluation.protocol=quick", "sampling.seeds=0-1") == 0
        assert call("audit", out, "--probe", "weights") == 0
    return found


def exchange(part: Path, other: Path) -> None:
    if part.is_dir():
        shutil.rmtree(part)
        shutil.copytree(other, part)
    else:
        shutil.copyfile(other, part)


@pytest.mark.parametrize(
    ("part", "command"), [(part, command) for part, (commands, _) in PARTS.items() for command in commands]
)
def test_a_part_of_another_run_is_refused_by_its_name(
    part: str, command: str, runs: tuple[Path, Path], dualoptim: Run, tmp_path: Path
) -> None:
    own, other = runs
    run = shutil.copytree(own, tmp_path / "run")
    exchange(run / part, other / part)
    names = {"$run": run, "$own": own}
    words = [names.get(word, word.replace("$tmp", str(tmp_path))) for word in COMMANDS[command]]
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    refused(dualoptim(*words), PARTS[part][1])
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("key", ["recipe_sha256", "model_files", "data_sha256"])
def test_a_run_of_a_version_that_recorded_less_is_evaluated(
    key: str, runs: tuple[Path, Path], dualoptim: Run, tmp_path: Path
) -> None:
    run = shutil.copytree(runs[0], tmp_path / "run")
    provenance = json.loads((run / "provenance.json").read_text())
    del provenance[key]
    (run / "provenance.json").write_text(json.dumps(provenance))
    for command in ("evaluate", "report"):
        assert dualoptim(command, run).code == 0


def repaint(data: Path) -> None:
    for path in (data / "train" / "dog").iterdir():
        Image.fromarray(np.full((8, 8, 3), 255, np.uint8)).save(path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "painted over": repaint,
    "one fewer": lambda data: (data / "train" / "dog" / "5.png").unlink(),
    "one more": lambda data: shutil.copy(data / "train" / "dog" / "5.png", data / "train" / "dog" / "6.png"),
    "of another class": lambda data: (data / "train" / "dog" / "5.png").rename(data / "train" / "cat" / "6.png"),
    "in another order": lambda data: (data / "train" / "dog" / "0.png").rename(data / "train" / "dog" / "z.png"),
    "other held-out ones": lambda data: (data / "test" / "dog" / "0.png").unlink(),
    "exchanged": lambda data: [shutil.rmtree(data), write_photos(data, seed=2)],
    "held-out ones gone": lambda data: shutil.rmtree(data / "test"),
}


@pytest.mark.parametrize("command", ["resume", "evaluate", "grid", "audit"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_run_goes_on_with_its_own_images_alone(
    change: str, command: str, dualoptim: Run, tmp_path: Path, photographed: Path
) -> None:
    here = shutil.copytree(photographed, tmp_path / "here")
    recipe = write_recipes(here / "recipes", here / "data")
    CHANGES[change](here / "data")
    moved = f"data.path={here / 'data'}"
    words = {
        "resume": ("forget", recipe, "--class", "cat", "method.name=finetune", "method.mask=null", "--resume", "--out",
                   here / "stopped"),
        "evaluate": ("evaluate", here / "run", moved),
        "grid": ("grid", here / "run", moved),
        "audit": ("audit", here / "run", moved, "--probe", "weights"),
    }  # fmt: skip
    refused(dualoptim(*words[command]), "The data set is not the one that the run")


@pytest.fixture(scope="module")
def photographed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs, a finished run on them and a stopped one that reads no mask."""
    root = tmp_path_factory.mktemp("photographed")
    recipe = write_recipes(root / "recipes", write_photos(root / "data"))
    words = ("forget", recipe, "--class", "cat", "method.name=finetune", "method.mask=null", "--out")
    assert call(*words, root / "stopped", "--stop-after", 2) == EXIT_STOPPED
    assert call(*words, root / "run") == 0
    return root


class Word(NamedTuple):
    """A value of evaluation.classifier, and what it means; all is below a folder that holds `recipes` and `work`.

    Attributes:
        there: files (.yaml) and folders of that name.
        means: relative to the folder; empty where it stays a word.
        typed: as an override, in `work`; else it is written in recipes/mine.yaml.
    """

    claim: str
    value: str
    there: tuple[str, ...]
    means: str
    typed: bool = False


WORDS = [
    Word("a recipe beside the recipe", "judge.yaml", ("recipes/judge.yaml",), "recipes/judge.yaml"),
    Word("without its ending", "judge", ("recipes/judge.yaml",), "recipes/judge.yaml"),
    Word("a folder beside the recipe", "judge", ("recipes/judge",), "recipes/judge"),
    Word("a recipe before a folder", "judge", ("recipes/judge", "recipes/judge.yaml"), "recipes/judge.yaml"),
    Word("not what lies in the working directory", "judge", ("work/judge", "work/judge.yaml"), ""),
    Word("a packaged recipe, whatever lies elsewhere", "digits_classifier", ("work/digits_classifier",), "packaged"),
    Word("one beside the recipe before a packaged one", "digits_classifier", ("recipes/digits_classifier.yaml",),
         "recipes/digits_classifier.yaml"),
    Word("a path from the recipe", "../judge", ("judge", "work/judge"), "judge"),
    Word("a path from the recipe, with a dot", "./judge", ("recipes/judge", "work/judge"), "recipes/judge"),
    Word("typed: a folder in the working directory", "judge", ("work/judge",), "work/judge", typed=True),
    Word("typed: a recipe in the working directory", "judge.yaml", ("work/judge.yaml",), "work/judge.yaml", typed=True),
    Word("typed: a recipe before a folder", "judge", ("work/judge", "recipes/judge.yaml"), "recipes/judge.yaml",
         typed=True),
    Word("typed: a packaged recipe before a folder", "digits_classifier", ("work/digits_classifier",), "packaged",
         typed=True),
    Word("typed: a path is a path", "./judge", ("work/judge", "recipes/judge.yaml"), "work/judge", typed=True),
    Word("typed: so is one that ends in a slash", "judge/", ("work/judge", "recipes/judge.yaml"), "work/judge",
         typed=True),
]  # fmt: skip


@pytest.mark.parametrize("word", WORDS, ids=lambda word: word.claim)
def test_a_word_in_a_recipe_means_the_same_from_any_working_directory(
    word: Word, recipes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("recipes", "work"):
        (tmp_path / name).mkdir()
    for name in word.there:
        (tmp_path / name).write_text("{}") if name.endswith(".yaml") else (tmp_path / name).mkdir()
    content = read_yaml(recipes / "tiny.yaml")
    content["evaluation"]["classifier"] = "other" if word.typed else word.value
    (tmp_path / "recipes" / "mine.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path / "work")
    overrides = [f"evaluation.classifier={word.value}"] if word.typed else []
    found = load_recipe(ForgetRecipe, "../recipes/mine.yaml", overrides).evaluation.classifier
    packaged = recipe_folder() / "digits_classifier.yaml"
    expected = packaged if word.means == "packaged" else tmp_path / word.means
    assert found == (str(expected.resolve()) if word.means else word.value)


def test_features_named_after_a_network_are_no_folder_of_the_recipe_and_paths_are_from_the_recipe(
    recipes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "resnet18").mkdir()
    content = read_yaml(recipes / "tiny.yaml")
    content["evaluation"] |= {"features": "resnet18", "features_weights": "weights.safetensors"}
    content["data"] = {"name": "image_folder", "path": "photos"}
    content["model"] = {"path": "facebook/DiT-XL-2-256"}
    (tmp_path / "recipes" / "mine.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path)
    loaded = load_recipe(ForgetRecipe, "recipes/mine.yaml")
    assert not loaded.evaluation.features_are_trained
    assert loaded.evaluation.features_weights == str(tmp_path / "recipes" / "weights.safetensors")
    assert loaded.data.path == str(tmp_path / "recipes" / "photos")
    assert loaded.model.path == "facebook/DiT-XL-2-256"


def test_a_word_that_is_no_recipe_is_refused_by_its_name(recipes: Path, tmp_path: Path) -> None:
    from dualoptim_diffusion.runs.experiment import open_experiment

    with pytest.raises(InputError, match="There is no recipe 'nowhere'"):
        open_experiment(str(recipes / "tiny.yaml"), ["three"], ["evaluation.classifier=nowhere"])
