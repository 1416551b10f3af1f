"""Unbiased distances: against loops, closed forms and the package, and how often their intervals hold the truth."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.evaluation.frechet import FeatureStatistics, frechet_distance
from studies import figures
from studies.figures import Distance, frechet_infinity, kernel_distance


def normal(seed: int, n: int, d: int, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * scale + shift


def share_covered(found: list[Distance], truth: float) -> float:
    return sum(one["ci95"][0] <= truth <= one["ci95"][1] for one in found) / len(found)


def mean_value(found: list[Distance]) -> float:
    return sum(one["value"] for one in found) / len(found)


def shifted_mmd(d: int, shift: float) -> float:
    """MMD^2 of N(0, 1) and N(shift, 1) in d dimensions, by their first three moments."""
    q = d * shift**2
    return 3 * q / d + 3 * q**2 / d**2 + (q**3 + 6 * q**2 + 3 * (d + 2) * q) / d**3


def test_the_kernel_distance_is_the_mean_over_all_pairs_of_different_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(0, 9, 3).double(), normal(1, 6, 3, 0.4).double()

    def kernel(a: Tensor, b: Tensor) -> float:
        return (a.dot(b).item() / 3 + 1) ** 3

    within_x = [kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j]
    within_y = [kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j]
    between = [kernel(a, b) for a in x for b in y]
    expected = sum(within_x) / 72 + sum(within_y) / 30 - 2 * sum(between) / 54
    at_once = kernel_distance(x, y)
    assert at_once["value"] == pytest.approx(expected, rel=1e-12)
    assert (at_once["n_generated"], at_once["n_reference"]) == (9, 6)
    monkeypatch.setattr(figures, "ROWS", 4)
    assert kernel_distance(x, y)["value"] == pytest.approx(expected, rel=1e-12)
    assert kernel_distance(x, y)["ci95"] == pytest.approx(at_once["ci95"], rel=1e-12)


def test_what_pairs_add_is_estimated_without_bias() -> None:
    """Of x.y with x and y from N(0, 1) in d dimensions, the mean square is d."""
    within, between = [], []
    for seed in range(400):
        x, y = normal(2 * seed, 12, 3).double(), normal(2 * seed + 1, 8, 3).double()
        sums = figures._KernelSums(x), figures._KernelSums(x, y)
        for one, values in zip(sums, (x @ x.T - torch.diag((x @ x.T).diagonal()), x @ y.T), strict=True):
            one.rows, one.columns, one.squares = values.sum(1), values.sum(0), values.square().sum()
        within.append(figures._of_pairs(sums[0]).item())
        between.append(figures._of_pairs_between(sums[1]).item())
    assert sum(within) / 400 == pytest.approx(3, abs=0.25)
    assert sum(between) / 400 == pytest.approx(3, abs=0.25)


@pytest.mark.parametrize(("n", "m"), [(100, 100), (150, 60)])
def test_the_kernel_intervals_of_two_samples_of_one_distribution_hold_0(n: int, m: int) -> None:
    found = [kernel_distance(normal(2 * seed, n, 16), normal(2 * seed + 1, m, 16)) for seed in range(200)]
    assert share_covered(found, 0.0) >= 0.93
    widths = torch.tensor([one["ci95"][1] - one["ci95"][0] for one in found])
    spread = torch.tensor([one["value"] for one in found]).std() * 2 * 1.96
    assert 0.9 < widths.mean() / spread < 1.3  # neither too narrow nor far too wide
    assert abs(mean_value(found)) < 0.15 * spread


@pytest.mark.parametrize("shift", [0.1, 0.5])
def test_the_kernel_intervals_hold_the_closed_form_of_a_shift(shift: float) -> None:
    found = [kernel_distance(normal(2 * seed, 120, 16), normal(2 * seed + 1, 120, 16, shift)) for seed in range(200)]
    assert 0.89 <= share_covered(found, shifted_mmd(16, shift)) <= 0.99
    assert mean_value(found) == pytest.approx(shifted_mmd(16, shift), rel=0.05, abs=0.004)


def test_the_plain_distance_is_that_of_the_package() -> None:
    mix = normal(0, 24, 24)
    x, y = normal(1, 400, 24) @ mix, normal(2, 300, 24, 0.3) @ mix.T
    expected = frechet_distance(FeatureStatistics().add(x), FeatureStatistics().add(y))
    assert frechet_infinity(x, y).get("at_n") == pytest.approx(expected, rel=1e-9)
    assert frechet_infinity(x[:300], y).get("at_n") == pytest.approx(
        frechet_distance(FeatureStatistics().add(x[:300]), FeatureStatistics().add(y)), rel=1e-9
    )


def test_features_that_never_vary_change_nothing() -> None:
    x, y = normal(0, 200, 8), normal(1, 200, 8, 0.2)
    plain = frechet_infinity(x, y)
    with_dead = frechet_infinity(*(torch.cat([part, torch.zeros(200, 3)], 1) for part in (x, y)))
    assert with_dead["value"] == pytest.approx(plain["value"], rel=1e-6)
    assert with_dead["ci95"] == pytest.approx(plain["ci95"], rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(400, 400), (400, 900)])
def test_the_frechet_distance_of_two_samples_of_one_distribution_is_about_0(n: int, m: int) -> None:
    found = [frechet_infinity(normal(2 * seed, n, 16), normal(2 * seed + 1, m, 16)) for seed in range(100)]
    assert share_covered(found, 0.0) >= 0.9
    assert abs(mean_value(found)) < 0.02
    assert all(one.get("at_n", 0) > 0.15 for one in found)  # the bias that is taken away


@pytest.mark.parametrize(("shift", "scale"), [(0.3, 1.0), (0.0, 1.3), (0.1, 1.1)])
def test_the_frechet_intervals_hold_the_closed_form_of_a_shift_and_a_scale(shift: float, scale: float) -> None:
    found = [
        frechet_infinity(normal(2 * seed, 400, 16), normal(2 * seed + 1, 400, 16, shift, scale)) for seed in range(100)
    ]
    truth = 16 * (shift**2 + (scale - 1) ** 2)
    assert share_covered(found, truth) >= 0.88
    assert mean_value(found) == pytest.approx(truth, rel=0.03, abs=0.03)


def test_unequal_sets_of_few_samples_a_dimension_are_not_biased() -> None:
    """The plain distance is at three times the truth here."""
    found = [frechet_infinity(normal(seed, 300, 64), normal(seed + 50, 900, 64, scale=1.2)) for seed in range(12)]
    assert mean_value(found) == pytest.approx(64 * 0.04, abs=0.25)
    assert min(one.get("at_n", 0) for one in found) > 3 * 64 * 0.04


def test_a_seed_fixes_the_parts_and_changes_no_plain_distance() -> None:
    x, y = normal(0, 80, 4), normal(1, 80, 4, 0.2)
    assert frechet_infinity(x, y, seed=1) == frechet_infinity(x, y, seed=1)
    assert frechet_infinity(x, y, seed=1)["value"] != frechet_infinity(x, y, seed=2)["value"]
    assert frechet_infinity(x, y, seed=1).get("at_n") == pytest.approx(frechet_infinity(x, y, seed=2).get("at_n"))


@pytest.mark.parametrize("distance", [kernel_distance, frechet_infinity])
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(9, 2), "at least"),
        (torch.zeros(9, 2), torch.zeros(9, 3), "these are"),
        (torch.zeros(9), torch.zeros(9), "these are"),
        (torch.full((9, 2), torch.nan), torch.zeros(9, 2), "finite"),
    ],
)
def test_features_without_a_distance_are_refused(
    distance: Callable[[Tensor, Tensor], Distance], x: Tensor, y: Tensor, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        distance(x, y)
