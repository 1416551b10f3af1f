"""What decoupled momentum does to variance: the recursion behind Theorem 3.5, and where noisy quadratics follow it."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from dualoptim_diffusion.optim.dual_optim import DualOptim

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from studies.momentum_theory import bounds, forget_factor, growth, moments, weights

Array = NDArray[np.float64]
SCHEMES = pytest.mark.parametrize("shared", [True, False], ids=["shared", "decoupled"])
BOTH = (True, False)


def optimizers(weight: nn.Parameter, shared: bool, momentum: float, rates: tuple[float, float]) -> DualOptim:
    forget, retain = (torch.optim.SGD([weight], rate, momentum=momentum) for rate in rates)
    return DualOptim(forget, forget if shared else retain)


def responses(
    shared: bool, momentum: float, rounds: int, curvature: tuple[float, float] = (0.0, 0.0), rate: float = 1.0
) -> tuple[Array, Array]:
    """Gradients and weights after every step as sums of the noises: (rounds, forget or retain, 2 * rounds noises).

    Entry s of the weight is the answer of the real optimizers to a unit noise in step s alone.
    """
    weight = nn.Parameter(torch.zeros(2 * rounds, dtype=torch.float64))
    optim = optimizers(weight, shared, momentum, (rate, rate))
    gradients, steps = [], []
    for step in range(2 * rounds):
        weight.grad = curvature[step % 2] * weight.detach()
        weight.grad[step] += 1
        gradients.append(weight.grad.numpy().copy())
        (optim.step_retain if step % 2 else optim.step_forget)()
        steps.append(weight.detach().numpy().copy())
    shape = rounds, 2, 2 * rounds
    return np.reshape(gradients, shape), np.reshape(steps, shape)


def noise_covariance(rounds: int, noise: tuple[float, float], correlation: float) -> Array:
    cross = correlation * noise[0] * noise[1]
    return np.kron(np.eye(rounds), [[noise[0] ** 2, cross], [cross, noise[1] ** 2]])


def correlations(gradients: Array, covariance: Array) -> tuple[float, float]:
    """The largest correlation of one loss's gradients at two times, or 0, and of two losses' (Assumption 3.2)."""
    forget, retain = gradients[:, 0], gradients[:, 1]

    def table(one: Array, two: Array) -> Array:
        sd_one, sd_two = (np.sqrt(np.diag(part @ covariance @ part.T)) for part in (one, two))
        return one @ covariance @ two.T / np.outer(sd_one, sd_two)

    off_diagonal = ~np.eye(len(forget), dtype=bool)
    same = max(table(part, part)[off_diagonal].max(initial=0) for part in (forget, retain))
    return same, table(forget, retain).max()


# The recursion (19)


@pytest.mark.numerical
@SCHEMES
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_the_weights_of_past_gradients_are_what_sgd_gives_to_unit_impulses(shared: bool, momentum: float) -> None:
    rounds = 7
    _, steps = responses(shared, momentum, rounds)
    for t in range(rounds):
        w = weights(shared, momentum, t)
        for row, on_f, on_r in ((steps[t, 0], w.forget_f, w.forget_r), (steps[t, 1], w.retain_f, w.retain_r)):
            expected = np.zeros(2 * rounds)
            expected[0 : 2 * len(on_f) : 2], expected[1 : 2 * len(on_r) : 2] = on_f, on_r
            np.testing.assert_allclose(-row, expected, rtol=1e-13)


def test_the_bounds_of_two_rounds_are_those_worked_out_by_hand() -> None:
    """a = 1/2, L = 1, tau = 1/2, sigma = 1; with A_1 = 3/2, A_2 = 7/4, A_3 = 15/8."""
    shared, decoupled = (bounds(scheme, 0.5, 2, smoothness=1, tau=0.5) for scheme in BOTH)
    assert [list(part) for part in shared] == [[1, 16.96875], [4.25, 59.1328125]]
    assert [list(part) for part in decoupled] == [[1, 11.375], [3, 34.6875]]


@pytest.mark.parametrize("momentum", [0.0, 0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("smoothness", [0.0, 0.01, 0.3, 1.0])
def test_the_decoupled_bound_is_below_the_shared_one_as_soon_as_momentum_acts(
    momentum: float, smoothness: float
) -> None:
    for tau, noise, initial in itertools.product((0.0, 0.2, 1.0), (0.1, 1.0), (0.0, 2.0)):
        shared, decoupled = (np.array(bounds(scheme, momentum, 40, smoothness, tau, noise, initial)) for scheme in BOTH)
        assert np.isfinite(shared).all()
        if momentum == 0:
            np.testing.assert_array_equal(decoupled, shared)
        else:
            assert decoupled[0, 0] == shared[0, 0]
            assert (decoupled[0, 1:] < shared[0, 1:]).all()
            assert (decoupled[1] < shared[1]).all()


@pytest.mark.parametrize("momentum", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("smoothness", [0.0, 0.05])
def test_the_order_of_the_bounds_turns_round_at_equal_memory_and_equal_total_step(
    momentum: float, smoothness: float
) -> None:
    """Shared momentum decays by a^2 a round; with that and rate 1 + a, both move 1 / (1 - a) a gradient in the end."""
    swift = {"momentum": momentum**2, "rate": 1 + momentum}
    last = weights(False, swift["momentum"], 400).retain_f[0] * swift["rate"]
    assert last == pytest.approx(weights(True, momentum, 400).retain_f[0]) == pytest.approx(1 / (1 - momentum))
    for tau in (0.0, 0.5):
        shared = np.array(bounds(True, momentum, 40, smoothness, tau))
        decoupled = np.array(bounds(False, rounds=40, smoothness=smoothness, tau=tau, **swift))
        assert (decoupled > shared).all()


@SCHEMES
def test_without_curvature_and_correlation_the_bound_is_the_exact_variance(shared: bool) -> None:
    exact = moments(shared, 0.9, (1, 1), (0, 0), rounds=40)
    np.testing.assert_allclose(bounds(shared, 0.9, 40), (exact.forget, exact.retain))


@SCHEMES
def test_the_bound_holds_for_quadratics_that_meet_the_assumptions(shared: bool) -> None:
    rounds, met = 6, 0
    curvatures = (-0.3, 0.0, 0.05, 0.3, 1.0)
    for momentum, *curvature, rho in itertools.product((0.3, 0.9), curvatures, curvatures, (-0.9, -0.5, 0.0)):
        gradients, steps = responses(shared, momentum, rounds, tuple(curvature))
        covariance = noise_covariance(rounds, (1, 1), rho)
        tau, across = correlations(gradients, covariance)
        if across <= 1e-12:
            met += 1
            exact = np.einsum("tij,jk,tik->it", steps, covariance, steps)
            assert (exact <= np.array(bounds(shared, momentum, rounds, np.abs(curvature).max(), tau)) + 1e-12).all()
    assert met >= 20


@SCHEMES
def test_the_bound_is_exceeded_where_forget_and_retain_gradients_correlate_positively(shared: bool) -> None:
    """Ascent on both: the forget noise comes back in the retain gradient. (1 + a + L)^2 + 1 > (1 + a)^2 + L^2 + 1."""
    exact = moments(shared, 0.5, (1, 1), (-0.5, -0.5), rounds=1).retain[0]
    repeat = 0.5 if shared else 0.0
    assert exact == pytest.approx((1 + repeat + 0.5) ** 2 + 1)
    assert exact > bounds(shared, 0.5, 1, 0.5)[1][0] * 1.2


def test_the_bound_of_150_rounds_says_little_about_the_variance() -> None:
    """Momentum 0.9, rate 0.01, constant push against curvature 1: bound over variance."""
    loose = [
        bounds(shared, 0.9, 150, smoothness=1, rate=0.01)[1][-1] / moments(shared, 0.9, (0.01, 0.01), (0, 1)).retain[-1]
        for shared in BOTH
    ]
    assert loose == pytest.approx([118, 90], abs=1)


# Noisy quadratics


@SCHEMES
@pytest.mark.parametrize(
    ("momentum", "curvature", "noise", "correlation"),
    [
        (0.5, (0, 0), (1, 1), -1),
        (0.9, (-0.5, 1), (3, 1), -0.7),
        (0.7, (0.3, 0.8), (0.5, 2), 0.4),
        (0, (1, 1), (1, 1), 0),
    ],
)
def test_the_propagated_variances_are_those_of_the_real_optimizers_impulse_by_impulse(
    shared: bool, momentum: float, curvature: tuple[float, float], noise: tuple[float, float], correlation: float
) -> None:
    rounds, rate = 25, 0.2
    _, steps = responses(shared, momentum, rounds, curvature, rate)
    expected = np.einsum("tij,jk,tik->it", steps, noise_covariance(rounds, noise, correlation), steps)
    exact = moments(shared, momentum, (rate, rate), curvature, rounds, noise, correlation)
    np.testing.assert_allclose((exact.forget, exact.retain), expected, rtol=1e-9, atol=1e-12)


@SCHEMES
@pytest.mark.parametrize("curvature", [(0.0, 1.0), (-0.5, 1.0), (0.7, 0.4)])
def test_the_propagated_moments_are_those_of_a_simulation(shared: bool, curvature: tuple[float, float]) -> None:
    momentum, rounds, count, rho = 0.8, 20, 20_000, -0.6
    rates, noise, slope = (0.1, 0.1 if shared else 0.05), (2.0, 1.0), (-1.0, 0.3)
    weight = nn.Parameter(torch.zeros(count, dtype=torch.float64))
    optim = optimizers(weight, shared, momentum, rates)
    source = torch.Generator().manual_seed(0)
    seen: list[list[float]] = []
    for _ in range(rounds):
        forget, other = torch.randn(2, count, generator=source, dtype=torch.float64)
        retain = rho * forget + (1 - rho**2) ** 0.5 * other
        weight.grad = curvature[0] * weight.detach() + slope[0] + noise[0] * forget
        optim.step_forget()
        after_forget = weight.detach().var().item()
        weight.grad = curvature[1] * weight.detach() + slope[1] + noise[1] * retain
        optim.step_retain()
        seen.append([weight.detach().mean().item(), after_forget, weight.detach().var().item()])
    mean, *variances = np.array(seen).T

    def deviations(of: bool) -> tuple[float, float]:
        """Largest distance from the propagated means and variances, in standard errors."""
        exact = moments(of, momentum, rates, curvature, rounds, noise, rho, slope)
        by_mean = np.abs(mean - exact.mean) / np.sqrt(exact.retain / count)
        by_variance = np.abs(np.array(variances) / (exact.forget, exact.retain) - 1) / np.sqrt(2 / count)
        return by_mean.max(), by_variance.max()

    assert max(deviations(shared)) < 4
    assert min(deviations(not shared)) > 10


# Where they follow the order of the bounds, and where they do not


def ratio(momentum: float, rate: float, forget_curvature: float, noise: tuple[float, float] = (1.0, 1.0)) -> float:
    """Decoupled over shared variance of the last weights, 150 rounds against a retain loss of curvature 1."""
    one, two = (
        moments(shared, momentum, (rate, rate), (forget_curvature, 1), noise=noise).retain[-1] for shared in BOTH
    )
    return two / one


@pytest.mark.parametrize("correlation", [-0.9, -0.5, 0.0, 0.5])
@pytest.mark.parametrize("momentum", [0.1, 0.5, 0.9])
def test_without_curvature_equal_noises_always_favour_decoupling_but_less_and_less(
    momentum: float, correlation: float
) -> None:
    one, two = (moments(shared, momentum, (1, 1), (0, 0), correlation=correlation).retain for shared in BOTH)
    assert (two < one).all()
    assert two[149] / one[149] > two[14] / one[14] > two[1] / one[1]
    if (momentum, correlation) == (0.9, 0.0):
        assert [two[t - 1] / one[t - 1] for t in (1, 15, 150)] == pytest.approx([0.434, 0.563, 0.952], abs=1e-3)


def test_small_steps_against_a_curved_retain_loss_favour_decoupling() -> None:
    assert ratio(0.9, 0.01, -0.5) == pytest.approx(0.880, abs=1e-3)  # ascent
    assert ratio(0.9, 0.01, 0.0) == pytest.approx(0.939, abs=1e-3)  # constant push
    assert ratio(0.9, 0.01, 1.0) == pytest.approx(0.955, abs=1e-3)  # towards a target


def test_large_steps_of_ascent_favour_sharing_and_decoupling_may_alone_diverge() -> None:
    assert ratio(0.9, 0.1, -0.5) == pytest.approx(2.219, abs=1e-3)
    shared, decoupled = (growth(scheme, 0.9, (0.1, 0.1), (-0.9, 1)) for scheme in BOTH)
    assert shared == pytest.approx(0.9)
    assert decoupled == pytest.approx(1.029, abs=1e-3)


def test_forget_noise_below_the_retain_noise_favours_sharing_and_above_it_decoupling() -> None:
    """Shared momentum takes the last forget gradient once more in the retain step, decoupled momentum does not."""
    found = [ratio(0.5, 0.1, 1.0, noise=(sd, 1.0)) for sd in (0.2, 1.0, 5.0)]
    assert found == pytest.approx([1.081, 0.940, 0.795], abs=1e-3)


def test_sharing_can_win_in_one_round_that_meets_every_assumption() -> None:
    """A retain step of curvature 1 + a undoes all of the shared forget noise and not the decoupled one."""
    momentum, curvature = 0.5, (0.0, 1.5)
    for shared, variance, bound in ((True, 1.0, 5.5), (False, 1.25, 4.25)):
        gradients, _ = responses(shared, momentum, 1, curvature)
        assert correlations(gradients, np.eye(2))[1] <= 0
        assert moments(shared, momentum, (1, 1), curvature, rounds=1).retain[-1] == pytest.approx(variance)
        assert bounds(shared, momentum, 1, smoothness=1.5)[1][-1] == pytest.approx(bound)


@pytest.mark.parametrize("momentum", [0.3, 0.9])
def test_opposite_noises_without_curvature_favour_sharing_after_every_forget_step(momentum: float) -> None:
    """Noises that cancel leave a^4i when shared and a^2i when decoupled; the retain step cancels the latter in full."""
    one, two = (moments(shared, momentum, (1, 1), (0, 0), 150, correlation=-1) for shared in BOTH)
    assert (two.forget[1:] > one.forget[1:]).all()
    assert two.forget[-1] / one.forget[-1] == pytest.approx(1 + momentum**2)
    assert one.retain[-1] == pytest.approx(momentum**2 / (1 - momentum**4))
    assert two.retain == pytest.approx(0, abs=1e-9)


# At equal effective steps


def test_at_equal_mean_step_without_curvature_sharing_has_the_lower_variance_after_some_rounds() -> None:
    one, two = (moments(shared, 0.9, (1, 1), (0, 0), slope=(-1, -1)) for shared in BOTH)
    level = two.retain * (one.mean / two.mean) ** 2 / one.retain
    assert (level[:5] < 1).all()
    assert (level[5:] > 1).all()
    assert level[[0, 14, 149]] == pytest.approx([0.912, 1.043, 1.014], abs=1e-3)


@SCHEMES
def test_the_mean_against_a_constant_push_settles_where_the_last_retain_step_leaves_it(shared: bool) -> None:
    """In units of push over curvature: 1 - rate / (1 + a) shared, 1 - rate / (1 - a) decoupled, which forgets less."""
    for momentum, rate in ((0.5, 0.1), (0.9, 0.03)):
        settled = 1 - rate / (1 + momentum if shared else 1 - momentum)
        assert moments(shared, momentum, (rate, rate), (0, 1), rounds=600).mean[-1] == pytest.approx(settled)


def test_at_equal_rates_decoupling_forgets_less_and_at_equal_forgetting_its_advantage_is_gone() -> None:
    momentum, rate = 0.9, 0.01
    forget = np.array([-0.5, 0.0, 1.0])
    curvature = forget, np.ones(3)
    one, two = (moments(shared, momentum, (rate, rate), curvature) for shared in BOTH)
    assert two.mean[-1] / one.mean[-1] == pytest.approx([0.827, 0.904, 0.950], abs=1e-3)
    factor = forget_factor(momentum, rate, curvature)
    assert factor == pytest.approx([1.106, 1.106, 1.105], abs=1e-3)
    level = moments(False, momentum, (rate * factor, rate), curvature)
    assert level.mean[-1] == pytest.approx(one.mean[-1])
    assert two.retain[-1] / one.retain[-1] == pytest.approx([0.880, 0.939, 0.955], abs=1e-3)
    assert level.retain[-1] / one.retain[-1] == pytest.approx([1.065, 1.036, 1.003], abs=1e-3)
