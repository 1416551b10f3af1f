"""A table of images is the same set as a folder of classes; what is wrong with it is named by its line."""

from pathlib import Path

import pytest
from PIL import Image

from dualoptim_diffusion.core.config import DataConfig
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.data import load_dataset
from dualoptim_diffusion.files.class_folders import list_folder
from dualoptim_diffusion.files.class_table import list_images, list_table


def write_images(root: Path) -> Path:
    for k, name in enumerate(("cat", "dog")):
        for part, count in (("train", 5), ("test", 2)):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                Image.new("L", (8, 8), 60 * k + 10 * i + len(part)).save(root / part / name / f"{i}.png")
    return root


def write_table(path: Path, *lines: str, first: str = "file,label") -> Path:
    path.write_text("\n".join([first, *lines]) + "\n", encoding="utf-8")
    return path


def rows_of(root: Path) -> list[str]:
    return [f"{p.relative_to(root)},{p.parent.name},{p.parts[-3]}" for p in sorted(root.rglob("*.png"))]


@pytest.mark.parametrize("first", ["file,label,split", "File_Name , class_name,set", "path,category,subset"])
def test_a_table_of_a_folder_s_files_is_the_folder(tmp_path: Path, first: str) -> None:
    root = write_images(tmp_path)
    table = write_table(root / "all.csv", *rows_of(root), first=first)
    assert list_table(table) == list_folder(root)
    sets = [load_dataset(DataConfig(name="image_folder", path=str(path))) for path in (root, table)]
    assert [part.sha256 for part in sets[0]] == [part.sha256 for part in sets[1]]


def test_tabs_a_byte_order_mark_quotes_and_numbers_are_read(tmp_path: Path) -> None:
    root = write_images(tmp_path)
    lines = [f"train/cat/{i}.png\t{label}" for i, label in enumerate((0, 1, 2, 10, 10))]
    table = write_table(root / "all.tsv", *lines, first="\ufefffile\tlabel")
    listing = list_images(table)
    assert list(listing.id2label.values()) == ["0", "1", "2", "10"]
    assert listing.test.images == ()
    quoted = write_table(root / "quoted.csv", '"train/cat/0.png","cat, black"', '"train/dog/0.png",dog')
    assert list(list_images(quoted).id2label.values()) == ["cat, black", "dog"]


def test_what_is_no_image_is_counted_and_what_is_not_there_is_named(tmp_path: Path) -> None:
    root = write_images(tmp_path)
    table = write_table(
        root / "all.csv", "train/cat/0.png,cat", "train/dog/0.png,dog", "x.txt,cat", "train/cat/99.png,cat"
    )
    listing = list_table(table)
    assert listing.others == (str(root / "x.txt"),)
    assert listing.unreadable == (str(root / "train/cat/99.png"),)
    with pytest.raises(InputError, match=r"99\.png is no file with an image"):
        load_dataset(DataConfig(name="image_folder", path=str(table)))
    load_dataset(DataConfig(name="image_folder", path=str(table), skip_damaged=True))


WRONG = {
    "no file column": ("a,label", ["x.png,cat"], r"has the columns a, label, expected one of file_name"),
    "no label column": ("file,b", ["x.png,cat"], "expected one of label, class"),
    "nothing at all": ("", [], "has the columns none"),
    "no rows": ("file,label", [], "names no training images"),
    "a row without a class": ("file,label", ["train/cat/0.png,"], r"Line 2 of .* names no class"),
    "a row without a file": ("file,label", ["train/cat/0.png,cat", ",dog"], r"Line 3 of .* names no file"),
    "a short row": ("file,label", ["train/cat/0.png"], "Line 2 of .* names no class"),
    "an unknown split": ("file,label,split", ["train/cat/0.png,cat,half"], "of the split 'half', expected train"),
    "a file named twice": ("file,label", ["train/cat/0.png,cat", "./train/cat/0.png,dog"], "0.png twice"),
    "a class of held-out rows alone": (
        "file,label,split", ["train/cat/0.png,cat,train", "train/dog/0.png,dog,test"], "'dog' in held-out rows alone",
    ),
    "a class whose files are not there": (
        "file,label", ["train/cat/0.png,cat", "nowhere.png,dog"], "no image of 'dog' that is there .*nowhere.png",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("first", "lines", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_one_sentence(tmp_path: Path, first: str, lines: list[str], said: str) -> None:
    root = write_images(tmp_path)
    with pytest.raises(InputError, match=said):
        list_table(write_table(root / "all.csv", *lines, first=first))


@pytest.mark.parametrize("content", [b"\xff\xfe\x00f", b"file,label\n" + b"x" * 200_000 + b",cat\n"])
def test_what_is_no_text_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        list_table(tmp_path / "a.csv")
    with pytest.raises(InputError, match="cannot be read"):
        list_images(tmp_path / "none.csv")
