"""Folders of real images with a subfolder for each class: their shape, the damaged ones, their pixels."""

import os
from collections.abc import Mapping
from functools import lru_cache
from itertools import compress
from pathlib import Path

import torch
from torch import Tensor

from dualoptim_diffusion.core.errors import InputError, nearest
from dualoptim_diffusion.core.terminal import progress, say
from dualoptim_diffusion.data.pixels import GREY_MODES, FolderPixels, check_decodes, each_works, mode_and_size
from dualoptim_diffusion.files.class_folders import Entry, Listing, files_of_classes


def shape_of(listing: Listing, image_size: int | None) -> tuple[int, int, int]:
    """[C, H, W]: grey where the first image of every class is, as large as the first of all or as asked for."""
    modes, sizes = zip(*(mode_and_size(path) for path in listing.first_of_each), strict=True)
    width, height = (image_size, image_size) if image_size else sizes[0]
    if image_size is None and width != height:
        raise InputError(
            f"{listing.first_of_each[0]} has {width} x {height} pixels; set data.image_size to crop and resize all "
            "images to a square."
        )
    return 1 if all(mode in GREY_MODES for mode in modes) else 3, height, width


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
    sound = tuple(progress(checks, total=len(entries), desc="checking images", unit="img"))
    damaged = [Path(entry.path).name for entry, ok in zip(entries, sound, strict=True) if not ok]
    if damaged:
        named = ", ".join(damaged[:5]) + (", ..." if len(damaged) > 5 else "")
        say(f"Skipped {len(damaged)} of {len(entries)} images that cannot be read: {named}")
    return sound


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
    entries, positions = files_of_classes(root, names)
    if not entries:
        raise InputError(f"{root} holds no images in folders named after classes, such as {names[0]}/0.png.")
    channels, height, width = shape
    ids = list(id2label)
    return FolderPixels(entries, (channels, height, width))[:], torch.tensor([ids[i] for i in positions])
