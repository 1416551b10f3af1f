"""`dualoptim init`: from a folder of one's own images to a report, without touching YAML."""

import csv
import json
import shlex
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import yaml
from PIL import Image

from dualoptim_diffusion.core.config import ForgetRecipe
from dualoptim_diffusion.core.recipes import load_recipe
from dualoptim_diffusion.files.class_folders import list_folder
from dualoptim_diffusion.models import ConditionalDDPM, UNetModule
from dualoptim_diffusion.runs.starter import _recipes
from tests.helpers.commands import Outcome

Command = Callable[..., Outcome]
CLASSIFIER = {"classifier": {"name": "test_resnet", "image_size": 32}, "training": {"num_steps": 1}}
CLASSES = ("apple, red", "pear", "id:7")


def write_photos(root: Path, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Path:
    source = np.random.default_rng(0)
    for name in CLASSES:
        (root / name).mkdir(parents=True)
        for i in range(10):
            pixels = source.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
            Image.fromarray(pixels).convert(mode).save(root / name / f"{i}.png")
    return root


def as_folder(root: Path) -> Path:
    return write_photos(root)


def as_train_folder(root: Path) -> Path:
    write_photos(root / "train")
    return root


def as_table(root: Path) -> Path:
    photos = write_photos(root / "flat")
    with (table := root / "labels.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file_name", "label"])
        writer.writerows([path.relative_to(root), path.parent.name] for path in sorted(photos.rglob("*.png")))
    return table


def as_dataset(root: Path) -> Path:
    """As `save_to_disk` of the package `datasets` writes it."""
    paths = sorted(write_photos(root / "flat").rglob("*.png"))
    names = sorted(CLASSES)
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    columns = {"image": [str(path) for path in paths], "label": [path.parent.name for path in paths]}
    datasets.Dataset.from_dict(columns, kinds).save_to_disk(root / "saved")
    return root / "saved"


@pytest.mark.parametrize(
    "write", [as_folder, pytest.param(as_train_folder, marks=pytest.mark.slow), as_table, as_dataset]
)
def test_the_printed_commands_lead_to_a_report(
    write: Callable[[Path], Path], tmp_path: Path, dualoptim: Command
) -> None:
    (tmp_path / "photos").mkdir()
    made = dualoptim("init", write(tmp_path / "photos"), "--out", tmp_path / "mine", "--json")
    assert made.code == 0, made.err
    content = json.loads(made.out)
    assert content["found"]["counts"] == dict.fromkeys(sorted(CLASSES), 10)
    for name in ("pretrain", "classifier", "features"):  # a few steps, so that it runs in seconds
        path = tmp_path / "mine" / f"{name}.yaml"
        recipe = yaml.safe_load(path.read_text())
        recipe["training"]["num_steps"] = 2
        path.write_text(yaml.safe_dump(recipe))
    dry, run = (shlex.split(command) for command in content["next"])
    assert dualoptim(*dry[1:]).code == 0
    quick = ("method.num_steps=2", "method.mask.num_batches=1", "sampling.seeds=0-5", "sampling.num_inference_steps=2")
    done = dualoptim(*run[1:], *quick, "evaluation.min_accuracy=0", "data.batch_size=4")
    assert done.code == 0, done.err
    assert (tmp_path / "mine" / "run" / "report.html").stat().st_size > 1000


def test_a_model_and_a_classifier_of_ones_own_leave_one_recipe_and_features(tmp_path: Path, dualoptim: Command) -> None:
    photos, model = write_photos(tmp_path / "photos"), tmp_path / "model"
    own = UNetModule(
        sample_size=8, in_channels=3, num_classes=3, width=8, multipliers=(1,), layers_per_block=1,
        attention_resolutions=(), mid_attention=False, norm_groups=2, dropout=0.0,
    )  # fmt: skip
    ConditionalDDPM(own, dict(enumerate(sorted(CLASSES)))).save(model)
    judge = {**CLASSIFIER, "data": {"name": "image_folder", "path": str(photos)}}
    (tmp_path / "judge.yaml").write_text(yaml.safe_dump(judge))
    assert dualoptim("train-classifier", tmp_path / "judge.yaml", "--out", tmp_path / "judge").code == 0
    words = ("--model", model, "--classifier", tmp_path / "judge")
    made = dualoptim("init", photos, *words, "--out", tmp_path / "mine")
    assert made.code == 0, made.err
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"forget.yaml", "features.yaml"}
    recipe = load_recipe(ForgetRecipe, str(tmp_path / "mine" / "forget.yaml"))
    assert recipe.model.path == str(model)
    assert recipe.evaluation.classifier == str(tmp_path / "judge")


@pytest.mark.parametrize(
    ("size", "mode", "side", "channels"),
    [((8, 8), "RGB", None, 3), ((30, 20), "RGB", 32, 3), ((16, 16), "L", None, 1), ((300, 300), "RGB", 32, 3)],
)
def test_numbers_suit_the_images(
    size: tuple[int, int], mode: str, side: int | None, channels: int, tmp_path: Path, dualoptim: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("dualoptim_diffusion.runs.starter.plan", lambda experiment: {"estimated_seconds": {}})
    made = dualoptim("init", write_photos(tmp_path / "photos", size, mode), "--out", tmp_path / "mine")
    assert made.code == 0, made.err
    recipe = load_recipe(ForgetRecipe, str(tmp_path / "mine" / "forget.yaml"))
    assert (recipe.data.image_size, recipe.data.channels) == (side, channels)


@pytest.mark.parametrize(("count", "base", "classifier"), [(10, 500, 300), (400, 1250, 620), (60_000, 2000, 1000)])
def test_more_images_are_trained_on_for_longer_within_bounds(count: int, base: int, classifier: int) -> None:
    recipes = _recipes({}, 32, "cpu", count, None, None)
    assert recipes["pretrain.yaml"]["training"]["num_steps"] == base
    assert recipes["classifier.yaml"]["training"]["num_steps"] == classifier


def test_what_it_tells_is_the_time_of_the_whole_run(
    tmp_path: Path, dualoptim: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"base_model": 60.0, "forgetting": 60.0, "total": 120.0}
    monkeypatch.setattr("dualoptim_diffusion.runs.starter.plan", lambda experiment: {"estimated_seconds": seconds})
    made = dualoptim("init", write_photos(tmp_path / "photos"), "--out", tmp_path / "mine")
    assert "Estimated time of a first run here: 2 minutes." in made.out


def test_classes_beside_a_test_folder_are_the_training_set(tmp_path: Path) -> None:
    write_photos(tmp_path)
    write_photos(tmp_path / "val")
    listing = list_folder(tmp_path)
    assert list(listing.id2label.values()) == sorted(CLASSES)
    assert (len(listing.train.images), len(listing.test.images)) == (30, 30)


def test_what_is_wrong_is_one_sentence_and_nothing_is_written(
    finished: Path, tmp_path: Path, dualoptim: Command
) -> None:
    photos = write_photos(tmp_path / "photos")
    (tmp_path / "one" / "cat").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "one" / "cat" / "0.png")
    (tmp_path / "empty").mkdir()
    for source, words, said in (
        (tmp_path / "nowhere", (), "There is no folder"),
        (tmp_path / "empty", (), "holds no subfolders"),
        (tmp_path / "one", (), "something must be left to retain"),
        (photos, ("--model", finished / "model"), "name the folders after the model's classes"),
        (photos, ("--model", tmp_path / "nowhere"), "nowhere"),
        (photos, ("--classifier", tmp_path / "one"), "is not a folder of `dualoptim train-classifier`"),
    ):
        outcome = dualoptim("init", source, *words, "--out", tmp_path / "mine")
        assert (outcome.code, outcome.out) == (1, "")
        assert said in outcome.err
        assert not (tmp_path / "mine").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("dear")
    assert "is there already" in dualoptim("init", photos, "--out", tmp_path / "mine").err
    assert (tmp_path / "mine" / "notes").read_text() == "dear"
