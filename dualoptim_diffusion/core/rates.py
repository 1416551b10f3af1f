"""Shares of counted images, with intervals that stay sensible at 0 of n and n of n."""

from math import sqrt
from statistics import NormalDist
from typing import Annotated

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, lt=2**63)]

Z_95 = 1.959963984540054  # two-sided 95% quantile of the normal distribution


@with_config(ConfigDict(strict=True, extra="allow"))
class Rate(TypedDict):
    """How often something happened, in how many images; `ci95` is the 95% Wilson interval of the share `value`."""

    value: Share
    hits: Count
    n: Count
    ci95: Annotated[list[Share], Field(min_length=2, max_length=2)]


def wilson_interval(hits: float, n: float, z: float = Z_95) -> tuple[float, float]:
    """Score interval of a rate (Wilson, 1927), as fractions; 95% at the default z."""
    rate, z2 = hits / n, z**2
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * sqrt(rate * (1 - rate) / n + z2 / (4 * n * n))
    return (0.0 if hits == 0 else centre - half), (1.0 if hits == n else centre + half)


def rate(hits: int, n: int, worth: float | None = None) -> Rate:
    """A share with its counts and 95% interval.

    Args:
        worth: how many independent images the n are worth; n if None.
    """
    independent = n if worth is None else worth
    return Rate(value=hits / n, hits=hits, n=n, ci95=list(wilson_interval(hits * independent / n, independent)))


def difference_interval(
    hits: float, n: float, other_hits: float, other_n: float, z: float = Z_95, correlation: float = 0.0
) -> tuple[float, float]:
    """Interval of hits / n - other_hits / other_n (Newcombe, 1998; square-and-add, of pairs too), in [-1, 1].

    Args:
        correlation: of the two rates; 0 for independent samples.
    """
    p, q = hits / n, other_hits / other_n
    (low, high), (other_low, other_high) = wilson_interval(hits, n, z), wilson_interval(other_hits, other_n, z)

    def width(a: float, b: float) -> float:
        return sqrt(max(a**2 - 2 * correlation * a * b + b**2, 0.0))

    return p - q - width(p - low, other_high - q), p - q + width(high - p, q - other_low)


def simultaneous_z(comparisons: int) -> float:
    """z at which so many 95% intervals hold together (Bonferroni); 1.96 for one."""
    return NormalDist().inv_cdf(1 - 0.025 / comparisons)
