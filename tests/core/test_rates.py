"""Intervals of rates and of their differences: the published numbers."""

import pytest

from dualoptim_diffusion.core.rates import Z_95, difference_interval, rate, simultaneous_z


@pytest.mark.parametrize(
    ("hits", "n", "other_hits", "other_n", "low", "high"),
    [  # Newcombe, Interval estimation for the difference between independent proportions, 1998, table II, method 10
        (56, 70, 48, 80, 0.0524, 0.3339),
        (9, 10, 3, 10, 0.1705, 0.8090),
        (6, 7, 2, 7, 0.0582, 0.8062),
        (5, 56, 0, 29, -0.0381, 0.1926),
        (0, 10, 0, 20, -0.1611, 0.2775),
        (0, 10, 0, 10, -0.2775, 0.2775),
        (10, 10, 0, 20, 0.6791, 1.0000),
        (10, 10, 0, 10, 0.6075, 1.0000),
    ],
)
def test_intervals_of_differences_are_the_published_ones(
    hits: int, n: int, other_hits: int, other_n: int, low: float, high: float
) -> None:
    assert difference_interval(hits, n, other_hits, other_n) == pytest.approx((low, high), abs=6e-5)


def test_many_intervals_at_once_are_wider_and_one_is_the_usual() -> None:
    assert simultaneous_z(1) == pytest.approx(Z_95)
    assert simultaneous_z(2) == pytest.approx(2.241402727604947)  # the normal's 98.75% quantile
    assert simultaneous_z(100) > simultaneous_z(10) > Z_95


def test_a_rate_carries_its_counts() -> None:
    assert rate(0, 500) == {"value": 0.0, "hits": 0, "n": 500, "ci95": [0.0, pytest.approx(0.00762, abs=1e-5)]}
