"""Rates over several labels that are drawn with the same seeds: for how many independent images they count."""

import pytest
import torch
from torch import Tensor

from dualoptim_diffusion.core.rates import Z_95, difference_interval, rate
from dualoptim_diffusion.evaluation.accuracy import SeedRate


def hits(seed: int, labels: int, seeds: int, common: float, share: float = 0.9) -> list[Tensor]:
    """Of each label, bool [seeds]; a seed decides for all labels at once with the probability `common`."""
    source = torch.Generator().manual_seed(seed)
    own = torch.rand(labels, seeds, generator=source) < share
    of_all = torch.rand(seeds, generator=source) < share
    return list(torch.where(torch.rand(seeds, generator=source) < common, of_all, own))


def test_labels_that_are_hit_by_the_same_seeds_are_worth_one() -> None:
    found = SeedRate.of(hits(0, labels=9, seeds=400, common=1))
    assert found.n == 3600
    assert found.worth == pytest.approx(400, rel=0.01)


def test_independent_images_are_worth_what_they_are_and_never_more() -> None:
    worth = [SeedRate.of(hits(seed, labels=9, seeds=400, common=0)).worth / 3600 for seed in range(40)]
    assert max(worth) == 1
    assert sum(worth) / 40 > 0.93
    assert SeedRate.of([torch.ones(5, dtype=torch.bool)] * 2).worth == 10


def test_labels_with_more_images_than_others_count_with_each() -> None:
    found = SeedRate.of([torch.tensor([True, False, True, True]), torch.tensor([True, False])])
    assert (found.hits, found.n) == (4, 6)
    torch.testing.assert_close(found.by_seed.sum(), torch.zeros((), dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("common", [0.0, 0.3])
def test_the_interval_of_a_rate_holds_the_truth(common: float) -> None:
    covered = {True: 0, False: 0}
    for seed in range(300):
        found = SeedRate.of(hits(seed, labels=9, seeds=150, common=common))
        for by_seed in covered:
            low, high = rate(found.hits, found.n, found.worth if by_seed else None)["ci95"]
            covered[by_seed] += low <= 0.9 <= high
    assert 0.92 <= covered[True] / 300 <= 0.98
    assert (covered[False] / 300 < 0.85) == (common > 0)


def test_the_change_of_a_rate_is_surer_with_equal_seeds_and_its_interval_holds_the_truth() -> None:
    covered, widths, unpaired = 0, [], []
    for seed in range(300):
        old = hits(seed, labels=9, seeds=150, common=0.3)
        source = torch.Generator().manual_seed(seed + 1000)
        new = [label & (torch.rand(150, generator=source) < 0.95) for label in old]
        a, b = SeedRate.of(new), SeedRate.of(old)
        counts = a.hits / a.n * a.worth, a.worth, b.hits / b.n * b.worth, b.worth
        low, high = difference_interval(*counts, correlation=a.correlation(b))
        covered += low <= -0.045 <= high
        widths.append(high - low)
        unpaired.append(sum(difference_interval(*counts)[i] * (-1) ** (1 - i) for i in range(2)))
    assert covered / 300 >= 0.92
    assert sum(widths) < 0.7 * sum(unpaired)


def test_a_pair_of_equal_rates_changes_by_nothing() -> None:
    found = SeedRate.of(hits(1, labels=2, seeds=100, common=0.5))
    assert found.correlation(found) == pytest.approx(1)
    low, high = difference_interval(90, 100, 90, 100, Z_95, correlation=1.0)
    assert -0.04 < low < 0 < high < 0.04
    assert found.correlation(SeedRate.of(hits(1, labels=2, seeds=50, common=0.5))) == 0
