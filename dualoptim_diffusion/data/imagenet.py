"""ImageNet-1k: its thousand classes by name, synonym and wnid; folders of images are named by wnid."""

from dataclasses import replace
from functools import cache

from dualoptim_diffusion.core.classes import usable_names
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.files.class_folders import Listing

CHANNELS = 3
SIDE = 256  # pixels, where data.image_size says nothing else
TRAIN_PER_CLASS = 1281  # on average; 732 to 1300


@cache
def class_names() -> dict[int, str]:
    """Names with synonyms, such as "tench, Tinca tinca", by id: the place of the wnid among all in order.

    Two classes called alike have their ids behind the name: "crane (134)" is the bird.
    """
    from timm.data import ImageNetInfo

    return usable_names(dict(enumerate(ImageNetInfo("imagenet-1k").label_descriptions())))


@cache
def wnids() -> dict[str, int]:
    """Ids by WordNet's names of the classes, such as n02099601."""
    from timm.data import ImageNetInfo

    return {name: i for i, name in enumerate(ImageNetInfo("imagenet-1k").label_names())}


def named(listing: Listing, path: str) -> Listing:
    """A listing of folders by wnid with the names of their classes.

    Raises:
        InputError: if a folder is no class of ImageNet-1k, or a class has no folder.
    """
    found = set(listing.id2label.values())
    for names, problem in (
        (found - wnids().keys(), "is no class of ImageNet-1k"),
        (wnids().keys() - found, "is missing"),
    ):
        if names:
            raise InputError(
                f"{path}/train must hold one folder for each of ImageNet's {len(wnids())} wnids: {min(names)} "
                f"{problem} ({len(names)} such); use data.name=image_folder for other sets of classes."
            )
    return replace(listing, id2label=class_names())  # both are in the order of wnids
