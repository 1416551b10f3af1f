"""Counting hits honestly."""

from math import sqrt

from torch import Tensor

Z_95 = 1.959963984540054  # two-sided 95% quantile of the normal distribution
FLAT_RANGE = 8  # grey levels of 255: an image whose brightest and darkest value differ by less shows nothing


def wilson_interval(hits: int, n: int) -> tuple[float, float]:
    """95% score interval of a rate (Wilson, 1927), as fractions; sensible also at 0 of n and n of n."""
    rate, z2 = hits / n, Z_95**2
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * sqrt(rate * (1 - rate) / n + z2 / (4 * n * n))
    return (0.0 if hits == 0 else centre - half), (1.0 if hits == n else centre + half)


def degenerate(images: Tensor) -> Tensor:
    """bool [N]: which uint8 images [N, C, H, W] are one flat grey or colour."""
    pixels = images.flatten(2).int()  # [N, C, H W]
    return ((pixels.amax(2) - pixels.amin(2)) < FLAT_RANGE).all(1)
