"""Folders of real images with a subfolder for each class: their shape, the damaged ones, their pixels."""

from collections.abc import Mapping
from functools import lru_cache
from itertools import compress
from pathlib import Path

import torch
from torch import Tensor

from dualoptim_diffusion.core.config import DataConfig
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.terminal import progress, say, say_once
from dualoptim_diffusion.data import imagenet
from dualoptim_diffusion.data.pixels import FolderPixels, check_decodes, each_works, looks
from dualoptim_diffusion.files.class_folders import Entry, Files, Listing, files_of_classes, folders_of
from dualoptim_diffusion.files.class_table import list_images
from dualoptim_diffusion.files.image_files import Reading, size_of


def read_listing(config: DataConfig) -> Listing:
    """What the folder or table in data.path holds that can be read; the rest is counted and told.

    Raises:
        InputError: if there is no such folder, or a file cannot be read and data.skip_damaged does not allow it.
    """
    assert config.path is not None  # the recipe has checked it
    listing = list_images(config.path)
    if listing.unreadable and not config.skip_damaged:
        more = f", nor are {len(listing.unreadable) - 1} more" if len(listing.unreadable) > 1 else ""
        raise InputError(
            f"{listing.unreadable[0]} is no file with an image in it{more}; remove it, or set data.skip_damaged=true."
        )
    return _without_damaged(listing) if config.skip_damaged else listing


def reading_of(listing: Listing, config: DataConfig, image_size: int | None) -> Reading:
    """How the files become pixels: grey where all are, as large as the first or as asked for. Says what is read."""
    width, height = (image_size, image_size) if image_size else size_of(listing.train.images[0].path)
    if image_size is None and width != height:
        raise InputError(
            f"{listing.train.images[0].path} has {width} x {height} pixels; set data.image_size to crop and resize all "
            "images to a square."
        )
    channels, transparent = config.channels or (imagenet.CHANNELS if config.name == "imagenet" else None), 0
    if channels is None:
        seen = looks(listing.images)
        channels, transparent = (
            1 if all(look.is_grey for look in seen) else 3,
            sum(look.is_transparent for look in seen),
        )
    skipped = len(listing.others) + len(listing.unreadable)
    say_once(
        f"{len(listing.images)} {'grey' if channels == 1 else 'colour'} images of {len(listing.id2label)} classes in "
        f"{config.path}"
        + (f", {transparent} of them transparent, laid on {config.background}" if transparent else "")
        + (f"; {skipped} file{'s' * (skipped > 1)} skipped" if skipped else "")
    )
    like = None if image_size else listing.train.images[0].path
    return Reading((channels, height, width), like, config.background)


def _without_damaged(listing: Listing) -> Listing:
    """The listing without the files that cannot be decoded, which are counted and named; reads every file.

    Raises:
        InputError: if a class has no other images.
    """
    train = _readable(listing.train)
    for i, name in listing.id2label.items():
        if i not in train.labels:
            raise InputError(f"No image of {name!r} can be read; fill its folder or remove it.")
    return Listing(listing.id2label, train, _readable(listing.test))


def _readable(files: Files) -> Files:
    sound = _sound(files.images)
    damaged = tuple(entry.path for entry, ok in zip(files.images, sound, strict=True) if not ok)
    images, labels = tuple(compress(files.images, sound)), tuple(compress(files.labels, sound))
    return Files(images, labels, files.unreadable + damaged, files.others)


@lru_cache(maxsize=4)
def _sound(entries: tuple[Entry, ...]) -> tuple[bool, ...]:
    """Which files can be decoded; says how many cannot, once a process."""
    checks = each_works(check_decodes, entries)
    sound = tuple(progress(checks, total=len(entries), desc="checking images", unit="img"))
    damaged = [entry.path for entry, ok in zip(entries, sound, strict=True) if not ok]
    if damaged:
        named = ", ".join(damaged[:5]) + (", ..." if len(damaged) > 5 else "")
        say(f"Skipped {len(damaged)} of {len(entries)} images that cannot be read: {named}")
    return sound


def read_class_folders(root: Path, id2label: Mapping[int, str], shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Images uint8 [N, C, H, W] and labels [N] of `root/CLASS/`, resized to the shape [C, H, W].

    Raises:
        InputError: if there are none, a subfolder is no class, or an image cannot be read.
    """
    if not root.is_dir():
        raise InputError(f"There is no folder {str(root)!r} of real images.")
    files = files_of_classes(root, folders_of(id2label))
    if not files.images:
        raise InputError(
            f"{root} holds no images in folders named after classes, such as {next(iter(id2label.values()))}/0.png."
        )
    channels, height, width = shape
    return FolderPixels(files.images, Reading((channels, height, width)))[:], torch.tensor(files.labels)
