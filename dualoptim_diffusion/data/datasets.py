"""Where the training and held-out images of a data set come from, and what is known of them before they are read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from dualoptim_diffusion.core.classes import CIFAR10, DIGITS
from dualoptim_diffusion.core.config import DATA_SETS, DataConfig
from dualoptim_diffusion.core.errors import InputError, reason
from dualoptim_diffusion.core.plugins import find_plugin
from dualoptim_diffusion.data import cifar10, digits, folder, imagenet
from dualoptim_diffusion.data.image_set import ImageSet
from dualoptim_diffusion.data.pixels import is_kept, open_pixels
from dualoptim_diffusion.data.replay import open_replay
from dualoptim_diffusion.files.class_folders import Listing

DIGITS_MAX = 16  # scikit-learn's digits are grey levels 0..16
DIGITS_SHAPE = (1, 8, 8)
HELD_OUT = 0.2  # share of each class that no model is trained on, where the data come without a test set
HELD_OUT_SEED = 0


@dataclass(frozen=True)
class DataFacts:
    """What is known of training images without opening them."""

    id2label: dict[int, str]
    shape: tuple[int, ...]  # of one image, [C, H, W]
    counts: dict[int, int]  # images of each class
    aliases: Mapping[str, int] = field(default_factory=dict)  # other names of classes, such as wnids
    missing: str | None = None  # a sentence, where the images are not on this machine and counts are the usual ones

    def count(self, class_ids: Sequence[int]) -> int:
        """Images of the given classes."""
        return sum(self.counts[i] for i in class_ids)


def load_dataset(config: DataConfig) -> tuple[ImageSet, ImageSet]:
    """Training and held-out images of the named data set.

    Raises:
        InputError: if they are not there, cannot be had or cannot be read.
    """
    if config.name in ("image_folder", "imagenet"):
        return _image_folder(config)
    if config.name == "replay":
        return _replay(config)
    if config.name == "digits":
        sets = _digits()
    elif config.name == "cifar10":
        sets = _cifar10(config)
    else:
        sets = _given(config.name, config.path)
    train, test = (_resized(part, config.image_size) for part in sets)
    return train, test


def is_decoded(config: DataConfig) -> bool:
    """Whether `load_dataset` downloads and decodes nothing, because an earlier call has, or there is nothing to."""
    if config.name == "cifar10":
        return cifar10.is_kept()
    if config.name in ("digits", "replay") or config.name not in DATA_SETS:
        return True
    if config.name == "imagenet" and _missing_imagenet(config):
        return False
    listing, size = _listing(config), _side(config)
    return is_kept(listing.train.images, folder.reading_of(listing, config, size))


def data_facts(config: DataConfig) -> DataFacts:
    """What is known of the training images without decoding or downloading any.

    Raises:
        InputError: if the folder is not there or holds no images.
    """
    size = config.image_size
    shape: tuple[int, ...]
    if config.name == "cifar10":
        return DataFacts(
            dict(enumerate(CIFAR10)),
            (3, size or cifar10.SIDE, size or cifar10.SIDE),
            dict.fromkeys(range(len(CIFAR10)), cifar10.TRAIN_PER_CLASS),
        )
    if config.name == "digits":
        train, _ = _digits()
        id2label, labels, shape = train.id2label, train.class_labels, DIGITS_SHAPE
    elif config.name == "replay" or config.name not in DATA_SETS:
        train, _ = load_dataset(config)
        id2label, labels, shape = train.id2label, train.class_labels, tuple(train.images.shape[1:])
    elif config.name == "imagenet" and (missing := _missing_imagenet(config)):
        size, names = size or imagenet.SIDE, imagenet.class_names()
        counts = dict.fromkeys(names, imagenet.TRAIN_PER_CLASS)
        return DataFacts(names, (3, size, size), counts, imagenet.wnids(), missing)
    else:
        listing = _listing(config)
        size = _side(config)
        id2label, labels = listing.id2label, torch.tensor(listing.train.labels)
        shape = folder.reading_of(listing, config, size).shape
        if not listing.test.images:
            labels = labels[~hold_out(labels)]
    counts = dict(enumerate(labels.bincount(minlength=len(id2label)).tolist()))
    aliases = imagenet.wnids() if config.name == "imagenet" else {}
    return DataFacts(id2label, (shape[0], size or shape[1], size or shape[2]), counts, aliases)


def hold_out(class_labels: Tensor) -> Tensor:
    """bool [N]: a fixed fifth of each class."""
    order = torch.randperm(len(class_labels), generator=torch.Generator().manual_seed(HELD_OUT_SEED))
    held_out = torch.zeros(len(class_labels), dtype=torch.bool)
    by_class = order[class_labels[order].argsort(stable=True)]
    _, counts = class_labels.unique(return_counts=True)
    for members in by_class.split(counts.tolist()):
        held_out[members[: round(HELD_OUT * len(members))]] = True
    return held_out


def _digits() -> tuple[ImageSet, ImageSet]:
    """scikit-learn's 1,797 handwritten digits, 8x8 grey; a fixed fifth of each class is held out."""
    grey, labels = torch.from_numpy(digits.read()).split((64, 1), dim=1)
    images = grey.mul(255 / DIGITS_MAX).round().to(torch.uint8).view(-1, *DIGITS_SHAPE)
    return _without_test_set(ImageSet(images, labels[:, 0].long(), dict(enumerate(DIGITS))))


def _cifar10(config: DataConfig) -> tuple[ImageSet, ImageSet]:
    train, test = cifar10.load(config.path)
    id2label = dict(enumerate(CIFAR10))
    return ImageSet(*train, id2label), ImageSet(*test, id2label)


def _image_folder(config: DataConfig) -> tuple[ImageSet, ImageSet]:
    """`PATH/train/CLASS/*` and `PATH/test/CLASS/*`; without the latter a fixed fifth of each class is held out."""
    listing, size = _listing(config), _side(config)
    reading = folder.reading_of(listing, config, size)
    train, test = (
        ImageSet(open_pixels(part.images, reading), torch.tensor(part.labels, dtype=torch.long), listing.id2label)
        for part in (listing.train, listing.test)
    )
    return (train, test) if len(test) else _without_test_set(train)


@lru_cache(maxsize=2)
def _given(name: str, path: str | None) -> tuple[ImageSet, ImageSet]:
    """What a function of another package makes of data.path: training and held-out images."""
    found = find_plugin("datasets", name)
    try:
        sets = found(path) if callable(found) else None
    except Exception as error:  # it is another's
        raise InputError(f"data.name {name} fails ({type(error).__name__}: {reason(error)}); correct it.") from None
    if not (isinstance(sets, tuple) and len(sets) == 2 and all(isinstance(part, ImageSet) for part in sets)):
        raise InputError(f"data.name {name} makes no pair of ImageSets of training and held-out images; correct it.")
    return sets


def _replay(config: DataConfig) -> tuple[ImageSet, ImageSet]:
    """What a model drew, and nothing held out."""
    assert config.path is not None  # the recipe has checked it
    replay = open_replay(config.path)
    images = ImageSet(replay.rows("images"), replay.labels, replay.id2label)
    if config.image_size not in (None, images.images.shape[-1]):
        raise InputError(
            f"data.image_size is {config.image_size}, but the images in {config.path} have {images.images.shape[-1]} "
            "pixels a side; leave it out."
        )
    return images, images.at(torch.empty(0, dtype=torch.long))


def load_image_folder(root: Path, id2label: Mapping[int, str], shape: tuple[int, ...]) -> ImageSet:
    """Images of `root/CLASS/`, resized to the shape [C, H, W] where needed.

    Raises:
        InputError: if there are none, a subfolder is no class, or an image cannot be read.
    """
    return ImageSet(*folder.read_class_folders(root, id2label, shape), dict(id2label))


def _listing(config: DataConfig) -> Listing:
    """What the folder in data.path holds."""
    if config.name == "imagenet" and (missing := _missing_imagenet(config)):
        raise InputError(missing)
    listing = folder.read_listing(config)
    return imagenet.named(listing, str(config.path)) if config.name == "imagenet" else listing


def _missing_imagenet(config: DataConfig) -> str | None:
    if config.path is not None and Path(config.path, "train").is_dir():
        return None
    where = "data.path is not given" if config.path is None else f"{config.path} holds no folder train"
    return f"ImageNet is not here: {where}; it must hold train/WNID/*.jpg, such as train/n02099601 (and may hold val)."


def _side(config: DataConfig) -> int | None:
    """Height and width that images are resized to; none leaves them as they are."""
    return config.image_size or (imagenet.SIDE if config.name == "imagenet" else None)


def _without_test_set(every: ImageSet) -> tuple[ImageSet, ImageSet]:
    held_out = hold_out(every.class_labels)
    return every.at((~held_out).nonzero()[:, 0]), every.at(held_out.nonzero()[:, 0])


def _resized(images: ImageSet, size: int | None) -> ImageSet:
    """Square images in memory at another size (bicubic, antialiased)."""
    if size is None or size == images.images.shape[-1]:
        return images
    parts = (
        interpolate(part.float(), size=(size, size), mode="bicubic", antialias=True, align_corners=False)
        for part in images.batches()
    )
    pixels = torch.cat([part.round().clamp(0, 255).to(torch.uint8) for part in parts])
    return ImageSet(pixels, images.class_labels, images.id2label)
