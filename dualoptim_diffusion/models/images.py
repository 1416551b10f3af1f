"""uint8 images, and what networks and people take for them."""

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dualoptim_diffusion.core.errors import InputError

CHANNELS = (1, 3)


def check_images(images: Any) -> None:
    """Checks that what somebody gives for images is uint8 [N, 1 or 3, H, W]; in another range figures would be wrong.

    Raises:
        InputError: if it is anything else.
    """
    is_tensor = isinstance(images, Tensor)
    if not is_tensor or images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in CHANNELS:
        given = f"{images.dtype} {list(images.shape)}" if is_tensor else f"a {type(images).__name__}"
        raise InputError(
            f"Images are given as {given}, expected a tensor torch.uint8 [N, 1 or 3, H, W] of values from 0 to 255; "
            "from [0, 1] they are made by (x * 255).round().to(torch.uint8)."
        )


def encode_images(images: Tensor) -> Tensor:
    """uint8 [B, C, H, W] -> float in [-1, 1]."""
    check_images(images)
    return images.float() / 127.5 - 1


def decode_images(x_0: Tensor) -> Tensor:
    """float [B, C, H, W] -> uint8, values outside [-1, 1] cut."""
    return ((x_0.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def to_unit(x_0: Tensor) -> Tensor:
    """float [B, C, H, W] in [-1, 1] -> float32 in [0, 1]; values outside are cut."""
    return (x_0 / 2 + 0.5).clamp(0, 1).float()


def to_pil(images: Tensor) -> list[Image.Image]:
    """uint8 [B, 1 or 3, H, W] -> PIL images."""
    return [Image.fromarray(i.permute(1, 2, 0).squeeze(-1).cpu().numpy()) for i in images]
