"""Image sets from what Python holds: arrays, or any map-style dataset of (image, label)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dualoptim_diffusion.core.classes import same_classes, some
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.terminal import progress
from dualoptim_diffusion.data.image_set import ImageSet
from dualoptim_diffusion.files.image_files import pixels_of, plain

SHOWN_FROM = 5000  # images: fewer take no time worth a progress bar


def image_set(dataset: Any, id2label: Mapping[int, str], shape: tuple[int, ...]) -> ImageSet:
    """The images of a dataset with the labels of a model, read once and held in memory.

    Args:
        dataset: an `ImageSet`; a pair (images, labels) of tensors or arrays; or a map-style dataset of (image, label),
            such as torchvision's `ImageFolder`. An image is a PIL image, or [C, H, W], [H, W, C] or [H, W] of uint8
            from 0 to 255 or floats in [0, 1]. A label is a class id of the model. Where the dataset has `classes`, a
            list of names, labels are matched to the model's by name.
        id2label: names of the model's classes.
        shape: [C, H, W] that the model draws.

    Raises:
        InputError: if an image has another shape or range, a label is no class of the model, or there is no image.
    """
    if isinstance(dataset, ImageSet):
        found = dataset
    else:
        images, labels = zip(*_pairs(dataset), strict=True) if len(dataset) else ((), ())
        if not images:
            raise InputError("The dataset is empty, expected at least one image of each class.")
        stacked = torch.stack([_pixels(image, shape, i) for i, image in enumerate(images)])
        found = ImageSet(stacked, _labels(labels, getattr(dataset, "classes", None), id2label), dict(id2label))
    if not same_classes(found.id2label, id2label):
        raise InputError(f"The dataset names {some(found.id2label)}, the model {some(id2label)}.")
    if tuple(found.images.shape[1:]) != tuple(shape):
        raise InputError(_other_shape(found.images.shape[1:], shape, 0))
    return found


def _pairs(dataset: Any) -> Iterator[tuple[Any, Any]]:
    """(image, label) of each example."""
    if isinstance(dataset, tuple | list) and len(dataset) == 2 and all(hasattr(part, "shape") for part in dataset):
        images, labels = dataset
        if len(images) != len(labels):
            raise InputError(f"There are {len(images)} images, but {len(labels)} labels; expected one an image.")
        yield from zip(images, labels, strict=True)
        return
    for i in progress(range(len(dataset)), desc="reading images", unit="img", disable=len(dataset) < SHOWN_FROM):
        example = dataset[i]
        if not isinstance(example, tuple | list) or len(example) != 2:
            raise InputError(f"Example {i} of the dataset is a {type(example).__name__}, expected (image, label).")
        yield example[0], example[1]


def _labels(labels: Sequence[Any], names: Sequence[str] | None, id2label: Mapping[int, str]) -> Tensor:
    """Class ids of the model [N]."""
    try:
        ids = torch.tensor([int(label) for label in labels])
    except (TypeError, ValueError):
        raise InputError(f"A label of the dataset is {labels[0]!r}, expected the id of a class.") from None
    if names is not None:
        by_name = {name: i for i, name in id2label.items()}
        if unknown := [name for name in names if name not in by_name]:
            raise InputError(f"The dataset's class {unknown[0]!r} is none of the model's {some(id2label)}.")
        if len(ids) and not 0 <= ids.min() <= ids.max() < len(names):
            raise InputError(f"Labels run from {ids.min()} to {ids.max()}, but the dataset names {len(names)} classes.")
        ids = torch.tensor([by_name[name] for name in names])[ids]
    return ids


def _pixels(image: Any, shape: tuple[int, ...], index: int) -> Tensor:
    """uint8 [C, H, W] of one image."""
    channels = shape[0]
    if isinstance(image, Image.Image):
        pixels = torch.from_numpy(pixels_of(plain(image, channels, str(index))))
    else:
        pixels = torch.as_tensor(image)
        if pixels.ndim == 2:
            pixels = pixels[None]
        elif pixels.ndim == 3 and pixels.shape[0] != channels and pixels.shape[2] == channels:
            pixels = pixels.permute(2, 0, 1)
    if tuple(pixels.shape) != tuple(shape):
        raise InputError(_other_shape(pixels.shape, shape, index))
    if pixels.dtype == torch.uint8:
        return pixels.contiguous()
    if not pixels.is_floating_point() or not 0 <= pixels.min() <= pixels.max() <= 1:
        raise InputError(
            f"Image {index} has {pixels.dtype} values from {pixels.min():g} to {pixels.max():g}, expected uint8 from 0 "
            "to 255 or floats in [0, 1]; leave out the normalisation."
        )
    return (pixels * 255).round().to(torch.uint8).contiguous()


def _other_shape(found: Sequence[int], shape: Sequence[int], index: int) -> str:
    return (
        f"Image {index} has the shape {list(found)}, but the model draws {list(shape)} (channels, height, width); "
        "resize the images."
    )
