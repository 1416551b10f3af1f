"""uint8 images, and what networks and people take for them."""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


def encode_images(images: Tensor) -> Tensor:
    """uint8 [B, C, H, W] -> float in [-1, 1]."""
    return images.float() / 127.5 - 1


def decode_images(x_0: Tensor) -> Tensor:
    """float [B, C, H, W] -> uint8, values outside [-1, 1] cut."""
    return ((x_0.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def to_unit(x_0: Tensor) -> NDArray[np.float32]:
    """float [B, C, H, W] -> [B, H, W, C] in [0, 1], values outside [-1, 1] cut."""
    return (x_0 / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float().cpu().numpy()


def to_pil(images: Tensor) -> list[Image.Image]:
    """uint8 [B, 1 or 3, H, W] -> PIL images."""
    return [Image.fromarray(i.permute(1, 2, 0).squeeze(-1).cpu().numpy()) for i in images]
