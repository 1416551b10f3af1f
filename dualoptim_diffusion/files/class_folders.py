"""Folders of images with a subfolder for each class: which files there are. No torch here."""

import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from dualoptim_diffusion.core.errors import InputError, nearest

SUFFIXES = (".png", ".jpg", ".jpeg")  # in any case; ImageNet's end in .JPEG
TEST_FOLDERS = ("test", "val")


class Entry(NamedTuple):
    """A file as its folder lists it."""

    path: str
    size: int
    mtime_ns: int
    changed_ns: int  # when anything about it last changed; 0 where the system does not keep that


@dataclass(frozen=True)
class Listing:
    """Files and labels of `train/CLASS` and `test/CLASS`, in the order of class and file names."""

    id2label: dict[int, str]
    train: tuple[Entry, ...]
    train_labels: tuple[int, ...]
    test: tuple[Entry, ...]
    test_labels: tuple[int, ...]

    @cached_property
    def first_of_each(self) -> list[str]:
        """One training file a class."""
        return [self.train[bisect_left(self.train_labels, i)].path for i in self.id2label]  # labels are in order


def list_folder(root: str | Path) -> Listing:
    """What `root/train/CLASS` and `root/test/CLASS` (or `val`) hold; classes are the subfolders of train, sorted.

    Raises:
        InputError: if a folder holds no images or cannot be read, or the test set has a class that the training set
            has not.
    """
    train_root = Path(root) / "train"
    if not train_root.is_dir():
        raise InputError(f"There is no folder {str(train_root)!r}; data.path must hold train/CLASS/*.png or .jpg.")
    names = sorted(entry.name for entry in os.scandir(train_root) if entry.is_dir())
    id2label = dict(enumerate(names))
    train, train_labels = files_of_classes(train_root, names)
    present = set(train_labels)
    for i, name in id2label.items():
        if i not in present:
            raise InputError(f"{train_root / name} holds no images (.png, .jpg); remove it or fill it.")
    if not names:
        raise InputError(f"{train_root} holds no subfolders; it must hold one for each class, with its images.")
    test_root = next((Path(root) / name for name in TEST_FOLDERS if (Path(root) / name).is_dir()), None)
    test: tuple[tuple[Entry, ...], tuple[int, ...]] = ((), ())
    if test_root is not None:
        for entry in os.scandir(test_root):
            if entry.is_dir() and entry.name not in names:
                raise InputError(f"{entry.path} is named after no class of {train_root}: {nearest(entry.name, names)}")
        test = files_of_classes(test_root, names)
        if not test[0]:
            raise InputError(
                f"{test_root} holds no images (.png, .jpg); fill it, or remove it to hold out a fifth of each class."
            )
    return Listing(id2label, train, train_labels, *test)


def files_of_classes(root: Path, names: Sequence[str]) -> tuple[tuple[Entry, ...], tuple[int, ...]]:
    """Image files below `root/NAME` and the place of each one's name among all, in the order of both.

    Raises:
        InputError: if a folder cannot be read.
    """
    entries: list[Entry] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = sorted(_scan(root / name)) if (root / name).is_dir() else []
        entries += found
        labels += [label] * len(found)
    return tuple(entries), tuple(labels)


def _scan(folder: Path) -> Iterator[Entry]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.lower().endswith(SUFFIXES):
                    facts = entry.stat()
                    changed = facts.st_ctime_ns if os.name == "posix" else 0  # elsewhere it is when the file was made
                    yield Entry(entry.path, facts.st_size, facts.st_mtime_ns, changed)
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be read ({error}).") from None
