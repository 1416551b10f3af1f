"""Data sets of the package `datasets` become files and a table of their classes, with the same pixels."""

import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.data.hub_images import is_saved, unpack
from dualoptim_diffusion.files.class_table import list_table

NAMES = ["cat", "dog", "id:7", "a/b"]
PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)


def columns(labels: list[Any], kind: Any, image: str = "image", label: str = "label") -> datasets.Dataset:
    images = [Image.fromarray(pixels) for pixels in PIXELS[: len(labels)]]
    return datasets.Dataset.from_dict(
        {image: images, label: labels}, datasets.Features({image: datasets.Image(), label: kind})
    )


def saved(folder: Path, **parts: datasets.Dataset) -> Path:
    whole = parts["train"] if parts.keys() == {"train"} else datasets.DatasetDict(parts)
    whole.save_to_disk(folder)
    assert is_saved(folder)
    return folder


def unpacked(folder: Path, out: Path) -> dict[str, list[np.ndarray]]:
    """Training images by class."""
    found = list_table(unpack(str(folder), out, saved=True))
    images: dict[str, list[np.ndarray]] = {name: [] for name in found.id2label.values()}
    for entry, label in zip(found.train.images, found.train.labels, strict=True):
        images[found.id2label[label]].append(np.array(Image.open(entry.path)))
    return images


def test_every_image_is_written_with_its_class_and_the_same_pixels(tmp_path: Path) -> None:
    labels = [0, 1, 2, 3, 0, 1, 2, 3]
    train = columns(labels, datasets.ClassLabel(names=NAMES))
    found = unpacked(saved(tmp_path / "set", train=train), tmp_path / "out")
    assert found.keys() == {*NAMES}
    for c, name in enumerate(NAMES):
        assert np.array_equal(found[name], [PIXELS[i] for i, label in enumerate(labels) if label == c])


@pytest.mark.parametrize(
    ("labels", "kind"),
    [(["cat", "dog"], datasets.Value("string")), ([3, 5], datasets.Value("int64"))],
    ids=["words", "numbers"],
)
def test_a_column_without_names_is_named_by_its_values(tmp_path: Path, labels: list[Any], kind: Any) -> None:
    train = columns(labels * 2, kind, "photo", "category")
    found = unpacked(saved(tmp_path / "set", train=train), tmp_path / "out")
    assert list(found) == [str(label) for label in labels]
    assert np.array_equal(found[str(labels[1])], PIXELS[[1, 3]])


@pytest.mark.parametrize(
    ("part", "answers", "held_out"), [("test", [0, 1], 2), ("validation", [0, 1], 2), ("test", [-1, -1], 0)]
)
def test_a_test_set_is_held_out_if_it_has_answers(tmp_path: Path, part: str, answers: list[int], held_out: int) -> None:
    kind = datasets.ClassLabel(names=["cat", "dog"])
    folder = saved(tmp_path / "set", train=columns([0, 1], kind), **{part: columns(answers, kind)})
    assert len(list_table(unpack(str(folder), tmp_path / "out", saved=True)).test.images) == held_out


def test_what_is_wrong_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = datasets.ClassLabel(names=["cat", "dog"])
    cases = (
        (saved(tmp_path / "a", test=columns([0, 1], kind), other=columns([0], kind)), "the parts test, other"),
        (
            saved(tmp_path / "b", train=columns([0, 1], datasets.Value("int64"), label="answer")),
            "the columns image, answer",
        ),
        (tmp_path / "nothing", "cannot be had"),
    )
    for folder, said in cases:
        with pytest.raises(InputError, match=said):
            unpack(str(folder), tmp_path / "out", saved=True)
    assert not is_saved(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"install dualoptim-diffusion\[datasets\]"):
        unpack(str(tmp_path), tmp_path / "out", saved=True)
