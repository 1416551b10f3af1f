"""Time told before a run: what passes are timed on, and what an update is made of."""

import pytest
import torch
from torch import nn

from dualoptim_diffusion.models import costs
from dualoptim_diffusion.models.costs import measured
from dualoptim_diffusion.runs import forecast
from dualoptim_diffusion.runs.forecast import Speed, seconds_of_step

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, as work sets it."""
    now = [0.0]
    monkeypatch.setattr(costs, "perf_counter", lambda: now[0])
    monkeypatch.setattr(costs, "LARGEST_PROBE", 128)
    return now


def test_passes_are_timed_on_the_batch_of_the_recipe_and_no_more(clock: list[float]) -> None:
    counts = []

    def work(count: int) -> None:
        counts.append(count)
        clock[0] += 0.01 + 0.001 * count  # a pass has a cost of its own

    assert measured(work, CPU, 48) == pytest.approx((0.01 + 0.048) / 48)
    assert max(counts) == 48
    assert measured(work, CPU, 1) == pytest.approx(0.011)
    assert measured(work, CPU) == pytest.approx((0.01 + 0.128) / 128)


def test_a_slow_pass_is_not_timed_on_a_whole_batch(clock: list[float]) -> None:
    def work(count: int) -> None:
        clock[0] += count

    assert measured(work, CPU, 64) == pytest.approx(1)
    assert clock[0] == 4  # two passes of two images


def test_an_update_is_the_passes_of_its_batch_and_a_step() -> None:
    assert Speed(forward=1.0, backward=3.0, step=0.5).update(4) == pytest.approx(12.5)


def test_timing_a_step_changes_no_weight_and_a_large_network_is_not_stepped(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Linear(3, 2)
    network(torch.ones(1, 3)).sum().backward()
    before = network.weight.clone()
    assert seconds_of_step(network, CPU) > 0
    assert network.weight.equal(before)
    monkeypatch.setattr(forecast, "LARGEST_STEPPED", 7)
    assert seconds_of_step(network, CPU) == 0
