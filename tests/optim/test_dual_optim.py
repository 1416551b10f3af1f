"""Two optimizers over the same weights, each with its own moments."""

import copy

import pytest
import torch
from torch import nn

from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.files.checkpoint import pack, unpack
from dualoptim_diffusion.optim.dual_optim import DualOptim
from dualoptim_diffusion.optim.factory import (
    ELEMENTWISE,
    check_optimizer_name,
    freeze_off_mask,
    make_optimizer,
    optimizer_names,
    set_momentum,
)

LR, BETA1, BETA2, EPS = 1e-2, 0.9, 0.999, 1e-8


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(16, 6))


def random_gradients(model: nn.Module, step: int, mask: dict[str, torch.Tensor] | None = None) -> None:
    source = torch.Generator().manual_seed(step)
    for name, p in model.named_parameters():
        p.grad = torch.randn(p.shape, generator=source, dtype=p.dtype)
        if mask is not None:
            p.grad = torch.where(mask[name], p.grad, 0.0)


def half_mask(model: nn.Module) -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(1)
    return {name: torch.rand(p.shape, generator=source) < 0.5 for name, p in model.named_parameters()}


def pair(model: nn.Module, forget: str, retain: str) -> DualOptim:
    return DualOptim(*(make_optimizer(name, model.parameters(), LR) for name in (forget, retain)))


def hand_adam(gradients: list[float]) -> list[float]:
    """Total change of a weight after each step, by Adam's formulas alone."""
    m = v = change = 0.0
    changes = []
    for t, g in enumerate(gradients, start=1):
        m, v = BETA1 * m + (1 - BETA1) * g, BETA2 * v + (1 - BETA2) * g * g
        change -= LR * (m / (1 - BETA1**t)) / ((v / (1 - BETA2**t)) ** 0.5 + EPS)
        changes.append(change)
    return changes


@pytest.mark.numerical
def test_three_rounds_match_two_hand_computed_adams_in_float64() -> None:
    weight = nn.Parameter(torch.tensor([0.3], dtype=torch.float64))
    optimizers = DualOptim(torch.optim.Adam([weight], LR), torch.optim.Adam([weight], LR))
    forget, retain = [-5.0, 3.0, -40.0], [0.5, -0.25, 0.125]
    for g_forget, g_retain in zip(forget, retain, strict=True):
        weight.grad = torch.tensor([g_forget], dtype=torch.float64)
        optimizers.step_forget()
        weight.grad = torch.tensor([g_retain], dtype=torch.float64)
        optimizers.step_retain()
    expected = 0.3 + hand_adam(forget)[-1] + hand_adam(retain)[-1]
    assert weight.item() == pytest.approx(expected, abs=1e-15)


@pytest.mark.numerical
def test_shared_mode_is_one_adam_over_the_interleaved_gradients() -> None:
    weight = nn.Parameter(torch.tensor([0.3], dtype=torch.float64))
    adam = torch.optim.Adam([weight], LR)
    optimizers = DualOptim(adam, adam)
    sequence = [-5.0, 0.5, 3.0, -0.25]
    for step, gradient in enumerate(sequence):
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        (optimizers.step_retain if step % 2 else optimizers.step_forget)()
    assert optimizers.shared
    assert weight.item() == pytest.approx(0.3 + hand_adam(sequence)[-1], abs=1e-15)


@pytest.mark.parametrize("name", optimizer_names())
def test_a_forget_step_leaves_off_mask_weights_and_retain_state_bit_identical(name: str) -> None:
    model = network()
    mask, parameters = half_mask(model), dict(model.named_parameters())
    optimizers = pair(model, name, "adam")
    if name not in ELEMENTWISE:
        freeze_off_mask(optimizers.forget, parameters, mask)
    for step in range(3):
        random_gradients(model, 2 * step)
        optimizers.step_retain()
        weights = {key: p.detach().clone() for key, p in parameters.items()}
        retain = copy.deepcopy(optimizers.retain.state_dict())
        random_gradients(model, 2 * step + 1, mask)
        optimizers.step_forget()
        moved = False
        for key, p in parameters.items():
            assert torch.equal(p[~mask[key]], weights[key][~mask[key]])
            moved = moved or not torch.equal(p[mask[key]], weights[key][mask[key]])
        after = optimizers.retain.state_dict()
        assert after["param_groups"] == retain["param_groups"]
        for key, state in retain["state"].items():
            assert all(torch.equal(after["state"][key][part], value) for part, value in state.items())
    assert moved or name in ("adadelta", "larc", "lars", "nlarc", "nlars") or "adafactor" in name


@pytest.mark.parametrize("name", sorted(ELEMENTWISE))
def test_elementwise_optimizers_freeze_off_mask_weights_without_a_guard(name: str) -> None:
    model = network()
    mask, before = half_mask(model), copy.deepcopy(model.state_dict())
    optimizer = make_optimizer(name, model.parameters(), LR)
    for step in range(5):
        random_gradients(model, step, mask)
        optimizer.step()
    assert all(torch.equal(p[~mask[key]], before[key][~mask[key]]) for key, p in model.named_parameters())


def test_muon_moves_off_mask_weights_unless_guarded() -> None:
    model = network()
    mask, before = half_mask(model), copy.deepcopy(model.state_dict())
    optimizer = make_optimizer("muon", model.parameters(), LR)
    random_gradients(model, 0, mask)
    optimizer.step()
    assert any(not torch.equal(p[~mask[key]], before[key][~mask[key]]) for key, p in model.named_parameters())


def test_a_shared_optimizer_moves_masked_weights_by_retain_momentum() -> None:
    model = network()
    mask = half_mask(model)
    adam = make_optimizer("adam", model.parameters(), LR)
    optimizers = DualOptim(adam, adam)
    random_gradients(model, 0)
    optimizers.step_retain()
    before = copy.deepcopy(model.state_dict())
    random_gradients(model, 1, mask)
    optimizers.step_forget()
    assert any(not torch.equal(p[~mask[key]], before[key][~mask[key]]) for key, p in model.named_parameters())


@pytest.mark.parametrize("name", optimizer_names())
def test_state_survives_the_disk_format_bit_for_bit(name: str) -> None:
    unbroken, resumed = network(), network()
    optimizers = pair(unbroken, name, "adam")
    random_gradients(unbroken, 0)
    optimizers.step_forget()
    optimizers.step_retain()
    tensors: dict[str, torch.Tensor] = {}
    packed = pack(optimizers.state_dict(), tensors)
    resumed.load_state_dict(unbroken.state_dict())
    again = pair(resumed, name, "adam")
    again.load_state_dict(unpack(packed, tensors))
    for model, both in ((unbroken, optimizers), (resumed, again)):
        for step in (1, 2):
            random_gradients(model, step)
            both.step_forget()
            both.step_retain()
    assert all(torch.equal(a, b) for a, b in zip(unbroken.parameters(), resumed.parameters(), strict=True))


def test_scale_lr_is_relative_to_the_rate_at_construction_and_leaves_the_other_phase_alone() -> None:
    optimizers = pair(network(), "adam", "sgd")
    optimizers.scale_lr("forget", 0.5)
    optimizers.scale_lr("forget", 0.25)
    assert optimizers.forget.param_groups[0]["lr"] == LR * 0.25
    assert optimizers.retain.param_groups[0]["lr"] == LR


def test_momentum_is_set_for_every_optimizer_that_has_one_and_refused_for_others() -> None:
    for name in ("adam", "lion", "sgd", "muon"):
        optimizer = make_optimizer(name, network().parameters(), LR)
        set_momentum(optimizer, 0.5)
        (group, *_) = optimizer.param_groups
        assert group.get("betas", (0.5,))[0] == group.get("momentum", 0.5) == 0.5
    with pytest.raises(InputError, match="has no momentum"):
        set_momentum(make_optimizer("adagrad", network().parameters(), LR), 0.5)


def test_state_of_the_other_mode_is_refused() -> None:
    model = network()
    adam = make_optimizer("adam", model.parameters(), LR)
    with pytest.raises(InputError, match="expected"):
        pair(model, "adam", "adam").load_state_dict(DualOptim(adam, adam).state_dict())


def test_weight_decay_is_zero_for_every_name() -> None:
    for name in optimizer_names():
        groups = make_optimizer(name, network().parameters(), LR).param_groups
        assert all(not group.get("weight_decay") for group in groups), name


@pytest.mark.parametrize(("name", "hint"), [("adamm", "adam"), ("adahessian", "mean"), ("bnbadam", "mean|known")])
def test_an_unusable_optimizer_is_named_with_its_neighbours(name: str, hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        check_optimizer_name(name)
