"""Between one Adam and two: dual_m, dual_v and DualOptim+, in float64 against written-out loops."""

import copy

import pytest
import torch
from torch import nn

from dualoptim_diffusion.files.checkpoint import pack, unpack
from dualoptim_diffusion.optim.dual_optim import DualOptim
from dualoptim_diffusion.optim.linked_adam import PlusAdam, SharedMomentAdam, linked_pair

B1, B2, EPS = 0.9, 0.999, 1e-8
FORGET_LR, RETAIN_LR = 3e-3, 1e-2
PHASES = ["forget", "retain", "retain", "forget", "retain", "forget", "forget", "retain"]
GRADIENTS = [g.double() for g in torch.randn(len(PHASES), 3, generator=torch.Generator().manual_seed(0))]


def weight() -> nn.Parameter:
    return nn.Parameter(torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64))


def walk(optimizers: DualOptim, parameter: nn.Parameter, first: int = 0, last: int = len(PHASES)) -> list[torch.Tensor]:
    """Weights after each step on the fixed phases and gradients."""
    path = []
    for phase, gradient in zip(PHASES[first:last], GRADIENTS[first:last], strict=True):
        parameter.grad = gradient.clone()
        optimizers.step_forget() if phase == "forget" else optimizers.step_retain()
        path.append(parameter.detach().clone())
    return path


def written_out(mode: str) -> list[torch.Tensor]:
    """dual_m and dual_v by their definition: what is shared counts all steps, what is not the phase's."""
    theta, path = weight().detach().clone(), []
    moments = {key: torch.zeros(3, dtype=torch.float64) for key in ("m", "v", "m_f", "m_r", "v_f", "v_r")}
    count = {"all": 0, "f": 0, "r": 0}
    for phase, g in zip(PHASES, GRADIENTS, strict=True):
        k, lr = ("f", FORGET_LR) if phase == "forget" else ("r", RETAIN_LR)
        count["all"] += 1
        count[k] += 1
        m, m_count = (f"m_{k}", count[k]) if mode == "dual_m" else ("m", count["all"])
        v, v_count = (f"v_{k}", count[k]) if mode == "dual_v" else ("v", count["all"])
        moments[m] = B1 * moments[m] + (1 - B1) * g
        moments[v] = B2 * moments[v] + (1 - B2) * g * g
        m_hat, v_hat = moments[m] / (1 - B1**m_count), moments[v] / (1 - B2**v_count)
        theta = theta - lr * m_hat / (v_hat.sqrt() + EPS)
        path.append(theta)
    return path


@pytest.mark.numerical
@pytest.mark.parametrize("mode", ["dual_m", "dual_v"])
def test_one_decoupled_moment_matches_the_written_out_loop(mode: str) -> None:
    parameter = weight()
    path = walk(DualOptim(*linked_pair(mode, [parameter], FORGET_LR, RETAIN_LR)), parameter)
    for ours, expected in zip(path, written_out(mode), strict=True):
        assert torch.allclose(ours, expected, rtol=1e-12, atol=0)


def test_the_two_ablations_differ_from_each_other_from_dual_and_from_shared() -> None:
    ends = []
    for mode in ("dual_m", "dual_v", "dual_plus"):
        parameter = weight()
        ends.append(walk(DualOptim(*linked_pair(mode, [parameter], FORGET_LR, RETAIN_LR)), parameter)[-1])
    for shared in (False, True):
        parameter = weight()
        retain = torch.optim.Adam([parameter], RETAIN_LR)
        pair = DualOptim(retain if shared else torch.optim.Adam([parameter], FORGET_LR), retain)
        ends.append(walk(pair, parameter)[-1])
    assert all(not torch.allclose(a, b, rtol=1e-4) for i, a in enumerate(ends) for b in ends[:i])


@pytest.mark.numerical
def test_dual_optim_plus_matches_the_written_out_rule() -> None:
    theta, path, count = weight().detach().clone(), [], {"all": 0, "forget": 0, "retain": 0}
    base = [torch.zeros(3, dtype=torch.float64) for _ in range(2)]
    delta = {phase: [torch.zeros(3, dtype=torch.float64) for _ in range(2)] for phase in ("forget", "retain")}
    for phase, g in zip(PHASES, GRADIENTS, strict=True):
        count[phase] += 1
        sums = []
        for i, (beta, value) in enumerate(((B1, g), (B2, g * g))):
            hat = base[i] / (1 - beta ** count["all"]) if count["all"] else base[i]
            delta[phase][i] = beta * delta[phase][i] + (1 - beta) * (value - hat)
            sums.append(delta[phase][i] / (1 - beta ** count[phase]) + hat)
            base[i] = beta * base[i] + (1 - beta) * value
        count["all"] += 1
        theta = theta - {"forget": FORGET_LR, "retain": RETAIN_LR}[phase] * sums[0] / (sums[1].abs().sqrt() + EPS)
        path.append(theta)
    parameter = weight()
    ours = walk(DualOptim(*linked_pair("dual_plus", [parameter], FORGET_LR, RETAIN_LR)), parameter)
    assert all(torch.allclose(a, b, rtol=1e-12, atol=0) for a, b in zip(ours, path, strict=True))


@pytest.mark.numerical
def test_with_its_base_held_at_zero_dual_optim_plus_is_dual_optim() -> None:
    parameter, reference = weight(), weight()
    forget, retain = linked_pair("dual_plus", [parameter], FORGET_LR, RETAIN_LR)
    for optimizer in (forget, retain):
        optimizer.register_step_post_hook(
            lambda *_: [retain.state[parameter][f"common_{m}"].zero_() for m in ("first", "second")]
        )
    dual = DualOptim(torch.optim.Adam([reference], FORGET_LR), torch.optim.Adam([reference], RETAIN_LR))
    for ours, expected in zip(walk(DualOptim(forget, retain), parameter), walk(dual, reference), strict=True):
        assert torch.allclose(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.numerical
def test_with_its_deltas_held_at_zero_dual_optim_plus_is_one_adam_a_step_behind() -> None:
    class BaseAlone(PlusAdam):
        def _delta(self, own, moment, surplus, beta):
            return torch.zeros_like(surplus)

    parameter, reference = weight(), weight()
    retain = BaseAlone([parameter], RETAIN_LR)
    ours = walk(DualOptim(BaseAlone([parameter], RETAIN_LR, partner=retain), retain), parameter)
    adam = torch.optim.Adam([reference], RETAIN_LR)
    expected = walk(DualOptim(adam, adam), reference)
    assert torch.equal(ours[0], weight())  # the hats are 0 at the first step
    for after, before in zip(ours[1:], expected[:-1], strict=True):
        assert torch.allclose(after, before, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", ["dual_m", "dual_v", "dual_plus"])
def test_saved_and_restored_in_the_middle_the_pair_goes_on_bit_for_bit(mode: str) -> None:
    parameter = weight()
    whole = walk(DualOptim(*linked_pair(mode, [parameter], FORGET_LR, RETAIN_LR)), parameter)
    parameter = weight()
    optimizers = DualOptim(*linked_pair(mode, [parameter], FORGET_LR, RETAIN_LR))
    walk(optimizers, parameter, last=3)
    tensors: dict[str, torch.Tensor] = {}
    packed = pack(optimizers.state_dict(), tensors)
    again = nn.Parameter(parameter.detach().clone())
    restored = DualOptim(*linked_pair(mode, [again], FORGET_LR, RETAIN_LR))
    restored.load_state_dict(copy.deepcopy(unpack(packed, tensors)))
    assert torch.equal(walk(restored, again, first=3)[-1], whole[-1])


def test_what_is_common_is_held_once() -> None:
    parameter = weight()
    forget, retain = linked_pair("dual_m", [parameter], FORGET_LR, RETAIN_LR)
    walk(DualOptim(forget, retain), parameter)
    assert set(forget.state[parameter]) == {"own_step", "own_first"}
    assert set(retain.state[parameter]) == {"own_step", "own_first", "common_step", "common_second"}
    assert isinstance(forget, SharedMomentAdam)


def test_masked_gradients_leave_off_mask_weights_alone_where_the_first_moment_is_the_phases_own() -> None:
    parameter = weight()
    forget, retain = linked_pair("dual_m", [parameter], FORGET_LR, RETAIN_LR)
    walk(DualOptim(forget, retain), parameter, last=3)
    forget.state[parameter]["own_first"].zero_()
    before = parameter.detach().clone()
    parameter.grad = torch.tensor([0.0, 5.0, 0.0], dtype=torch.float64)
    forget.step()
    assert torch.equal(parameter.detach()[[0, 2]], before[[0, 2]])
    assert parameter[1] != before[1]
