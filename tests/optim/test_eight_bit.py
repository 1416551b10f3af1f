"""Moments of 8 bits: what they hold, that masked weights stay, and what is said where they cannot be had."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.files.checkpoint import load_checkpoint, save_checkpoint
from dualoptim_diffusion.optim.factory import check_8bit, freeze_off_mask, make_8bit_adamw, make_optimizer
from tests.helpers.commands import Outcome
from tests.helpers.numerics import rounding

Run = Callable[..., Outcome]
LR = 1e-3


def weights() -> nn.ParameterDict:
    torch.manual_seed(0)
    return nn.ParameterDict({"large": torch.randn(96, 96), "small": torch.randn(10)})


def mask_of(parameters: nn.ParameterDict) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(1)
    return {name: torch.rand(p.shape, generator=source) < 0.5 for name, p in parameters.items()}


def feed(parameters: nn.ParameterDict, step: int, mask: dict[str, Tensor] | None = None) -> None:
    source = torch.Generator().manual_seed(step)
    for name, p in parameters.items():
        gradient = torch.randn(p.shape, generator=source)
        p.grad = gradient if mask is None else torch.where(mask[name], gradient, 0.0)


def test_moments_take_a_byte_a_weight_where_the_tensor_is_large() -> None:
    parameters = weights()
    optimizer = make_8bit_adamw(parameters.values(), LR)
    feed(parameters, 0)
    optimizer.step()
    large, small = (optimizer.state[parameters[name]] for name in ("large", "small"))
    assert large["state1"].dtype == large["state2"].dtype == torch.uint8
    held = sum(value.nbytes for key, value in large.items() if isinstance(value, Tensor) and "map" not in key)
    assert held == pytest.approx((2 + 2 * 4 / 256) * parameters["large"].numel())
    assert small["state1"].dtype == torch.float32


@pytest.mark.numerical
def test_a_step_stays_near_that_of_adamw() -> None:
    eight, full = weights(), weights()
    optimizers = make_8bit_adamw(eight.values(), LR), make_optimizer("adamw", full.values(), LR)
    for step in range(20):
        for parameters, optimizer in zip((eight, full), optimizers, strict=True):
            feed(parameters, step)
            optimizer.step()
    start = weights()
    moved = (full["large"] - start["large"]).norm()
    assert (eight["large"] - full["large"]).norm() < 0.1 * moved
    largest = float(full["small"].detach().abs().max())
    torch.testing.assert_close(eight["small"], full["small"], rtol=0, atol=rounding(20, largest))  # float32 in both


def test_weights_off_the_mask_stay_bit_identical_though_a_byte_may_not_hold_zero() -> None:
    parameters = weights()
    mask, start = mask_of(parameters), weights()
    optimizer = make_8bit_adamw(parameters.values(), LR)
    freeze_off_mask(optimizer, dict(parameters.items()), mask)
    for step in range(5):
        feed(parameters, step, mask)
        optimizer.step()
    for name, p in parameters.items():
        assert torch.equal(p[~mask[name]], start[name][~mask[name]])
        assert not torch.equal(p[mask[name]], start[name][mask[name]])


def test_state_survives_a_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    unbroken, resumed = weights(), weights()
    first = make_8bit_adamw(unbroken.values(), LR)
    for step in range(3):
        feed(unbroken, step)
        first.step()
    save_checkpoint(tmp_path, 3, {"weights": unbroken.state_dict(), "optimizer": first.state_dict()}, {"recipe": "x"})
    restored = load_checkpoint(tmp_path, {"recipe": "x"})
    assert restored is not None
    resumed.load_state_dict(restored.state["weights"])
    second = make_8bit_adamw(resumed.values(), LR)
    second.load_state_dict(restored.state["optimizer"])
    for step in range(3, 6):
        for parameters, optimizer in ((unbroken, first), (resumed, second)):
            feed(parameters, step)
            optimizer.step()
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)


def test_without_its_package_one_sentence_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, dualoptim: Run, tiny: str, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(InputError, match="pip install bitsandbytes"):
        check_8bit(torch.device("cpu"))
    words = ["optimizers.retain_state=8bit", "--class", "three", "--out", tmp_path / "run"]
    outcome = dualoptim("forget", tiny, *words)
    assert outcome.code == 1
    assert "pip install bitsandbytes`, or choose compact or full" in outcome.err
    assert not (tmp_path / "run").exists()


def test_a_run_with_8bit_states_stops_and_goes_on_bit_for_bit(dualoptim: Run, tiny: str, tmp_path: Path) -> None:
    states = ["optimizers.forget_state=8bit", "optimizers.retain_state=8bit", "--class", "three"]
    assert dualoptim("forget", tiny, *states, "--out", tmp_path / "whole").code == 0
    assert dualoptim("forget", tiny, *states, "--out", tmp_path / "parts", "--stop-after", 3).code == 75
    assert dualoptim("forget", tiny, *states, "--out", tmp_path / "parts", "--resume").code == 0
    whole, parts = (json.loads((tmp_path / run / "provenance.json").read_text()) for run in ("whole", "parts"))
    assert whole["model_sha256"] == parts["model_sha256"]
    text = (tmp_path / "whole" / "recipe.yaml").read_text()
    assert "forget_state: 8bit" in text
    assert "retain_state: 8bit" in text
