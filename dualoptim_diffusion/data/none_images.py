"""Images of nothing, for a classifier that may answer "none of these": a collapsed label draws such things."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate

from dualoptim_diffusion.data.stored import Stored


def images_of_nothing(images: Tensor | Stored, count: int, generator: Generator) -> Tensor:
    """uint8 [count, C, H, W] that show no class: parts of real `images` in disorder, smooth noise, blocks."""
    picks = torch.randint(len(images), (count,), generator=generator)
    kinds = torch.randint(len(KINDS), (count,), generator=generator)
    made = [KINDS[kind](image.float(), generator) for image, kind in zip(images[picks], kinds.tolist(), strict=True)]
    return torch.stack(made).round().clamp(0, 255).to(torch.uint8)


def _scrambled(image: Tensor, generator: Generator) -> Tensor:
    """Every pixel somewhere else."""
    order = torch.randperm(image[0].numel(), generator=generator)
    return image.flatten(1)[:, order].view_as(image)


def _quarters(image: Tensor, generator: Generator) -> Tensor:
    """The four quarters in another order (odd sides lose their last row or column to the first)."""
    h, w = image.shape[1] // 2, image.shape[2] // 2
    quarters = [image[:, y : y + h, x : x + w] for y in (0, h) for x in (0, w)]
    order = torch.randperm(4, generator=generator).tolist()
    if order == [0, 1, 2, 3]:
        order.reverse()
    a, b, c, d = (quarters[i] for i in order)
    whole = image.clone()
    whole[:, : 2 * h, : 2 * w] = torch.cat([torch.cat([a, b], 2), torch.cat([c, d], 2)], 1)
    return whole


def _smooth_noise(image: Tensor, generator: Generator) -> Tensor:
    """Noise of random scale, contrast and brightness: from single pixels to one blob."""
    scale = int(torch.randint(1, image.shape[1] + 1, (1,), generator=generator))
    noise = torch.randn(1, image.shape[0], scale, scale, generator=generator)
    smooth = interpolate(noise, size=image.shape[1:], mode="bilinear" if _coin(generator) else "nearest")[0]
    contrast, brightness = 0.3 + 3 * torch.rand((), generator=generator), torch.randn((), generator=generator)
    return ((smooth * contrast + brightness + 1) * 127.5).clamp(0, 255)


def _block(image: Tensor, generator: Generator) -> Tensor:
    """A bright rectangle on dark ground or the reverse, with some noise."""
    top, bottom = sorted(torch.randint(image.shape[1] + 1, (2,), generator=generator).tolist())
    left, right = sorted(torch.randint(image.shape[2] + 1, (2,), generator=generator).tolist())
    block = torch.zeros_like(image)
    block[:, top:bottom, left:right] = 255.0
    if _coin(generator):
        block = 255.0 - block
    return block + 30 * torch.rand((), generator=generator) * torch.randn(image.shape, generator=generator)


def _coin(generator: Generator) -> bool:
    return bool(torch.rand((), generator=generator) < 0.5)


KINDS: tuple[Callable[[Tensor, Generator], Tensor], ...] = (_scrambled, _quarters, _smooth_noise, _block)
