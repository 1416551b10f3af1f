"""Unbiased distances: against loops, closed forms and the package, and how often their intervals hold the truth."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.evaluation import fd_infinity, kid
from dualoptim_diffusion.evaluation.estimate import Estimate, Side
from dualoptim_diffusion.evaluation.fd_infinity import frechet_infinity
from dualoptim_diffusion.evaluation.frechet import FeatureStatistics, frechet_distance
from dualoptim_diffusion.evaluation.kid import kernel_distance


def normal(seed: int, n: int, d: int, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * scale + shift


def share_covered(found: list[Estimate], truth: float) -> float:
    return sum(one.ci95[0] <= truth <= one.ci95[1] for one in found) / len(found)


def mean_value(found: list[Estimate]) -> float:
    return sum(one.value for one in found) / len(found)


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
    assert at_once.value == pytest.approx(expected, rel=1e-12)
    assert (at_once.n_generated, at_once.n_reference) == (9, 6)
    monkeypatch.setattr(kid, "ROWS", 4)
    assert kernel_distance(x, y).value == pytest.approx(expected, rel=1e-12)
    assert kernel_distance(x, y).ci95 == pytest.approx(at_once.ci95, rel=1e-12)


def test_real_images_count_by_the_shares_of_their_classes_and_drawn_ones_by_pairs_of_seeds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Against loops over the definitions: two labels drawn with five seeds, and classes of six and four real images."""
    x, y = normal(0, 10, 3).double(), normal(1, 10, 3, 0.4).double()
    seeds, labels = torch.arange(5).repeat(2), torch.tensor([7] * 6 + [2] * 4)[torch.randperm(10)]

    def kernel(a: Tensor, b: Tensor) -> float:
        return (a.dot(b).item() / 3 + 1) ** 3

    of_x = [kernel(x[i], x[j]) for i in range(10) for j in range(10) if seeds[i] != seeds[j]]
    of_y = 0.0
    for a, b in ((7, 7), (7, 2), (2, 7), (2, 2)):
        pairs = [(i, j) for i in range(10) for j in range(10) if i != j and (labels[i], labels[j]) == (a, b)]
        of_y += {7: 0.6, 2: 0.4}[a] * {7: 0.6, 2: 0.4}[b] * sum(kernel(y[i], y[j]) for i, j in pairs) / len(pairs)
    between = [kernel(a, b) for a in x for b in y]
    expected = sum(of_x) / len(of_x) + of_y - 2 * sum(between) / len(between)
    at_once = kernel_distance(x, y, seeds, labels)
    assert at_once.value == pytest.approx(expected, rel=1e-12)
    monkeypatch.setattr(kid, "ROWS", 4)
    in_parts = kernel_distance(x, y, seeds, labels)
    assert (in_parts.value, in_parts.ci95) == (pytest.approx(expected), pytest.approx(at_once.ci95))


@pytest.mark.parametrize("distance", [kernel_distance, frechet_infinity])
def test_two_models_of_one_distribution_with_classes_far_apart_are_at_0_on_the_mean(
    distance: Callable[..., Estimate],
) -> None:
    """Nine classes, both sides with fixed numbers of each: taken for independent samples they come out below 0."""
    found: dict[bool, list[Estimate]] = {True: [], False: []}
    means = 2 * normal(0, 9, 8)
    labels = torch.arange(9).repeat_interleave(10)
    for seed in range(1, 61):
        x, y = (normal(2 * seed + side, 90, 8) + means[labels] for side in range(2))
        found[True].append(distance(x, y, torch.arange(10).repeat(9), labels))
        found[False].append(distance(x, y))
    spread = torch.tensor([one.value for one in found[True]]).std().item() / 60**0.5
    assert abs(mean_value(found[True])) < 3 * spread
    assert mean_value(found[False]) < -6 * spread
    assert share_covered(found[True], 0.0) >= 0.88


def test_what_pairs_add_is_estimated_without_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of x.y with x and y from N(mu, 1) in d dimensions, the mean square of what mu does not explain is d."""
    monkeypatch.setattr(kid, "polynomial_kernel", lambda x, y: x @ y.T)
    labels, shift = torch.tensor([0] * 7 + [1] * 5), torch.tensor([0.0] * 7 + [2.0] * 5)[:, None]
    found: dict[str, list[Tensor]] = {"within": [], "within classes": [], "between": []}
    for seed in range(400):
        x, y = normal(2 * seed, 12, 3).double(), normal(2 * seed + 1, 12, 3).double() + shift
        one, of_classes = Side.generated(x, None), Side.reference(y, labels)
        found["within"].append(kid._KernelSums(one).mean_squares())
        found["within classes"].append(kid._KernelSums(of_classes).mean_squares())
        found["between"].append(kid._KernelSums(one, of_classes).mean_squares())
    for squares in found.values():
        torch.testing.assert_close(torch.stack(squares).mean(0), torch.full_like(squares[0], 3), atol=0.4, rtol=0)


@pytest.mark.parametrize(("n", "m"), [(100, 100), (150, 60)])
def test_the_kernel_intervals_of_two_samples_of_one_distribution_hold_0(n: int, m: int) -> None:
    found = [kernel_distance(normal(2 * seed, n, 16), normal(2 * seed + 1, m, 16)) for seed in range(200)]
    assert share_covered(found, 0.0) >= 0.93
    widths = torch.tensor([one.ci95[1] - one.ci95[0] for one in found])
    spread = torch.tensor([one.value for one in found]).std() * 2 * 1.96
    assert 0.9 < widths.mean() / spread < 1.3  # neither too narrow nor far too wide
    assert abs(mean_value(found)) < 0.15 * spread


@pytest.mark.parametrize("shift", [0.1, 0.5])
def test_the_kernel_intervals_hold_the_closed_form_of_a_shift(shift: float) -> None:
    found = [kernel_distance(normal(2 * seed, 120, 16), normal(2 * seed + 1, 120, 16, shift)) for seed in range(200)]
    assert 0.89 <= share_covered(found, shifted_mmd(16, shift)) <= 0.99
    assert mean_value(found) == pytest.approx(shifted_mmd(16, shift), rel=0.05, abs=0.004)


def plain(x: Tensor, y: Tensor) -> float:
    return frechet_distance(FeatureStatistics().add(x), FeatureStatistics().add(y))


def test_the_plain_distance_is_that_of_torch_fidelity() -> None:
    mix = normal(0, 24, 24).double()
    x, y = normal(1, 400, 24).double() @ mix, normal(2, 300, 24, 0.3).double() @ mix.T
    assert fd_infinity._frechet(x, y) == pytest.approx(plain(x, y), rel=1e-9)
    assert fd_infinity._frechet_with_influences(x, y)[0] == pytest.approx(plain(x, y), rel=1e-9)


def test_features_that_never_vary_change_nothing() -> None:
    x, y = normal(0, 200, 8), normal(1, 200, 8, 0.2)
    without = frechet_infinity(x, y)
    with_dead = frechet_infinity(*(torch.cat([part, torch.zeros(200, 3)], 1) for part in (x, y)))
    assert with_dead.value == pytest.approx(without.value, rel=1e-6)
    assert with_dead.ci95 == pytest.approx(without.ci95, rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(400, 400), (400, 900)])
def test_the_frechet_distance_of_two_samples_of_one_distribution_is_about_0(n: int, m: int) -> None:
    sets = [(normal(2 * seed, n, 16), normal(2 * seed + 1, m, 16)) for seed in range(100)]
    found = [frechet_infinity(*pair) for pair in sets]
    assert share_covered(found, 0.0) >= 0.9
    assert abs(mean_value(found)) < 0.02
    assert all(plain(*pair) > 0.15 for pair in sets)  # the bias that is taken away


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
    sets = [(normal(seed, 300, 64), normal(seed + 50, 900, 64, scale=1.2)) for seed in range(12)]
    found = [frechet_infinity(*pair) for pair in sets]
    assert mean_value(found) == pytest.approx(64 * 0.04, abs=0.25)
    assert min(plain(*pair) for pair in sets) > 3 * 64 * 0.04


def test_a_seed_fixes_the_parts() -> None:
    x, y = normal(0, 80, 4), normal(1, 80, 4, 0.2)
    assert frechet_infinity(x, y, seed=1).value == frechet_infinity(x, y, seed=1).value
    assert frechet_infinity(x, y, seed=1).value != frechet_infinity(x, y, seed=2).value


@pytest.mark.parametrize("distance", [kernel_distance, frechet_infinity])
@pytest.mark.parametrize("paired", [True, False])
def test_the_ratio_of_two_models_that_are_one_is_1_as_often_as_the_interval_says(
    distance: Callable[[Tensor, Tensor], Estimate], paired: bool
) -> None:
    """Both have one reference; their samples are of equal seeds, with noise of their own, or independent."""
    held, widths = [], []
    for seed in range(100):
        reference, first, other = (
            normal(3 * seed, 130, 16),
            normal(3 * seed + 1, 400, 16),
            normal(3 * seed + 2, 400, 16),
        )
        second = (0.99 * first + 0.02**0.5 * other) / (0.99**2 + 0.02) ** 0.5 if paired else other
        first, second = first + 0.5, second + 0.5
        ratio = distance(second, reference).ratio_to(distance(first, reference))
        assert ratio is not None
        held.append(ratio[1][0] <= 1 <= ratio[1][1])
        widths.append(ratio[1][1] - ratio[1][0])
    assert sum(held) >= 90
    assert sorted(widths)[50] < (0.2 if paired else 1.0)  # pairs make it surer


def expected_kernel(d: int, a: float, v: float) -> float:
    """Mean kernel between two samples of N(mu, v) in d dimensions with |mu|^2 = a, by moments of their product."""
    first, second = a, a**2 + 2 * a * v + d * v**2
    third = a**3 + 3 * a * (2 * a * v + d * v**2) + 6 * a * v**2
    return third / d**3 + 3 * second / d**2 + 3 * first / d + 1


TRUTH = {  # between N(0.5, 1.09) and N(0, 1) in 8 dimensions
    kernel_distance: expected_kernel(8, 2, 1.09) + expected_kernel(8, 0, 1) - 2 * (3 * (2 + 8 * 1.09) / 64 + 1),
    frechet_infinity: 8 * (0.5**2 + (1.09**0.5 - 1) ** 2),
}


@pytest.mark.parametrize("distance", [kernel_distance, frechet_infinity])
def test_samples_of_one_seed_count_as_one_where_they_are_alike(distance: Callable[..., Estimate]) -> None:
    """Nine labels drawn with equal noise: the intervals hold the truth, and without the seeds they are too narrow."""
    covered = {True: 0, False: 0}
    for seed in range(60):
        noise, reference = normal(3 * seed, 60, 8), normal(3 * seed + 1, 800, 8)
        generated = (noise + 0.3 * normal(3 * seed + 2, 540, 8).view(9, 60, 8)).flatten(0, 1) + 0.5
        seeds, truth = torch.arange(60).repeat(9), TRUTH[distance]
        for known in covered:
            low, high = distance(generated, reference, seeds if known else None).ci95
            covered[known] += low <= truth <= high
    assert covered[True] >= 52
    assert covered[False] < 45


def test_a_ratio_to_a_distance_that_may_be_0_is_not_given_but_the_difference_is() -> None:
    reference, near, far = normal(0, 100, 8), normal(1, 300, 8), normal(2, 300, 8, 0.5)
    old, new = kernel_distance(near, reference), kernel_distance(far, reference)
    assert old.ci95[0] < 0 < old.ci95[1]
    assert new.ratio_to(old) is None
    difference, (low, high) = new.difference_to(old)
    assert difference == pytest.approx(new.value - old.value)
    assert 0 < low < difference < high
    assert old.difference_to(old)[0] == 0
    ratio = new.ratio_to(new)
    assert ratio is not None
    assert ratio[0] == 1


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
    distance: Callable[[Tensor, Tensor], Estimate], x: Tensor, y: Tensor, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        distance(x, y)
