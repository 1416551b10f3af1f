"""Distances between two sets of features without the bias of finite sets of independent samples, each with a 95%
interval, and the ratio of two of them. Fixed numbers of each class on either side bias both of two distances alike.

They are taken in float64 on the device of the features. Nothing is drawn for the kernel distance; for the Frechet
distance a seed says which samples are in which part.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.rates import Z_95
from dualoptim_diffusion.diffusion.randomness import generator

LEAST_SAMPLES = 4  # of either side of a kernel distance
ROWS = 1024  # of a kernel matrix that are in memory at a time
PARTS = (1, 2, 3, 4)  # into how many parts the Frechet distance splits both sets
LEAST_PER_DIMENSION = 4  # samples; with fewer the Frechet distance of infinitely many comes out too high


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


class _KernelSums:
    """What is needed of the kernel's values between two sets, or within one without a sample's value with itself."""

    def __init__(self, x: Tensor, y: Tensor | None = None) -> None:
        other = x if y is None else y
        rows, squares = [], x.new_zeros(())
        columns = x.new_zeros(len(other))
        for first in range(0, len(x), ROWS):
            values = polynomial_kernel(x[first : first + ROWS], other)
            if y is None:
                values.diagonal(first).zero_()
            rows.append(values.sum(1))
            columns += values.sum(0)
            squares += values.square().sum()
        self.rows, self.columns, self.squares = torch.cat(rows), columns, squares  # [len(x)], [len(other)], []


def polynomial_kernel(x: Tensor, y: Tensor) -> Tensor:
    """(x.y / D + 1)^3 of features [N, D] and [M, D]: [N, M]."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def kernel_distance(generated: Tensor, reference: Tensor, seeds: Tensor | None = None) -> Estimate:
    """KID, the unbiased polynomial MMD^2 (Binkowski et al., 2018): over all pairs of samples, not random subsets.

    Its variance has five parts by Hoeffding's decomposition: what either set's samples add one by one, and what pairs
    add within either set and between the two. Pairs are all that is left where both sets have one distribution, and an
    interval without them would be far too narrow there. Each part is estimated without bias from sums of the same
    kernel matrices; the variance of the samples' influences holds what pairs add twice. The interval is normal,
    and a little wide for sets of one distribution: it holds 0 in 97% to 99% of them.

    Args:
        generated, reference: features [N, D] and [M, D], at least LEAST_SAMPLES of each.
        seeds: [N], numbers from 0 on: samples of one seed begin with the same noise and are not independent, whatever
            their labels; each has its own if None.

    Raises:
        InputError: if there are fewer, or the features do not fit together.
    """
    x, y = _checked(generated, reference, LEAST_SAMPLES)
    (n, m), within_x, within_y, between = (len(x), len(y)), _KernelSums(x), _KernelSums(y), _KernelSums(x, y)
    value = within_x.rows.sum() / (n * (n - 1)) + within_y.rows.sum() / (m * (m - 1)) - 2 * between.rows.sum() / (n * m)
    pairs_x, pairs_y, pairs_xy = _of_pairs(within_x), _of_pairs(within_y), _of_pairs_between(between)
    of_x, of_y = 2 * (within_x.rows / (n - 1) - between.rows / m), 2 * (within_y.rows / (m - 1) - between.columns / n)
    of_reference_pairs = 2 * pairs_y / (m * (m - 1))
    of_pairs = 2 * pairs_x / (n * (n - 1)) + of_reference_pairs + 4 * pairs_xy / (n * m)
    return Estimate(value.item(), _by_seed(of_x, seeds), of_y, n, m, of_pairs.item(), of_reference_pairs.item())


def _by_seed(influences: Tensor, seeds: Tensor | None) -> Tensor:
    """Influences [N] of samples summed up to those of seeds [S], scaled so that their mean is the samples'."""
    if seeds is None or (count := int(seeds.max()) + 1) < 2:
        return influences
    influences = influences - influences.mean()  # seeds may have unequal numbers of samples
    summed = influences.new_zeros(count).index_add(0, seeds.to(influences.device), influences)
    return summed * count / len(influences)


def _of_pairs(sums: _KernelSums) -> Tensor:
    """Mean square of the centred kernel between two samples of one set (unbiased HSIC; Song et al., 2012)."""
    n, total = len(sums.rows), sums.rows.sum()
    centred = sums.squares - 2 * sums.rows.square().sum() / (n - 2) + total**2 / ((n - 1) * (n - 2))
    return centred.clamp(min=0) / (n * (n - 3))


def _of_pairs_between(sums: _KernelSums) -> Tensor:
    """Mean square of the kernel between two sets, centred over rows and columns: what is left of a two-way layout."""
    n, m, total = len(sums.rows), len(sums.columns), sums.rows.sum()
    centred = sums.squares - sums.rows.square().sum() / m - sums.columns.square().sum() / n + total**2 / (n * m)
    return centred.clamp(min=0) / ((n - 1) * (m - 1))


def frechet_infinity(generated: Tensor, reference: Tensor, seeds: Tensor | None = None, *, seed: int = 0) -> Estimate:
    """The Frechet distance that infinitely many samples would have (after Chong and Forsyth, 2020).

    Both sets are split at random into 1, 2, 3 and 4 parts, and each part of one is measured against a part of the
    other: ten distances. The bias is in proportion to 1 / n, so to the number of parts, and a straight line through
    the four means is read off at no parts. All samples are in every mean, so a small part adds no variance of first
    order. The interval is normal; its variance is that of the samples' influences on the distance of the whole sets.

    The reference is split too because its size biases as well: two samples of one distribution shall come out at 0.
    The larger set is first cut at random to the size of the smaller, because the line is straight for parts of one
    size and bent for others. It is bent too where a part has fewer samples than dimensions: with fewer than
    LEAST_PER_DIMENSION x D samples of independent features the value comes out too high.

    Args:
        generated, reference: features [N, D] and [M, D].
        seeds: as in `kernel_distance`.
        seed: of the splits.

    Raises:
        InputError: if a part would have fewer than 2 samples, or the features do not fit together.
    """
    whole_x, whole_y = _checked(generated, reference, least=2 * max(PARTS))
    n = min(len(whole_x), len(whole_y))
    chosen, of_reference = (_order(whole, n, seed, s) for whole, s in ((whole_x, "generated"), (whole_y, "reference")))
    x, y = whole_x[chosen], whole_y[of_reference]
    at_one, of_x, of_y = _frechet_with_influences(x, y)
    means = [at_one]
    for parts in PARTS[1:]:
        pairs = zip(x.tensor_split(parts), y.tensor_split(parts), strict=True)
        means.append(sum(_frechet(a, b) for a, b in pairs) / parts)
    of_seeds = _by_seed(of_x, None if seeds is None else seeds[chosen.cpu()])
    return Estimate(_at_none(means), of_seeds, of_y, len(whole_x), len(whole_y))


def _order(samples: Tensor, n: int, seed: int, side: str) -> Tensor:
    """Indices of n of the samples in random order."""
    order = torch.randperm(len(samples), generator=generator(seed, "frechet-infinity", side))
    return order[:n].to(samples.device)


def _at_none(means: Sequence[float]) -> float:
    """Where the least-squares line through the means over PARTS is at 0."""
    centre = sum(PARTS) / len(PARTS)
    spread = sum((k - centre) ** 2 for k in PARTS)
    slope = sum((k - centre) * mean for k, mean in zip(PARTS, means, strict=True)) / spread
    return sum(means) / len(means) - slope * centre


def _frechet(x: Tensor, y: Tensor) -> float:
    """|mu_x - mu_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2)), with unbiased covariances."""
    root = _power(torch.linalg.eigh(x.T.cov()), 0.5)
    return _from_moments(x, y, torch.linalg.eigvalsh(root @ y.T.cov() @ root))


def _from_moments(x: Tensor, y: Tensor, eigenvalues: Tensor) -> float:
    """The distance of features [N, D] and [M, D], given the eigenvalues [D] of S_x^(1/2) S_y S_x^(1/2)."""
    means = (x.mean(0) - y.mean(0)).square().sum()
    return (means + x.var(0).sum() + y.var(0).sum() - 2 * eigenvalues.clamp(min=0).sqrt().sum()).item()


def _frechet_with_influences(x: Tensor, y: Tensor) -> tuple[float, Tensor, Tensor]:
    """The distance and the influence of every sample of either set on it, [N] and [M].

    With m = mu_x - mu_y and T the linear map that carries N(0, S_x) to N(0, S_y), a sample's influence is, but for its
    mean, 2 m.u + u.(1 - T) u with u = x - mu_x; that of a y is the same with -m and the inverse of T.
    """
    of_x = torch.linalg.eigh(x.T.cov())
    root, inverse = _power(of_x, 0.5), _power(of_x, -0.5)
    of_both = torch.linalg.eigh(root @ y.T.cov() @ root)
    there, back = inverse @ _power(of_both, 0.5) @ inverse, root @ _power(of_both, -0.5) @ root
    shift = x.mean(0) - y.mean(0)
    return _from_moments(x, y, of_both[0]), _influence(x, shift, there), _influence(y, -shift, back)


def _influence(samples: Tensor, shift: Tensor, transport: Tensor) -> Tensor:
    """[N], but for a constant."""
    centred = samples - samples.mean(0)
    return 2 * centred @ shift + (centred.square() - centred * (centred @ transport)).sum(1)


def _power(decomposed: tuple[Tensor, Tensor], exponent: float) -> Tensor:
    """A power of the symmetric matrix of these eigenvalues [D] and eigenvectors [D, D]; those of about 0 stay 0."""
    values, vectors = decomposed
    kept = values > values.amax() * len(values) * torch.finfo(values.dtype).eps
    return (vectors * torch.where(kept, values, 1).pow(exponent).where(kept, 0)) @ vectors.T


def _checked(generated: Tensor, reference: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Both in float64."""
    shapes = f"features {list(generated.shape)} and {list(reference.shape)}"
    if generated.ndim != 2 or reference.ndim != 2 or generated.shape[1] != reference.shape[1]:
        raise InputError(f"A distance is between features [N, D] and [M, D]; these are {shapes}.")
    if not (generated.isfinite().all() and reference.isfinite().all()):
        raise InputError("A distance is between finite features; some of these are not.")
    if min(len(generated), len(reference)) < least:
        raise InputError(f"This distance needs at least {least} samples on either side; these are {shapes}.")
    return generated.double(), reference.double()
