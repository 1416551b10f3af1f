"""Folders of photographs as people have them: each file is read as Pillow shows it, left out and counted, or named."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dualoptim_diffusion.core.classes import file_name
from dualoptim_diffusion.core.config import DataConfig
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.terminal import say_once
from dualoptim_diffusion.data import data_facts, load_dataset
from dualoptim_diffusion.data.folder import read_class_folders
from dualoptim_diffusion.data.given import image_set
from dualoptim_diffusion.data.pixels import decode
from tests.helpers.commands import Outcome

LEVELS = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
COLOURS = np.stack([LEVELS, LEVELS[::-1], LEVELS.T], -1)
CLEAR = np.dstack([COLOURS, np.where(LEVELS < 128, 0, 255).astype(np.uint8)])  # the upper half is transparent
ON_WHITE = np.where(CLEAR[..., 3:] == 0, 255, COLOURS)
TURNS = {2: np.fliplr, 3: lambda x: np.rot90(x, 2), 4: np.flipud, 5: lambda x: np.transpose(x, (1, 0, 2)),
         6: lambda x: np.rot90(x, 1), 7: lambda x: np.rot90(np.transpose(x, (1, 0, 2)), 2),
         8: lambda x: np.rot90(x, -1)}  # fmt: skip  # how an upright picture lies in the file


def grey(name: str, picture: Image.Image, **how: object) -> tuple[str, Image.Image, dict, np.ndarray]:
    return name, picture, how, np.stack([LEVELS] * 3, -1)


def palette(alpha: bool) -> Image.Image:
    picture = Image.new("P", (8, 8))
    picture.putpalette([v for i in range(256) for v in (i, 255 - i, 7)])
    picture.putdata(LEVELS.flatten().tolist())
    if alpha:
        picture.info["transparency"] = 0
    return picture


def oriented(value: int) -> tuple[str, Image.Image, dict, np.ndarray]:
    tag = Image.Exif()
    tag[0x0112] = value
    return "a.png", Image.fromarray(np.ascontiguousarray(TURNS[value](COLOURS))), {"exif": tag}, COLOURS


PALETTE = np.stack([LEVELS, 255 - LEVELS, np.full((8, 8), 7, np.uint8)], -1)
FORMATS = {
    "png": ("a.png", Image.fromarray(COLOURS), {}, COLOURS),
    "png in upper case": ("A.PNG", Image.fromarray(COLOURS), {}, COLOURS),
    "lossless webp": ("a.webp", Image.fromarray(COLOURS), {"lossless": True}, COLOURS),
    "bmp": ("a.bmp", Image.fromarray(COLOURS), {}, COLOURS),
    "tif": ("a.tif", Image.fromarray(COLOURS), {}, COLOURS),
    "compressed tiff": ("a.tiff", Image.fromarray(COLOURS), {"compression": "tiff_lzw"}, COLOURS),
    "ppm": ("a.ppm", Image.fromarray(COLOURS), {}, COLOURS),
    "tga": ("a.tga", Image.fromarray(COLOURS), {}, COLOURS),
    "gif of two frames": (
        "a.gif", palette(alpha=False), {"save_all": True, "append_images": [Image.new("P", (8, 8))]}, PALETTE,
    ),
    "png called jpg": ("a.jpg", Image.fromarray(COLOURS), {"format": "PNG"}, COLOURS),
    "grey": grey("a.png", Image.fromarray(LEVELS)),
    "grey of 16 bits": grey("a.png", Image.fromarray(LEVELS.astype(np.uint16) * 257)),
    "grey tif of 16 bits": grey("a.tif", Image.fromarray(LEVELS.astype(np.uint16) * 257)),
    "grey tif of 32 bits with levels of 16": grey("a.tif", Image.fromarray(LEVELS.astype(np.int32) * 257)),
    "palette": ("a.png", palette(alpha=False), {}, PALETTE),
    "palette with a transparent entry": (
        "a.png", palette(alpha=True), {}, np.where(LEVELS[..., None] == 0, 255, PALETTE),
    ),
    "transparent": ("a.png", Image.fromarray(CLEAR), {}, ON_WHITE),
    "transparent webp": ("a.webp", Image.fromarray(CLEAR), {"lossless": True}, ON_WHITE),
    "grey and transparent": grey("a.png", Image.merge("LA", [Image.fromarray(LEVELS), Image.new("L", (8, 8), 255)])),
    "one bit": ("a.png", Image.fromarray(LEVELS > 100), {}, np.stack([np.where(LEVELS > 100, 255, 0)] * 3, -1)),
    "CMYK tif": (
        "a.tif", Image.merge("CMYK", [*Image.fromarray(255 - COLOURS).split(), Image.new("L", (8, 8))]), {}, COLOURS,
    ),
    **{f"orientation {value}": oriented(value) for value in TURNS},
}  # fmt: skip


def photos(root: Path) -> Path:
    for name in ("cat", "dog"):
        for i in range(5):
            path = root / "train" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(COLOURS + i).save(path)
    return root


def config(root: Path, **words: object) -> DataConfig:
    return DataConfig(name="image_folder", path=str(root), **words)


@pytest.mark.parametrize(("name", "picture", "how", "expected"), FORMATS.values(), ids=FORMATS)
def test_what_pillow_reads_is_an_image_upright_and_on_white(
    tmp_path: Path, name: str, picture: Image.Image, how: dict, expected: np.ndarray
) -> None:
    root = photos(tmp_path)
    picture.save(root / "train" / "cat" / name, **how)
    found = decode(root / "train" / "cat" / name, (3, 8, 8))
    assert np.array_equal(found.permute(1, 2, 0).numpy(), expected)
    train, held_out = load_dataset(config(root))
    assert len(train) + len(held_out) == 11
    assert any(
        np.array_equal(image.permute(1, 2, 0).numpy(), expected) for part in (train, held_out) for image in part.images
    )
    with Image.open(root / "train" / "cat" / name) as opened:  # a dataset given from Python may hold it so
        given = image_set([(opened, 0)], {0: "cat"}, (3, 8, 8))
    assert np.array_equal(given.images[0].permute(1, 2, 0).numpy(), expected)


def test_a_transparent_image_is_laid_on_the_background_that_was_asked_for_and_this_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    say_once.cache_clear()
    root = photos(tmp_path)
    Image.fromarray(CLEAR).save(root / "train" / "cat" / "9.png")
    images = {}
    for background in ("white", "#ff0080", "black"):
        train, held_out = load_dataset(config(root, background=background))
        images[background] = torch.cat([train.images, held_out.images])
    assert not torch.equal(images["white"], images["black"])
    at = (images["white"] != images["black"]).flatten(1).any(1).nonzero()
    assert len(at) == 1
    assert images["#ff0080"][at[0, 0], :, 0, 0].tolist() == [255, 0, 128]
    said = capsys.readouterr().err
    assert f"11 colour images of 2 classes in {root}, 1 of them transparent, laid on #ff0080\n" in said
    with pytest.raises(ValueError, match="background"):
        config(root, background="url(x)")


def test_one_colour_image_anywhere_makes_all_colour_and_channels_decide_otherwise(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for i in range(5):
            (tmp_path / "train" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(LEVELS).save(tmp_path / "train" / name / f"{i}.png")
    assert data_facts(config(tmp_path)).shape == (1, 8, 8)
    Image.fromarray(COLOURS).save(tmp_path / "train" / "dog" / "9.png")
    assert data_facts(config(tmp_path)).shape == (3, 8, 8)
    assert data_facts(config(tmp_path, channels=1)).shape == (1, 8, 8)
    greys = Image.new("P", (8, 8))
    greys.putpalette([v for i in range(256) for v in (i, i, i)])
    greys.save(tmp_path / "train" / "dog" / "9.png")
    assert data_facts(config(tmp_path)).shape == (1, 8, 8)


def hidden(root: Path) -> None:
    for place in (".ipynb_checkpoints", "__MACOSX", ".thumbnails", "@eaDir", "cat/.cache"):
        (root / "train" / place).mkdir()
        Image.fromarray(COLOURS).save(root / "train" / place / "0.png")
    for name in ("._0.png", "Thumbs.db", "desktop.ini", ".DS_Store", ".hidden.jpg"):
        (root / "train" / "cat" / name).write_bytes(b"\0\5\26\7")


def deeper(root: Path) -> None:
    (root / "train" / "cat" / "2019" / "may").mkdir(parents=True)
    Image.fromarray(COLOURS).save(root / "train" / "cat" / "2019" / "may" / "0.png")
    (root / "train" / "cat" / "empty.png").mkdir()
    (root / "train" / "cat" / "2019" / "back").symlink_to(root / "train" / "cat", target_is_directory=True)


def others(root: Path) -> None:
    (root / "train" / "cat" / "notes.txt").write_text("a cat")
    (root / "train" / "dog" / "labels.csv").write_text("a,b")
    (root / "train" / "readme.md").write_text("not in a class")


FOLDERS: dict[str, tuple[Callable[[Path], None], int, str]] = {
    "hidden files and folders": (hidden, 10, "10 colour images of 2 classes"),
    "images further down, a folder called like one, and a link to a folder above": (
        deeper,
        11,
        "11 colour images of 2 classes",
    ),
    "files that are no images": (others, 10, "2 files skipped"),
}


@pytest.mark.parametrize(("make", "count", "said"), FOLDERS.values(), ids=FOLDERS)
def test_what_is_no_data_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], None], count: int, said: str
) -> None:
    say_once.cache_clear()
    make(photos(tmp_path))
    train, held_out = load_dataset(config(tmp_path))
    assert len(train) + len(held_out) == count
    assert train.id2label == {0: "cat", 1: "dog"}
    assert said in capsys.readouterr().err


DAMAGED: dict[str, Callable[[Path], object]] = {
    "a dangling link": lambda path: path.symlink_to("/nowhere/key"),
    "an empty file": lambda path: path.touch(),
    "a named pipe": lambda path: os.mkfifo(path),
    "text": lambda path: path.write_text("no image"),
    "half a file": lambda path: path.write_bytes((path.parent / "0.png").read_bytes()[:60]),
    "a head alone": lambda path: path.write_bytes((path.parent / "0.png").read_bytes()[:33]),
    "a head of terabytes": lambda path: path.write_bytes(
        (path.parent / "0.png").read_bytes()[:16] + b"\x00\x0f\xff\xff" * 2 + (path.parent / "0.png").read_bytes()[24:]
    ),
    "floats": lambda path: Image.fromarray(LEVELS / np.float32(255)).save(path, format="TIFF"),
    "levels of 32 bits": lambda path: Image.fromarray(LEVELS.astype(np.int32) * 10**6).save(path, format="TIFF"),
    "negative levels": lambda path: Image.fromarray(LEVELS.astype(np.int32) - 9).save(path, format="TIFF"),
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_named_with_its_path_and_left_out_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], object]
) -> None:
    path = photos(tmp_path) / "train" / "dog" / "9.png"
    damage(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(InputError, match=str(path)):
            load_dataset(config(tmp_path))
        if damage in (DAMAGED["floats"], DAMAGED["levels of 32 bits"], DAMAGED["negative levels"]):
            return  # sound files, whose levels are of no known range
        say_once.cache_clear()
        train, held_out = load_dataset(config(tmp_path, skip_damaged=True))
    assert len(train) + len(held_out) == 10
    assert "1 file skipped" in capsys.readouterr().err


def test_real_images_may_lie_under_the_names_that_sampling_gives_folders(tmp_path: Path) -> None:
    names = {0: "a/b", 1: "tench, Tinca tinca", 2: "é"}
    for folder in (file_name("a/b"), "tench", "é"):
        (tmp_path / folder).mkdir()
        Image.fromarray(COLOURS).save(tmp_path / folder / "000000.png")
    _, labels = read_class_folders(tmp_path, names, (3, 8, 8))
    assert sorted(labels.tolist()) == [0, 1, 2]
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match="other is named after no class"):
        read_class_folders(tmp_path, names, (3, 8, 8))


@pytest.mark.parametrize("damage", ["a dangling link", "a named pipe"])
def test_every_command_says_what_it_cannot_read(dualoptim: Callable[..., Outcome], tmp_path: Path, damage: str) -> None:
    path = photos(tmp_path / "data") / "train" / "dog" / "9.png"
    DAMAGED[damage](path)
    result = dualoptim(
        "forget", "digits_sfron_dual", "--class", "cat", "--dry-run", "data.name=image_folder",
        f"data.path={tmp_path / 'data'}",
    )  # fmt: skip
    assert result.code == 1
    assert f"{path} is no file with an image in it; remove it, or set data.skip_damaged=true." in result.err
