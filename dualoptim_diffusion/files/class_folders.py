"""Folders of images with a subfolder for each class: which files there are. No torch here."""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from dualoptim_diffusion.core.classes import composed, file_names, usable_names
from dualoptim_diffusion.core.errors import InputError, nearest

SUFFIXES = (  # in any case; ImageNet's end in .JPEG
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".avif"),
)
TEST_FOLDERS = ("test", "val")
NO_DATA = {"__MACOSX", "Thumbs.db", "ehthumbs.db", "desktop.ini", "@eaDir", "lost+found"}  # beside hidden ones


class Entry(NamedTuple):
    """A file as its folder lists it."""

    path: str
    size: int
    mtime_ns: int
    changed_ns: int  # when anything about it last changed; 0 where the system does not keep that


class Files(NamedTuple):
    """What lies in the folders of classes.

    Attributes:
        images: in the order of labels and paths.
        labels: of the images.
        unreadable: paths that are called images and are no files with anything in them.
        others: paths of other files.
    """

    images: tuple[Entry, ...] = ()
    labels: tuple[int, ...] = ()
    unreadable: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listing:
    """Files of `train/CLASS` (or `CLASS`) and `test/CLASS`, at any depth below."""

    id2label: dict[int, str]
    train: Files
    test: Files

    @cached_property
    def images(self) -> tuple[Entry, ...]:
        return self.train.images + self.test.images

    @property
    def unreadable(self) -> tuple[str, ...]:
        return self.train.unreadable + self.test.unreadable

    @property
    def others(self) -> tuple[str, ...]:
        return self.train.others + self.test.others


def list_folder(root: str | Path) -> Listing:
    """What `root/train/CLASS` and `root/test/CLASS` (or `val`) hold; classes are the subfolders of train, sorted.

    Without a folder `train` the classes lie in the root itself, beside the test set if there is one.

    Raises:
        InputError: if a folder holds no images or cannot be read, or the test set has a class that the training set
            has not.
    """
    if not Path(root).is_dir():
        raise InputError(f"There is no folder {str(root)!r}; data.path must hold train/CLASS/ or CLASS/ with images.")
    whole = not (Path(root) / "train").is_dir()
    train_root = Path(root) if whole else Path(root) / "train"
    apart = TEST_FOLDERS if whole else ()
    folders = {name: i for i, name in enumerate(sorted({entry.name for entry in _subfolders(train_root)} - {*apart}))}
    id2label = usable_names({i: name for name, i in folders.items()})
    train = files_of_classes(train_root, folders, apart)
    present = {*train.labels}
    if empty := [name for name, i in folders.items() if i not in present]:
        folder = train_root / empty[0]
        broken = [f" ({path} is empty or no file)" for path in train.unreadable if folder in Path(path).parents]
        raise InputError(f"{folder} holds no images (.png, .jpg, ...){''.join(broken[:1])}; remove it or fill it.")
    if not folders:
        raise InputError(f"{train_root} holds no subfolders; it must hold one for each class, with its images.")
    test_root = next((Path(root) / name for name in TEST_FOLDERS if (Path(root) / name).is_dir()), None)
    if test_root is None:
        return Listing(id2label, train, Files())
    test = files_of_classes(test_root, folders)
    if not test.images:
        raise InputError(f"{test_root} holds no images; fill it, or remove it to hold out a fifth of each class.")
    return Listing(id2label, train, test)


def folders_of(id2label: Mapping[int, str]) -> dict[str, int]:
    """Under which names a class may have its folder: its own, and that which `dualoptim sample --png` gives it."""
    return {name: i for i, name in file_names(id2label).items()} | {name: i for i, name in id2label.items()}


def files_of_classes(root: Path, folders: Mapping[str, int], apart: Collection[str] = ()) -> Files:
    """Files below the subfolders of a folder.

    Args:
        folders: labels by the name of the subfolder; another Unicode form of the same characters is the same name.
        apart: subfolders that hold no class.

    Raises:
        InputError: if a subfolder has no label, or a folder cannot be read.
    """
    forms = {composed(name): label for name, label in folders.items()}
    found: list[tuple[int, os.DirEntry[str]]] = []
    for folder in _subfolders(root):
        if folder.name in apart:
            continue
        label = folders.get(folder.name, forms.get(composed(folder.name)))
        if label is None:
            raise InputError(f"{folder.path} is named after no class: {nearest(folder.name, folders)}")
        found += [(label, entry) for entry in _walk(Path(folder.path), {os.path.realpath(root)})]
    return sort_files(found)


def sort_files(found: Iterable[tuple[int, "os.DirEntry[str] | Path"]]) -> Files:
    """Labelled paths by what lies there."""
    images: list[tuple[int, Entry]] = []
    unreadable, others = [], []
    for label, entry in found:
        if not entry.name.lower().endswith(SUFFIXES):
            others.append(os.fspath(entry))
        elif entry.is_file() and (facts := entry.stat()).st_size:
            changed = facts.st_ctime_ns if os.name == "posix" else 0  # elsewhere it is when the file was made
            images.append((label, Entry(os.fspath(entry), facts.st_size, facts.st_mtime_ns, changed)))
        else:  # empty, a dangling link, a pipe
            unreadable.append(os.fspath(entry))
    images.sort()
    labels, entries = zip(*images, strict=True) if images else ((), ())
    return Files(entries, labels, tuple(sorted(unreadable)), tuple(sorted(others)))


def _subfolders(folder: Path) -> list["os.DirEntry[str]"]:
    return [entry for entry in _scan(folder) if entry.is_dir()]


def _walk(folder: Path, above: set[str]) -> Iterator["os.DirEntry[str]"]:
    """All that is no folder, at any depth; a link back to a folder above is not followed."""
    above = above | {os.path.realpath(folder)}
    for entry in _scan(folder):
        if not entry.is_dir():
            yield entry
        elif os.path.realpath(entry.path) not in above:
            yield from _walk(Path(entry.path), above)


def _scan(folder: Path) -> list["os.DirEntry[str]"]:
    """What a folder holds but hidden files and folders and those that systems put there."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".") and entry.name not in NO_DATA]
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be read ({error.strerror}).") from None
