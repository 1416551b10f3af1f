"""What does decoupled momentum do to the variance of SGD? Evaluates the bounds of Theorem 3.5 and solves noisy
quadratics exactly. One round is a forget step and then a retain step, with momentum m <- a m + g, shared by both or
one for each. Nothing is sampled: the variances follow from the linear recursions. Writes momentum_theory.md, in
seconds.

    python scripts/studies/momentum_theory.py
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
from command import parse, parser
from tables import table

Array = NDArray[np.float64]

ROUNDS = 150  # outer steps of the paper's image experiments
MOMENTA, RATES = (0.5, 0.9), (0.01, 0.03, 0.1)
FORGET = {-0.5: "ascent", 0.0: "constant push", 1.0: "towards a target"}  # by its curvature; the retain loss has 1

GRID = (0.1, 0.3, 0.5, 0.7, 0.9, 0.95), (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)  # momenta and rates of the scan


class Weights(NamedTuple):
    """Weights of the past gradients, oldest first, in theta_f and theta_r after a round; theta is minus their sum."""

    forget_f: Array
    forget_r: Array
    retain_f: Array
    retain_r: Array


class Moments(NamedTuple):
    """After the forget step and after the retain step of every round: (rounds, ...)."""

    mean: Array
    forget: Array
    retain: Array


def weights(shared: bool, momentum: float, t: int) -> Weights:
    """Equation (12), with A_k = sum_{i<=k} a^i; for `forget_r` i runs to t - 1, else to t."""
    a = np.cumsum(momentum ** np.arange(2 * t + 2.0))
    lag = t - np.arange(t + 1)
    if shared:
        return Weights(a[2 * lag], a[2 * lag[:-1] - 1], a[2 * lag + 1], a[2 * lag])
    return Weights(a[lag], a[lag[:-1] - 1], a[lag], a[lag])


def bounds(
    shared: bool, momentum: float, rounds: int, smoothness: float = 0.0, tau: float = 0.0, noise: float = 1.0,
    initial: float = 0.0, rate: float = 1.0,
) -> tuple[Array, Array]:  # fmt: skip
    """Recursion (19): the bounds on the variances of theta_f and theta_r of every round.

    Args:
        tau: bound on the correlation of one loss's gradients at different times.
        noise: sigma^2, the variance of the batch noise.
        initial: variance of theta_{r,-1} (the paper: 0, the pretrained weights).
    """
    forget, retain = np.zeros(rounds), np.zeros(rounds + 1)  # retain[i] is theta_{r,i-1}
    retain[0] = initial
    for t in range(rounds):
        w = Weights(*((rate * part) ** 2 for part in weights(shared, momentum, t)))
        g_f, g_r = noise + smoothness**2 * retain[: t + 1], noise + smoothness**2 * forget[:t]
        forget[t] = (1 + t * tau) * w.forget_f @ g_f + (1 + (t - 1) * tau) * w.forget_r @ g_r
        g_r = noise + smoothness**2 * forget[: t + 1]
        retain[t + 1] = (1 + t * tau) * (w.retain_f @ g_f + w.retain_r @ g_r)
    return forget, retain[1:]


def half_step(momentum: Array, rate: Array, curvature: Array, slot: int) -> tuple[Array, Array]:
    """Matrix of one step on the state (weight, momentum, momentum), and what a unit of added gradient does to it."""
    matrix = np.broadcast_to(np.eye(3), (*rate.shape, 3, 3)).copy()
    matrix[..., 0, 0] = 1 - rate * curvature
    matrix[..., 0, slot] = -rate * momentum
    matrix[..., slot, 0] = curvature
    matrix[..., slot, slot] = momentum
    kick = np.zeros((*rate.shape, 3))
    kick[..., 0], kick[..., slot] = -rate, 1
    return matrix, kick


def steps(
    shared: bool, momentum: ArrayLike, rates: tuple[ArrayLike, ArrayLike], curvature: tuple[ArrayLike, ArrayLike]
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    a, *rest = np.broadcast_arrays(np.asarray(momentum, float), *rates, *curvature)
    rate_f, rate_r, h_f, h_r = rest
    return half_step(a, rate_f, h_f, 1), half_step(a, rate_r, h_r, 1 if shared else 2)


def growth(
    shared: bool, momentum: ArrayLike, rates: tuple[ArrayLike, ArrayLike], curvature: tuple[ArrayLike, ArrayLike]
) -> Array:
    """Factor by which a round at most enlarges the state in the long run: it is stable below 1."""
    (forget, _), (retain, _) = steps(shared, momentum, rates, curvature)
    matrix = retain @ forget if not shared else (retain @ forget)[..., :2, :2]
    return np.abs(np.linalg.eigvals(matrix)).max(-1)


def moments(
    shared: bool,
    momentum: ArrayLike,
    rates: tuple[ArrayLike, ArrayLike],
    curvature: tuple[ArrayLike, ArrayLike],
    rounds: int = ROUNDS,
    noise: tuple[ArrayLike, ArrayLike] = (1.0, 1.0),
    correlation: ArrayLike = 0.0,
    slope: tuple[float, float] = (-1.0, 0.0),
) -> Moments:
    """Exact mean (after the retain step) and variances of a weight that starts at 0. Arguments broadcast.

    Each loss's gradient is curvature * weight + slope + noise; the pairs are (forget, retain). `noise` are standard
    deviations, `correlation` is that of the two noises of one round.
    """
    (f, kick_f), (r, kick_r) = steps(shared, momentum, rates, curvature)
    sd_f, sd_r, rho = (np.asarray(part, float)[..., None, None] for part in (*noise, correlation))
    shape = np.broadcast_shapes(f.shape, sd_f.shape, sd_r.shape, rho.shape)[:-2]
    kick_f, kick_r = kick_f[..., None], kick_r[..., None]
    noise_f, noise_r = sd_f**2 * kick_f @ kick_f.swapaxes(-1, -2), sd_r**2 * kick_r @ kick_r.swapaxes(-1, -2)
    cross = rho * sd_f * sd_r * (r @ kick_f @ kick_r.swapaxes(-1, -2))
    noise_r = noise_r + cross + cross.swapaxes(-1, -2)
    state, covariance = np.zeros((*shape, 3, 1)), np.zeros((*shape, 3, 3))
    out = Moments(*np.zeros((3, rounds, *shape)))
    for t in range(rounds):
        state = r @ (f @ state + slope[0] * kick_f) + slope[1] * kick_r
        covariance = f @ covariance @ f.swapaxes(-1, -2) + noise_f
        out.forget[t] = covariance[..., 0, 0]
        covariance = r @ covariance @ r.swapaxes(-1, -2) + noise_r
        out.mean[t], out.retain[t] = state[..., 0, 0], covariance[..., 0, 0]
    return out


def forget_factor(
    momentum: ArrayLike, rate: ArrayLike, curvature: tuple[ArrayLike, ArrayLike], rounds: int = ROUNDS
) -> Array:
    """Factor on the decoupled forget rate at which it forgets as much as the shared one: equal mean in the last round.

    NaN where no factor between 1/3 and 3 does and is stable.
    """
    momentum, rate = np.asarray(momentum, float), np.asarray(rate, float)
    target = moments(True, momentum, (rate, rate), curvature, rounds).mean[-1]

    def excess(factor: Array) -> Array:
        return moments(False, momentum, (rate * factor, rate), curvature, rounds).mean[-1] - target

    low, high = np.full_like(target, 1 / 3), np.full_like(target, 3.0)
    found = (excess(low) < 0) & (excess(high) > 0)
    for _ in range(40):
        middle = (low + high) / 2
        below = excess(middle) < 0
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    found &= growth(False, momentum, (rate * low, rate), curvature) < 1
    return np.where(found, low, np.nan)


def early_table() -> str:
    """No curvature, where variance only grows: decoupled over shared variance of theta_r after T rounds."""
    times, body = (1, 2, 5, 15, 50, 150), []
    for a in MOMENTA:
        one, two = (moments(shared, a, (1, 1), (0, 0), slope=(-1, -1)) for shared in (True, False))
        same = two.retain / one.retain
        for name, ratio in (("equal rates", same), ("equal mean step", same * (one.mean / two.mean) ** 2)):
            body.append([a, name, *(f"{ratio[t - 1]:.3f}" for t in times)])
    return "\n".join(table(["momentum", "compared at", *(f"T = {t}" for t in times)], body, rule="---"))


def ratios(
    momentum: ArrayLike,
    rate: ArrayLike,
    curvature: tuple[ArrayLike, ArrayLike],
    correlation: ArrayLike = 0.0,
    forget_noise: ArrayLike = 1.0,
) -> dict[str, Array]:
    """Decoupled over shared at the last retain step, at equal rates, equal forgetting and equal memory."""
    momentum, rate = np.asarray(momentum, float), np.asarray(rate, float)
    factor, swift = forget_factor(momentum, rate, curvature), rate * (1 + momentum)
    kind = {"curvature": curvature, "correlation": correlation, "noise": (forget_noise, 1.0)}
    one, two = (moments(shared, momentum, (rate, rate), **kind) for shared in (True, False))
    level = moments(False, momentum, (rate * factor, rate), **kind)
    memory = moments(False, momentum**2, (swift, swift), **kind)
    return {
        "same": two.retain[-1] / one.retain[-1],
        "mean": two.mean[-1] / one.mean[-1],
        "factor": factor,
        "level": level.retain[-1] / one.retain[-1],
        "memory": memory.retain[-1] / one.retain[-1],
    }


def late_table() -> str:
    """A retain loss of curvature 1 and three forget losses, after 150 rounds."""
    head = [
        "momentum", "rate", "forget loss", "variance, equal rates", "noises at -0.8", "mean forgetting",
        "forget rate for equal forgetting", "variance there", "variance, equal memory",
    ]  # fmt: skip
    grid = np.array([(a, rate, h) for a in MOMENTA for rate in RATES for h in FORGET]).T
    plain, anti = (ratios(grid[0], grid[1], (grid[2], np.ones_like(grid[2])), rho) for rho in (0.0, -0.8))
    body = []
    for i, (a, rate, h) in enumerate(grid.T):
        possible = plain["factor"][i] > 0
        level = (f"×{plain['factor'][i]:.3f}", f"{plain['level'][i]:.3f}") if possible else ("none", "-")
        ratio = [f"{value[i]:.3f}" for value in (plain["same"], anti["same"], plain["mean"], plain["memory"])]
        body.append([a, rate, FORGET[h], *ratio[:3], *level, ratio[3]])
    return "\n".join(table(head, body, rule="---"))


def scan(momenta: tuple[float, ...] = GRID[0], rates: tuple[float, ...] = GRID[1]) -> str:
    """How often decoupling lowers the variance of the last retain step over a grid of settings."""
    axes = momenta, rates, (-0.9, -0.5, 0.0, 0.5, 1.0), (-0.9, -0.5, 0.0, 0.5), (0.2, 1.0, 5.0)
    a, rate, h_f, correlation, forget_noise = (part.ravel() for part in np.meshgrid(*axes))
    curvature = (h_f, np.ones_like(h_f))
    one, two = (growth(shared, a, (rate, rate), curvature) < 1 for shared in (True, False))
    with np.errstate(all="ignore"):  # unstable ones overflow
        found = ratios(a, rate, curvature, correlation, forget_noise)
    stable, level = one & two, one & two & ~np.isnan(found["factor"])
    lines = [
        f"Of {len(a)} settings {stable.sum()} are stable both ways, {(one & ~two).sum()} only shared and "
        f"{(two & ~one).sum()} only decoupled. Decoupled variance is the lower one"
    ]
    for name, key, among in (("rates", "same", stable), ("forgetting", "level", level), ("memory", "memory", stable)):
        values = found[key][among]
        lines.append(
            f"- at equal {name}: in {(values < 1).sum()} of {len(values)}; ratio {np.median(values):.3f} "
            f"(median), {values.min():.3f} to {values.max():.3f}"
        )
    shares = (f"{np.mean(found['same'][stable & (forget_noise == sd)] < 1):.0%} ({sd:g})" for sd in axes[-1])
    lines.append(f"\nAt equal rates, by the forget noise over the retain noise: {', '.join(shares)}")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> None:
    arguments = parse(parser(__file__, __doc__), words)
    scanned = scan((0.5, 0.9), (0.01, 0.1)) if arguments.toy else scan()
    text = (
        f"Decoupled over shared variance of theta_r.\n\nNo curvature, after T rounds:\n\n{early_table()}\n"
        f"\nRetain curvature 1, noises alike, after {ROUNDS} rounds:\n\n{late_table()}\n\n{scanned}\n"
    )
    (arguments.out / "momentum_theory.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
