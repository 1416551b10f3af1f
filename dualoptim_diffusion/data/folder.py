"""Folders of real images with a subfolder for each class: which files there are."""

import os
import sys
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import compress
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from dualoptim_diffusion.core.errors import InputError, nearest
from dualoptim_diffusion.data.pixels import GREY_MODES, Entry, FolderPixels, check_decodes, each_works, mode_and_size

SUFFIXES = (".png", ".jpg", ".jpeg")  # in any case; ImageNet's end in .JPEG
TEST_FOLDERS = ("test", "val")


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

    def shape(self, image_size: int | None) -> tuple[int, int, int]:
        """[C, H, W]: grey where the first image of every class is, as large as the first of all or as asked for."""
        modes, sizes = zip(*(mode_and_size(path) for path in self.first_of_each), strict=True)
        width, height = (image_size, image_size) if image_size else sizes[0]
        if image_size is None and width != height:
            raise InputError(
                f"{self.first_of_each[0]} has {width} x {height} pixels; set data.image_size to crop and resize all "
                "images to a square."
            )
        return 1 if all(mode in GREY_MODES for mode in modes) else 3, height, width


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
    train, train_labels = _files(train_root, names)
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
        test = _files(test_root, names)
        if not test[0]:
            raise InputError(
                f"{test_root} holds no images (.png, .jpg); fill it, or remove it to hold out a fifth of each class."
            )
    return Listing(id2label, train, train_labels, *test)


def _files(root: Path, names: Sequence[str]) -> tuple[tuple[Entry, ...], tuple[int, ...]]:
    entries: list[Entry] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = sorted(_scan(root / name)) if (root / name).is_dir() else []
        entries += found
        labels += [label] * len(found)
    return tuple(entries), tuple(labels)


def without_damaged(listing: Listing) -> Listing:
    """The listing without the files that cannot be decoded, which are counted and named; reads every file.

    Raises:
        InputError: if a class has no other images.
    """
    train, train_labels = _readable(listing.train, listing.train_labels)
    for i, name in listing.id2label.items():
        if i not in train_labels:
            raise InputError(f"No image of {name!r} can be read; fill its folder or remove it.")
    return Listing(listing.id2label, train, train_labels, *_readable(listing.test, listing.test_labels))


def _readable(entries: tuple[Entry, ...], labels: tuple[int, ...]) -> tuple[tuple[Entry, ...], tuple[int, ...]]:
    sound = _sound(entries)
    return tuple(compress(entries, sound)), tuple(compress(labels, sound))


@lru_cache(maxsize=4)
def _sound(entries: tuple[Entry, ...]) -> tuple[bool, ...]:
    """Which files can be decoded; says how many cannot, once a process."""
    checks = each_works(check_decodes, entries)
    sound = tuple(tqdm(checks, total=len(entries), desc="checking images", unit="img"))
    damaged = [Path(entry.path).name for entry, ok in zip(entries, sound, strict=True) if not ok]
    if damaged:
        named = ", ".join(damaged[:5]) + (", ..." if len(damaged) > 5 else "")
        tqdm.write(f"Skipped {len(damaged)} of {len(entries)} images that cannot be read: {named}", file=sys.stderr)
    return sound


def _scan(folder: Path) -> Iterator[Entry]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.lower().endswith(SUFFIXES):
                    facts = entry.stat()
                    yield Entry(entry.path, facts.st_size, facts.st_mtime_ns)
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be read ({error}).") from None


def read_class_folders(root: Path, id2label: Mapping[int, str], shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Images uint8 [N, C, H, W] and labels [N] of `root/CLASS/*.{png,jpg}`, resized to the shape [C, H, W].

    Raises:
        InputError: if there are none, a subfolder is no class, or an image cannot be read.
    """
    if not root.is_dir():
        raise InputError(f"There is no folder {str(root)!r} of real images.")
    names = list(id2label.values())
    for entry in os.scandir(root):
        if entry.is_dir() and entry.name not in names:
            raise InputError(f"{entry.path} is named after no class: {nearest(entry.name, names)}")
    entries, positions = _files(root, names)
    if not entries:
        raise InputError(f"{root} holds no images in folders named after classes, such as {names[0]}/0.png.")
    channels, height, width = shape
    ids = list(id2label)
    return FolderPixels(entries, (channels, height, width))[:], torch.tensor([ids[i] for i in positions])
