"""Distances between two sets of features without the bias of finite sets, each with a 95% interval. They are taken in
float64 on the device of the features. Nothing is drawn for the kernel distance; for the Frechet distance a seed says
which samples are in which part.
"""

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor
from typing_extensions import NotRequired, TypedDict

from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.rates import Z_95
from dualoptim_diffusion.diffusion.randomness import generator

ROWS = 1024  # of a kernel matrix that are in memory at a time
PARTS = (1, 2, 3, 4)  # into how many parts the Frechet distance splits both sets


class Distance(TypedDict):
    """An unbiased distance and its 95% interval, which may be below 0; `at_n` is the plain distance of the samples."""

    value: float
    ci95: list[float]
    n_generated: int
    n_reference: int
    at_n: NotRequired[float]


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


def kernel_distance(generated: Tensor, reference: Tensor) -> Distance:
    """The unbiased polynomial MMD^2 (Binkowski et al., 2018) over all pairs of samples, not over random subsets.

    Its variance has five parts by Hoeffding's decomposition: what either set's samples add one by one, and what pairs
    add within either set and between the two. Pairs are all that is left where both sets have one distribution, and an
    interval without them would be far too narrow there. Each part is estimated without bias from sums of the same
    kernel matrices, and what single samples add is taken as 0 where it comes out below. The interval is normal,
    and a little wide for sets of one distribution: it holds 0 in 97% to 99% of them.

    Args:
        generated, reference: features [N, D] and [M, D], at least 4 of each.

    Raises:
        InputError: if there are fewer, or the features do not fit together.
    """
    x, y = _checked(generated, reference, least=4)
    (n, m), within_x, within_y, between = (len(x), len(y)), _KernelSums(x), _KernelSums(y), _KernelSums(x, y)
    value = within_x.rows.sum() / (n * (n - 1)) + within_y.rows.sum() / (m * (m - 1)) - 2 * between.rows.sum() / (n * m)
    pairs_x, pairs_y, pairs_xy = _of_pairs(within_x), _of_pairs(within_y), _of_pairs_between(between)
    single_x = (within_x.rows / (n - 1) - between.rows / m).var() - pairs_x / (n - 1) - pairs_xy / m
    single_y = (within_y.rows / (m - 1) - between.columns / n).var() - pairs_y / (m - 1) - pairs_xy / n
    variance = (4 * single_x / n + 4 * single_y / m).clamp(min=0)
    variance += 2 * pairs_x / (n * (n - 1)) + 2 * pairs_y / (m * (m - 1)) + 4 * pairs_xy / (n * m)
    return _distance(value.item(), sqrt(max(variance.item(), 0.0)), n, m)


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


def frechet_infinity(generated: Tensor, reference: Tensor, *, seed: int = 0) -> Distance:
    """The Frechet distance that infinitely many samples would have (after Chong and Forsyth, 2020).

    Both sets are split at random into 1, 2, 3 and 4 parts, and each part of one is measured against a part of the
    other: ten distances. The bias is in proportion to 1 / n, so to the number of parts, and a straight line through
    the four means is read off at no parts. All samples are in every mean, so a small part adds no variance of first
    order. The interval is normal; its variance is that of the samples' influences on the distance of the whole sets.

    The reference is split too because its size biases as well: two samples of one distribution shall come out at 0.
    The larger set is first cut at random to the size of the smaller, because the line is straight for parts of one
    size and bent for others. It is bent too where a part has fewer samples than dimensions: with fewer than 4 D samples
    of independent features the value comes out too high. `at_n` is of the sets as they are given.

    Args:
        generated, reference: features [N, D] and [M, D].
        seed: of the splits.

    Raises:
        InputError: if a part would have fewer than 2 samples, or the features do not fit together.
    """
    whole_x, whole_y = _checked(generated, reference, least=2 * max(PARTS))
    n = min(len(whole_x), len(whole_y))
    x, y = (_chosen(whole, n, seed, side) for whole, side in ((whole_x, "generated"), (whole_y, "reference")))
    at_one, error = _frechet_with_error(x, y)
    means = [at_one]
    for parts in PARTS[1:]:
        pairs = zip(x.tensor_split(parts), y.tensor_split(parts), strict=True)
        means.append(sum(_frechet(a, b) for a, b in pairs) / parts)
    at_n = at_one if len(whole_x) == len(whole_y) else _frechet(whole_x, whole_y)
    return {**_distance(_at_none(means), error, len(whole_x), len(whole_y)), "at_n": at_n}


def _chosen(samples: Tensor, n: int, seed: int, side: str) -> Tensor:
    """n of the samples in random order."""
    order = torch.randperm(len(samples), generator=generator(seed, "frechet-infinity", side))
    return samples[order[:n].to(samples.device)]


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


def _frechet_with_error(x: Tensor, y: Tensor) -> tuple[float, float]:
    """The distance and its standard error, from the influence of every sample on it.

    With m = mu_x - mu_y and T the linear map that carries N(0, S_x) to N(0, S_y), a sample's influence is, but for its
    mean, 2 m.u + u.(1 - T) u with u = x - mu_x; that of a y is the same with -m and the inverse of T.
    """
    of_x = torch.linalg.eigh(x.T.cov())
    root, inverse = _power(of_x, 0.5), _power(of_x, -0.5)
    of_both = torch.linalg.eigh(root @ y.T.cov() @ root)
    there, back = inverse @ _power(of_both, 0.5) @ inverse, root @ _power(of_both, -0.5) @ root
    shift = x.mean(0) - y.mean(0)
    variance = _influence(x, shift, there).var() / len(x) + _influence(y, -shift, back).var() / len(y)
    return _from_moments(x, y, of_both[0]), variance.sqrt().item()


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


def _distance(value: float, error: float, n_generated: int, n_reference: int) -> Distance:
    ci95 = [value - Z_95 * error, value + Z_95 * error]
    return {"value": value, "ci95": ci95, "n_generated": n_generated, "n_reference": n_reference}
