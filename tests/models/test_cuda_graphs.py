"""Training passes as CUDA graphs: which passes are replayed. That replays are right needs a GPU."""

from collections.abc import Callable

import pytest
import torch
from accelerate import Accelerator

from dualoptim_diffusion.models import ConditionalDDPM, UNetModule

SMALL = {
    "sample_size": 8, "in_channels": 1, "num_classes": 2, "width": 8, "multipliers": (1, 2), "layers_per_block": 1,
    "attention_resolutions": (), "mid_attention": False, "norm_groups": 2,
}  # fmt: skip


def small_model(device: str = "cpu") -> ConditionalDDPM:
    torch.manual_seed(0)
    return ConditionalDDPM(UNetModule(**SMALL, dropout=0.0).to(device), {0: "a", 1: "b"})


def inputs(count: int, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x_t = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(count))
    return x_t.to(device), torch.arange(count, device=device), torch.arange(count, device=device) % 2


def test_only_training_passes_of_the_batch_size_are_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    replayed = []

    def make(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> Callable[..., torch.Tensor]:
        assert module.training
        assert [tuple(part.shape) for part in args] == [(4, 1, 8, 8), (4,), (4,)]
        assert len({part.data_ptr() for part in args}) == 3  # replays copy each input to its own place
        return lambda *args: replayed.append(len(args[0])) or module(*args)

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", make)
    model = small_model()
    model.prepare(Accelerator(cpu=True))
    expected = {count: model.predict(*inputs(count)) for count in (3, 4)}
    model.network.eval()
    model.capture_training(4)
    assert not model.network.training
    assert torch.equal(model.predict(*inputs(4)), expected[4])
    assert replayed == []
    model.network.train()
    with torch.no_grad():
        model.predict(*inputs(4))
    assert torch.equal(model.predict(*inputs(3)), expected[3])
    assert replayed == []
    assert torch.equal(model.predict(*inputs(4)), expected[4])
    assert replayed == [4]


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_a_replayed_step_has_the_gradients_of_a_plain_one(compiled: bool) -> None:
    gradients = []
    for captured in (False, True):
        model = small_model("cuda")
        model.prepare(Accelerator(), "bf16", channels_last=True, compiled=compiled and captured)
        model.network.train()
        if captured:
            model.capture_training(4)
        for count in (4, 4):  # a replay overwrites the gradients of the one before
            model.network.zero_grad()
            model.predict(*inputs(count, "cuda")).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten().clone() for p in model.network.parameters()]))
    plain, replayed = gradients
    assert (replayed - plain).norm() / plain.norm() < 0.02  # bf16 passes
