"""Factors in [0, 1] over the outer steps k = 0..K-1, for learning rates and for the forget weight."""

from collections.abc import Callable
from math import cos, pi
from typing import Literal

ScheduleName = Literal["constant", "cosine", "one_cycle"]

WARMUP = 0.3  # one-cycle: share of the steps spent rising
START = 1 / 25  # one-cycle: first factor
END = 1e-4 / 25  # one-cycle: last factor


def constant(step: int, num_steps: int) -> float:
    return 1.0


def cosine(step: int, num_steps: int) -> float:
    """(1 + cos(pi k / K)) / 2: 1 at the first step, towards 0 at the last (DualOptim's decay of alpha)."""
    return (1 + cos(pi * step / num_steps)) / 2


def one_cycle(step: int, num_steps: int) -> float:
    """Cosine rise from START to 1, then cosine fall to END (Smith and Topin, 2018)."""
    position = step / max(num_steps - 1, 1)
    if position < WARMUP:
        return START + (1 - START) * (1 - cos(pi * position / WARMUP)) / 2
    return END + (1 - END) * (1 + cos(pi * (position - WARMUP) / (1 - WARMUP))) / 2


SCHEDULES: dict[ScheduleName, Callable[[int, int], float]] = {
    "constant": constant,
    "cosine": cosine,
    "one_cycle": one_cycle,
}
