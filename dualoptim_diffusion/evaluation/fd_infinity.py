"""FD-infinity, the Frechet distance that infinitely many samples would have, with what it takes for an interval.

It is taken in float64 on the device of the features; a seed says which samples are in which part.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dualoptim_diffusion.diffusion.randomness import generator
from dualoptim_diffusion.evaluation.estimate import Estimate, Side, checked

PARTS = (1, 2, 3, 4)  # into how many parts both sets are split
LEAST_PER_DIMENSION = 4  # samples; with fewer the distance of infinitely many comes out too high


def frechet_infinity(
    generated: Tensor, reference: Tensor, seeds: Tensor | None = None, labels: Tensor | None = None, *, seed: int = 0
) -> Estimate:
    """The Frechet distance that infinitely many samples would have (after Chong and Forsyth, 2020).

    Both sets are split at random into 1, 2, 3 and 4 parts, of whole seeds and of a share of every class, and each part
    of one is measured against a part of the other: ten distances. The bias is in proportion to 1 / n, so to the number
    of parts, and a straight line through the four means is read off at no parts. All samples are in every mean, so a
    small part adds no variance of first order. The interval is normal; its variance is that of the samples' influences
    on the distance of the whole sets.

    The reference is split too because its size biases as well: two samples of one distribution shall come out at 0.
    The larger set is first cut at random to the size of the smaller, because the line is straight for parts of one
    size and bent for others. It is bent too where a part has fewer samples than dimensions: with fewer than
    LEAST_PER_DIMENSION x D samples of independent features the value comes out too high.

    Args:
        generated, reference: features [N, D] and [M, D].
        seeds, labels: as in `kernel_distance`.
        seed: of the splits.

    Raises:
        InputError: if a part would have fewer than 2 samples, or the features do not fit together.
    """
    features = checked(generated, reference, least=2 * max(PARTS))
    n = min(len(generated), len(reference))
    sides = Side.generated(features[0], seeds), Side.reference(features[1], labels)
    by_seed, by_class = (
        side.spread_out(n, generator(seed, "frechet-infinity", name))
        for side, name in zip(sides, ("generated", "reference"), strict=True)
    )
    x, y = by_seed.features, by_class.features
    at_one, of_x, of_y = _frechet_with_influences(x, y)
    means = [at_one]
    for parts in PARTS[1:]:
        pairs = zip(x.tensor_split(parts), y.tensor_split(parts), strict=True)
        means.append(sum(_frechet(a, b) for a, b in pairs) / parts)
    return Estimate(
        value=_at_none(means),
        of_generated=by_seed.centred(by_seed.by_unit(of_x)),
        of_reference=by_class.centred(of_y),
        n_generated=len(generated),
        n_reference=len(reference),
    )


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
