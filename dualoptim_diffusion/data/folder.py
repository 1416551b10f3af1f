"""Real images from a folder with one subfolder a class."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from dualoptim_diffusion.data.datasets import ImageSet
from dualoptim_diffusion.errors import InputError, nearest

SUFFIXES = (".png", ".jpg", ".jpeg")


def load_image_folder(folder: Path, id2label: Mapping[int, str], shape: tuple[int, ...]) -> ImageSet:
    """Images of `folder/CLASS/*.{png,jpg}` as uint8 [N, C, H, W] of the given shape [C, H, W], resized where needed.

    Raises:
        InputError: if there are none, a subfolder is no class, or an image cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {str(folder)!r} of real images.")
    channels, height, width = shape
    ids = {name: i for i, name in id2label.items()}
    images, labels = [], []
    for path in sorted(path for path in folder.glob("*/*") if path.suffix.lower() in SUFFIXES):
        if path.parent.name not in ids:
            raise InputError(f"{path.parent} is named after no class: {nearest(path.parent.name, ids)}")
        try:
            with Image.open(path) as picture:
                pixels = picture.convert("L" if channels == 1 else "RGB")
                pixels = pixels.resize((width, height), Image.Resampling.BICUBIC)
        except (OSError, UnidentifiedImageError) as error:
            raise InputError(f"The image {path} cannot be read ({error}).") from None
        images.append(torch.from_numpy(np.array(pixels)).view(height, width, -1).permute(2, 0, 1))
        labels.append(ids[path.parent.name])
    if not images:
        raise InputError(f"{folder} holds no images in folders named after classes, such as {next(iter(ids))}/0.png.")
    return ImageSet(torch.stack(images), torch.tensor(labels), dict(id2label))
