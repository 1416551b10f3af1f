"""Weights under a mask: one by one or concatenated, the same values move, and on a GPU few kernels move them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from dualoptim_diffusion.optim import mask_indices
from dualoptim_diffusion.optim.ema import EMA
from dualoptim_diffusion.optim.mask_indices import MaskIndices, chunks, concatenated, indices_of, smaller_form, zero_off
from dualoptim_diffusion.optim.masked_adamw import MaskedAdamW
from dualoptim_diffusion.unlearning.loop import gradient_cosine
from tests.helpers.operators import Operators

SHAPES = ((40, 30), (7,), (3, 5, 5, 5), (), (11, 2))


def setting() -> tuple[list[Tensor], list[Tensor]]:
    torch.manual_seed(0)
    tensors = [torch.randn(shape) for shape in SHAPES]
    masks = [torch.rand(shape) < density for shape, density in zip(SHAPES, (0.1, 0.0, 0.6, 1.0, 0.2), strict=True)]
    return tensors, masks


def test_indices_are_used_where_they_take_fewer_bytes_than_the_mask() -> None:
    mask = torch.arange(100).reshape(10, 10) % 5 == 0
    assert torch.equal(smaller_form(mask), torch.arange(0, 100, 5, dtype=torch.int32))
    assert torch.equal(smaller_form(mask), indices_of(mask))
    mask[0, 1:9] = True
    assert smaller_form(mask) is mask
    assert indices_of(mask).nbytes == 4 * 27


@pytest.mark.parametrize("foreach", [False, True])
def test_what_is_gathered_lies_under_the_mask_and_is_put_back_there_alone(foreach: bool) -> None:
    tensors, masks = setting()
    where = [indices_of(mask) for mask in masks]
    before = [t.clone() for t in tensors]
    at = MaskIndices(tensors, where, foreach)
    found = at.gather(tensors)
    assert all(torch.equal(f, t[m]) for f, t, m in zip(found, tensors, masks, strict=True))
    at.scatter([f + 1 for f in found], tensors)
    for tensor, mask, start in zip(tensors, masks, before, strict=True):
        assert torch.equal(tensor, torch.where(mask, start + 1, start))


@pytest.mark.parametrize("size", [1, 8, 1300, 10**6])
@pytest.mark.parametrize("foreach", [False, True])
def test_off_the_mask_is_zero_in_place_whatever_was_there_and_whatever_the_form(
    foreach: bool, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mask_indices, "CHUNK", size)
    tensors, masks = setting()
    expected = [torch.where(mask, t, torch.zeros(())) for t, mask in zip(tensors, masks, strict=True)]
    for tensor, mask in zip(tensors, masks, strict=True):
        tensor[~mask] = float("nan")
    zero_off(tensors, [smaller_form(mask) for mask in masks], foreach)
    assert all(torch.equal(a, b) for a, b in zip(tensors, expected, strict=True))


@pytest.mark.numerical
@pytest.mark.parametrize("size", [1, 8, 1300, 10**6])
def test_the_cosine_of_gradients_is_the_same_one_by_one_and_concatenated(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mask_indices, "CHUNK", size)
    one, other = ({str(i): t.double() + shift for i, t in enumerate(setting()[0])} for shift in (0.0, 0.5))
    del other["2"]  # the second phase does not train it
    flat = [torch.cat([part[name].reshape(-1) for name in "0134"]) for part in (one, other)]
    norms = [torch.cat([t.reshape(-1) for t in part.values()]).norm() for part in (one, other)]
    for foreach in (False, True):
        torch.testing.assert_close(gradient_cosine(one, other, foreach), flat[0] @ flat[1] / norms[0] / norms[1])


def test_chunks_are_neighbours_up_to_a_size_and_hold_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_indices, "CHUNK", 10)
    tensors = [torch.zeros(n) for n in (4, 6, 1, 30, 9, 1, 1)]
    assert [len(concatenated(tensors[part])) for part in chunks(tensors)] == [10, 1, 30, 10, 1]
    assert list(chunks([])) == []


FREE = ("view", "split", "detach", "prim.", "profiler.", "empty", "lift_fresh")  # operators that launch nothing


def adamw_step(network: nn.Module, where: list[Tensor]) -> Callable[[], Any]:
    optimizer = MaskedAdamW(network.parameters(), where, fused=True)
    optimizer.step()  # makes its state
    return optimizer.step


def masking(network: nn.Module, where: list[Tensor]) -> Callable[[], Any]:
    return lambda: zero_off([p.grad for p in network.parameters()], where)  # type: ignore[misc]


def masking_by_bool(network: nn.Module, where: list[Tensor]) -> Callable[[], Any]:
    masks = [torch.empty(p.shape, dtype=torch.bool, device=p.device) for p in network.parameters()]
    return lambda: zero_off([p.grad for p in network.parameters()], masks)  # type: ignore[misc]


def cosine(network: nn.Module, where: list[Tensor]) -> Callable[[], Any]:
    gradients: dict[str, Any] = {name: p.grad for name, p in network.named_parameters()}
    return lambda: gradient_cosine(gradients, gradients)


def ema(network: nn.Module, where: list[Tensor]) -> Callable[[], Any]:
    average = EMA(network, 0.9)
    return lambda: average.update(network, 0)


@pytest.mark.parametrize("make", [adamw_step, masking, masking_by_bool, cosine, ema])
def test_on_a_gpu_a_step_launches_few_kernels_however_many_tensors_and_never_waits(make: Callable[..., Any]) -> None:
    launched = []
    for layers in (5, 100):
        with FakeTensorMode():  # tensors without values, which say when those of two devices meet
            network = nn.ParameterList(nn.Parameter(torch.empty(4, 6, device="cuda:0")) for _ in range(layers))
            for p in network:
                p.grad = torch.empty_like(p)
            work = make(network, [torch.empty(3, dtype=torch.int32, device="cuda:0") for _ in network])
            with Operators() as seen:
                work()
        assert seen.reads == 0
        launched.append(sum(n for name, n in seen.counts.items() if not any(word in name for word in FREE)))
    assert launched[0] == launched[1] <= 20
