"""Runs that leave the useful region stop, name the phase and keep the last good state."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from dualoptim_diffusion.core.errors import EXIT_DIVERGED, DivergedError, NonFiniteError
from dualoptim_diffusion.unlearning.driver import check_finite
from dualoptim_diffusion.unlearning.guards import WINDOW, DriftGuard
from tests.helpers.commands import Outcome

Run = Callable[..., Outcome]


def feed(guard: DriftGuard, losses: list[float], key: str = "retain_loss") -> None:
    for step, loss in enumerate(losses):
        guard.see({"step": step, key: loss})


def test_a_mean_over_the_window_above_the_factor_stops_and_one_below_does_not() -> None:
    feed(DriftGuard({"retain_loss": 5.0}), [1.0] * WINDOW + [4.99] * 200)
    with pytest.raises(DivergedError, match=r"After step 39 the retain loss averages 5.01, more than 5 times the 1 "):
        feed(DriftGuard({"retain_loss": 5.0}), [1.0] * WINDOW + [5.01] * WINDOW)


def test_one_bad_batch_does_not_stop_a_run() -> None:
    feed(DriftGuard({"retain_loss": 5.0}), [1.0] * WINDOW + [70.0] + [1.0] * WINDOW)


def test_the_magnitude_of_a_negative_loss_counts_and_missing_losses_do_not() -> None:
    guard = DriftGuard({"forget_loss": 10.0})
    feed(guard, [9e9] * 100)
    with pytest.raises(DivergedError, match="the forget loss"):
        feed(guard, [-1.0] * WINDOW + [-11.0] * WINDOW, "forget_loss")


def test_a_weight_that_is_not_finite_is_named() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    check_finite(network, 5)
    with torch.no_grad():
        network[1].weight[0, 1] = float("inf")
    with pytest.raises(NonFiniteError, match=r"After step 4 the weights 1.weight are not finite and were not saved"):
        check_finite(network, 5)


def test_a_run_that_drifts_stops_keeps_its_checkpoint_and_stops_again_when_resumed(
    dualoptim: Run, tiny: str, tmp_path: Path
) -> None:
    rates = ["method.forget_lr=1e-2", "method.retain_lr=0"]
    words = ["method.num_steps=400", "run.checkpoint_every=10", "run.stop_when.forget_factor=2"]
    command = ["forget", tiny, *rates, *words, "--class", "three", "--out", tmp_path / "run"]
    first = dualoptim(*command)
    assert first.code == EXIT_DIVERGED, first.err
    assert "run.stop_when.forget_factor" in first.err
    assert "Traceback" not in first.err
    steps = len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    saved = int((tmp_path / "run" / "checkpoints" / "latest").read_text().removeprefix("step_"))
    assert WINDOW <= saved < steps
    assert not (tmp_path / "run" / "results.json").exists()
    again = dualoptim(*command, "--resume")  # the guard knows the steps before the resumption
    assert again.code == EXIT_DIVERGED
    assert [line for line in again.err.splitlines() if line.startswith("error")] == [
        line for line in first.err.splitlines() if line.startswith("error")
    ]
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["step"] == steps - 1
