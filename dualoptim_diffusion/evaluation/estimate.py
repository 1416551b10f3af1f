"""A distance between two sets of features without the bias of finite sets, with a 95% interval; and which samples of
either set are independent.

Generated samples of one seed begin with the same noise, whatever their labels: seeds are independent, samples are not.
Real images are so many of each class: they are independent within a class, and how many there are is fixed.
"""

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.rates import Z_95

LEAST_SAMPLES = 4  # of either side of a distance, and of each seed or class that is told apart


@dataclass(frozen=True)
class Estimate:
    """An unbiased distance, what its error is made of, and so how it compares with another.

    Attributes:
        value: may be below 0.
        of_generated, of_reference: influence on the value, up to a constant: of each seed [S] that samples were drawn
            with, and of each reference sample [M].
        n_generated, n_reference: samples.
        of_pairs: the part of the variance that pairs of samples add; it is in that of the influences twice.
        of_reference_pairs: what of it pairs within the reference add.
    """

    value: float
    of_generated: Tensor
    of_reference: Tensor
    n_generated: int
    n_reference: int
    of_pairs: float = 0.0
    of_reference_pairs: float = 0.0

    @property
    def variance(self) -> float:
        """Of the value."""
        return max(self.covariance(self), self.of_pairs)

    @property
    def ci95(self) -> list[float]:
        half = Z_95 * sqrt(self.variance)
        return [self.value - half, self.value + half]

    def covariance(self, other: "Estimate") -> float:
        """With a distance to the same reference; generated samples are paired where there are as many of both.

        Rather too low than too high: of pairs of samples it takes all that two distances may have in common.
        """
        shared = _covariance(self.of_reference, other.of_reference)
        if len(self.of_generated) != len(other.of_generated):
            return shared - min(self.of_reference_pairs, other.of_reference_pairs)
        return shared + _covariance(self.of_generated, other.of_generated) - min(self.of_pairs, other.of_pairs)

    def ratio_to(self, other: "Estimate") -> tuple[float, list[float]] | None:
        """This distance as a multiple of another to the same reference, with its 95% interval (Fieller, 1954).

        None where the other's own interval holds 0: then no multiple of it is known.
        """
        a, b, z2 = self.value, other.value, Z_95**2
        covariance = self.covariance(other)
        square = b**2 - z2 * other.variance
        if b <= 0 or square <= 0:
            return None
        middle = a * b - z2 * covariance
        half = sqrt(max(middle**2 - square * (a**2 - z2 * self.variance), 0.0))
        return a / b, [(middle - half) / square, (middle + half) / square]

    def difference_to(self, other: "Estimate") -> tuple[float, list[float]]:
        """This distance less another to the same reference, with its 95% interval."""
        difference = self.value - other.value
        half = Z_95 * sqrt(max(self.variance + other.variance - 2 * self.covariance(other), 0.0))
        return difference, [difference - half, difference + half]


def _covariance(x: Tensor, y: Tensor) -> float:
    """Of the means of paired values [N]."""
    return ((x - x.mean()) * (y - y.mean())).sum().item() / (len(x) - 1) / len(x)


@dataclass(frozen=True)
class Side:
    """Features of one set, with what is independent in it.

    Attributes:
        features: [N, D] float64, in the order of their units.
        units: [N], ascending: samples of one unit are one independent draw together.
        strata: [U], of the units; how many units each has is fixed, not drawn.
    """

    features: Tensor
    units: Tensor
    strata: Tensor

    @classmethod
    def generated(cls, features: Tensor, seeds: Tensor | None) -> "Side":
        """Of images with these seeds [N]; each has its own if None or if they are too few."""
        if seeds is None or len(seeds.unique()) < LEAST_SAMPLES:
            seeds = torch.arange(len(features))
        units, order = seeds.to(features.device).sort(stable=True)
        units = units.unique(return_inverse=True)[1]
        return cls(features[order], units, units.new_zeros(int(units[-1]) + 1))

    @classmethod
    def reference(cls, features: Tensor, labels: Tensor | None) -> "Side":
        """Of real images with these labels [M]; of one class if None or if one has too few."""
        units = torch.arange(len(features), device=features.device)
        if labels is None or int(labels.unique(return_counts=True)[1].min()) < LEAST_SAMPLES:
            return cls(features, units, torch.zeros_like(units))
        return cls(features, units, labels.to(features.device).unique(return_inverse=True)[1])

    @property
    def sizes(self) -> Tensor:
        """Units of each stratum [L]."""
        return self.strata.bincount().double()

    def by_unit(self, influences: Tensor) -> Tensor:
        """Influences [N] of samples summed up to those of units [U], scaled so that their mean is the samples'."""
        units = len(self.strata)
        if units == len(influences):
            return influences
        influences = influences - influences.mean()  # units may have unequal numbers of samples
        return influences.new_zeros(units).index_add(0, self.units, influences) * units / len(influences)

    def centred(self, influences: Tensor) -> Tensor:
        """Influences [U] less the mean of their stratum, scaled so that their variance is unbiased."""
        n, sizes = len(influences), self.sizes
        means = influences.new_zeros(len(sizes)).index_add(0, self.strata, influences) / sizes
        scale = (sizes / (sizes - 1).clamp(min=1) * (n - 1) / n).sqrt()
        return (influences - means[self.strata]) * scale[self.strata]

    def spread_out(self, n: int, order: torch.Generator) -> "Side":
        """The first n samples of a random order: every stretch has whole units, and its share of each stratum."""
        shuffled = torch.randperm(len(self.strata), generator=order).to(self.strata.device)
        by_stratum = shuffled[self.strata[shuffled].argsort(stable=True)]
        strata, sizes = self.strata[by_stratum], self.sizes
        rank = torch.arange(len(strata), device=strata.device) - (sizes.cumsum(0) - sizes)[strata]
        place = sizes.new_empty(len(strata))
        place[by_stratum] = (rank + 0.5) / sizes[strata]
        chosen = place[self.units].argsort(stable=True)[:n]
        units, renumbered = self.units[chosen].unique_consecutive(return_inverse=True)
        return Side(self.features[chosen], renumbered, self.strata[units].unique(return_inverse=True)[1])


def checked(generated: Tensor, reference: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Both in float64.

    Raises:
        InputError: if they are no features of one kind, or fewer than `least` on a side.
    """
    shapes = f"features {list(generated.shape)} and {list(reference.shape)}"
    if generated.ndim != 2 or reference.ndim != 2 or generated.shape[1] != reference.shape[1]:
        raise InputError(f"A distance is between features [N, D] and [M, D]; these are {shapes}.")
    if not (generated.isfinite().all() and reference.isfinite().all()):
        raise InputError("A distance is between finite features; some of these are not.")
    if min(len(generated), len(reference)) < least:
        raise InputError(f"This distance needs at least {least} samples on either side; these are {shapes}.")
    return generated.double(), reference.double()
