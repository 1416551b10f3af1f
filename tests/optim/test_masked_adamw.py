"""Compact state: the steps of AdamW on masked gradients, without the moments that are always zero."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dualoptim_diffusion.optim import mask_indices
from dualoptim_diffusion.optim.factory import make_optimizer
from dualoptim_diffusion.optim.mask_indices import indices_of
from dualoptim_diffusion.optim.masked_adamw import MaskedAdamW
from tests.helpers.commands import Outcome

Run = Callable[..., Outcome]

SHAPES = ((40, 30), (7,), (3, 5, 5, 5), (11, 2))


def setting(density: float, dtype: torch.dtype = torch.float32) -> tuple[list[nn.Parameter], list[Tensor]]:
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in SHAPES]
    masks = [torch.rand(shape) < density for shape in SHAPES]
    masks[1][:] = False  # a tensor without any weight under the mask
    return params, masks


def feed(params: list[nn.Parameter], masks: list[Tensor] | None, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for i, p in enumerate(params):
        grad = torch.randn(p.shape, generator=generator).to(p.dtype) * 10 ** (i - 2)
        p.grad = grad if masks is None else torch.where(masks[i], grad, torch.zeros_like(grad))


@pytest.mark.numerical
def test_the_fused_step_equals_the_plain_one_up_to_rounding() -> None:
    params, masks = setting(0.3, torch.float64)
    others, _ = setting(0.3, torch.float64)
    fused, plain = MaskedAdamW(params, masks, lr=1e-3, fused=True), MaskedAdamW(others, masks, lr=1e-3)
    start = [p.detach().clone() for p in params]
    for step in range(100):
        for group, optimizer in ((params, fused), (others, plain)):
            feed(group, None, step)
            optimizer.step()
    for p, other, mask, before in zip(params, others, masks, start, strict=True):
        torch.testing.assert_close(p, other, rtol=0, atol=1e-12)
        assert torch.equal(p[~mask], before[~mask])


@pytest.mark.numerical
@pytest.mark.parametrize(("foreach", "chunk"), [(False, 10**6), (True, 10**6), (True, 400)])
@pytest.mark.parametrize("density", [0.05, 0.5])
@pytest.mark.parametrize("name", ["adamw", "adam"])
def test_a_hundred_steps_are_bit_equal_to_the_dense_optimizer_on_masked_gradients(
    name: str, density: float, foreach: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mask_indices, "CHUNK", chunk)
    params, masks = setting(density)
    before = [p.detach().clone() for p in params]
    others, _ = setting(density)
    compact = MaskedAdamW(params, [indices_of(mask) for mask in masks], lr=1e-2, foreach=foreach)
    dense = make_optimizer(name, others, 1e-2)
    for group in dense.param_groups:
        group["foreach"] = foreach
    for step in range(100):
        for group in (*compact.param_groups, *dense.param_groups):
            group["lr"] = 1e-2 * (1 - step / 100)
        feed(params, None, step)  # only what is under the mask is read
        feed(others, masks, step)
        compact.step()
        dense.step()
    for p, other, mask, start in zip(params, others, masks, before, strict=True):
        assert torch.equal(p, other)
        assert torch.equal(p[~mask], start[~mask])
        assert not mask.any() or not torch.equal(p[mask], start[mask])


@pytest.mark.parametrize("density", [0.1, 0.5])
def test_no_moment_is_kept_off_the_mask(density: float) -> None:
    params, masks = setting(density)
    optimizer = MaskedAdamW(params, [indices_of(mask) for mask in masks])
    feed(params, None, 0)
    optimizer.step()
    held = sum(s.numel() for state in optimizer.state.values() for s in state.values() if s.ndim)
    assert held == 2 * sum(int(mask.sum()) for mask in masks)
    assert params[1] not in optimizer.state


@pytest.mark.parametrize("density", [0.1, 0.5])
def test_saved_and_restored_it_goes_on_bit_for_bit(density: float) -> None:
    params, masks = setting(density)
    supports = [indices_of(mask) for mask in masks]
    unbroken = MaskedAdamW(params, supports)
    others, _ = setting(density)
    first = MaskedAdamW(others, supports)
    for step in range(3):
        for group, optimizer in ((params, unbroken), (others, first)):
            feed(group, None, step)
            optimizer.step()
    second = MaskedAdamW(others, supports)
    second.load_state_dict(first.state_dict())
    for step in range(3, 6):
        for group, optimizer in ((params, unbroken), (others, second)):
            feed(group, None, step)
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(params, others, strict=True))


def test_masks_and_parameters_must_be_as_many() -> None:
    params, masks = setting(0.1)
    with pytest.raises(ValueError, match="3 masks were given for 4 parameters"):
        MaskedAdamW(params, masks[:3])


def test_weights_without_gradient_are_left_alone() -> None:
    params, masks = setting(0.5)
    before = [p.detach().clone() for p in params]
    optimizer: Any = MaskedAdamW(params, masks)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(params, before, strict=True))
    assert not optimizer.state


@pytest.mark.parametrize("words", [["method.name=sfron"], ["method.name=salun", "optimizers.retain_state=compact"]])
def test_a_run_with_compact_state_ends_with_the_same_bytes(
    dualoptim: Run, tiny: str, tmp_path: Path, words: list[str]
) -> None:
    top = "{kind: top_fraction, top_fraction: 0.3, estimator: plain, num_batches: 2}"
    mask = [f"method.mask={top}"] if "salun" in words[0] else []
    common = [*words, *mask, "optimizers.forget_state=compact", "--class", "three"]
    assert dualoptim("forget", tiny, *common, "--out", tmp_path / "compact").code == 0
    dense = [*common, "optimizers.forget_state=full", "optimizers.retain_state=full"]
    assert dualoptim("forget", tiny, *dense, "--out", tmp_path / "dense").code == 0
    runs = ["compact", "dense"]
    if not mask:  # stopped, its state read again
        assert dualoptim("forget", tiny, *common, "--out", tmp_path / "parts", "--stop-after", 3).code == 75
        assert dualoptim("forget", tiny, *common, "--out", tmp_path / "parts", "--resume").code == 0
        runs.append("parts")
    weights = {(tmp_path / run / "model" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() for run in runs}
    assert len(weights) == 1
    kept = next((tmp_path / "compact" / "checkpoints").glob("step_*/state.safetensors"))
    assert kept.stat().st_size < next((tmp_path / "dense").glob("checkpoints/step_*/state.safetensors")).stat().st_size


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["optimizers.forget=lion"], "expected forget to be adam or adamw with forget_state compact"),
        (["optimizers.mode=dual_m"], "expected mode dual with forget_state compact, not dual_m"),
        (["optimizers.retain=lion", "optimizers.retain_state=8bit"], "adam or adamw with retain_state 8bit"),
        (["optimizers.retain=lion", "optimizers.fused=true"], "adam or adamw for both phases"),
        (["method.mask=null"], "is compact, but there is no mask; set method.mask"),
    ],
)
def test_compact_state_that_cannot_be_is_refused(
    dualoptim: Run, tiny: str, tmp_path: Path, words: list[str], sentence: str
) -> None:
    out = tmp_path / "run"
    outcome = dualoptim("forget", tiny, "optimizers.forget_state=compact", *words, "--class", "three", "--out", out)
    assert outcome.code == 1
    assert sentence in outcome.err
    assert not out.exists()


@pytest.mark.parametrize(("method", "phase"), [("finetune", "forget"), ("sfron", "retain")])
def test_a_phase_without_mask_does_not_read_the_state_of_its_optimizer(
    dualoptim: Run, tiny: str, method: str, phase: str
) -> None:
    words = [f"method.name={method}", f"optimizers.{phase}_state=compact"]
    outcome = dualoptim("forget", tiny, *words, "--class", "three", "--dry-run", "--json")
    assert outcome.code == 0, outcome.err
    assert f"{method} does not read" in outcome.err
    assert f"optimizers.{phase}_state" in outcome.err
    assert f"{phase}_state" not in json.loads(outcome.out)["recipe"]["optimizers"]


def test_the_dry_run_tells_full_and_compact_state_apart(dualoptim: Run, tiny: str) -> None:
    plan = json.loads(dualoptim("forget", tiny, "--class", "three", "--dry-run", "--json").out)
    states, n = plan["bytes_of_optimizer_states"], plan["parameters"]
    assert states["full"]["total"] == pytest.approx((16 + 0.1 * 4) * n, abs=4)
    assert states["8bit"]["total"] == pytest.approx((2 * (2 + 8 / 256) + 0.1 * 4) * n, abs=4)
    assert states["compact"]["total"] == pytest.approx((8 + 0.1 * (8 + 4)) * n, abs=4)
    text = dualoptim("forget", tiny, "--class", "three", "--dry-run").out
    assert "memory_of_optimizer_states:" in text
    assert " MB" in text
