"""Memory and time of a run before it begins: counted, or measured on a few passes of this machine."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import nn

from dualoptim_diffusion.core.config import DenoiserRunConfig
from dualoptim_diffusion.diffusion.randomness import derive_seed
from dualoptim_diffusion.models import DenoisingModel
from dualoptim_diffusion.models.costs import bytes_saved, measured
from dualoptim_diffusion.optim.plan import FP32_BYTES

LARGEST_STEPPED = 10**8  # parameters of a network that an optimizer's step is timed on: it needs two copies of them


def num_parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def memory(network: nn.Module, copies: Mapping[str, float]) -> dict[str, Any]:
    """Parameters, and bytes of everything that grows with them; `copies` counts further such tensors, in fp32."""
    count = num_parameters(network)
    parts = {"weights": 1.0, "gradients": 1.0, **copies}
    bytes_each = {name: round(share * count * FP32_BYTES) for name, share in parts.items()}
    return {"parameters": count, "bytes_without_activations": bytes_each | {"total": sum(bytes_each.values())}}


def machine_bytes() -> int | None:
    """Memory of this machine, where the system tells."""
    names = "SC_PAGE_SIZE", "SC_PHYS_PAGES"
    known = getattr(os, "sysconf_names", {})
    return os.sysconf(names[0]) * os.sysconf(names[1]) if known.keys() >= {*names} else None


def bytes_of_activations(model: DenoisingModel, batch_size: int) -> int:
    """Bytes that a training pass of this batch saves; of a network on the meta device nothing is allocated."""
    network = model.network.train()
    device = next(network.parameters()).device

    def forward(count: int) -> None:
        x_0, labels = torch.zeros(count, *model.x_0_shape, device=device), torch.zeros(count, dtype=torch.long)
        model.loss(x_0, labels.to(device), torch.zeros_like(x_0), labels.to(device))

    return bytes_saved(network, forward, batch_size)


class Speed(NamedTuple):
    """Seconds, measured on this machine, not compiled.

    Attributes:
        forward: an image of a forward pass.
        backward: an image of a forward and a backward pass.
        step: of an optimizer, with clipping; 0 of a network that is too large to try it on.
    """

    forward: float
    backward: float
    step: float

    def update(self, batch_size: int) -> float:
        """Seconds of a pass of a batch and the step after it."""
        return batch_size * self.backward + self.step


def speed(model: DenoisingModel, accelerator: Accelerator, run: DenoiserRunConfig, batch_size: int) -> Speed:
    """How fast the model trains with such batches and draws."""
    model.prepare(accelerator, run.precision, run.channels_last)
    device = accelerator.device
    torch.manual_seed(derive_seed(0, "probe"))

    def forward(count: int) -> torch.Tensor:
        x_0 = torch.randn(count, *model.x_0_shape, device=device)
        labels = torch.zeros(count, dtype=torch.long, device=device)
        return model.loss(x_0, labels, torch.randn_like(x_0), labels).mean()

    with torch.no_grad():
        alone = measured(forward, device)
    backward = measured(lambda count: forward(count).backward(), device, batch_size)
    return Speed(alone, backward, seconds_of_step(model.network, device))


@torch.no_grad()
def seconds_of_step(network: nn.Module, device: torch.device) -> float:
    """Seconds of an Adam's step and of clipping before it; the network has gradients, and no weight changes.

    The arithmetic is written out: making an optimizer would load torch's compiler.
    """
    if num_parameters(network) > LARGEST_STEPPED:
        return 0.0
    moved = [p for p in network.parameters() if p.grad is not None]
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in moved]

    def step(_: int) -> None:
        nn.utils.clip_grad_norm_(moved, 1.0)
        for p, (m, v) in zip(moved, moments, strict=True):
            gradient = p.grad if p.grad is not None else m
            m.lerp_(gradient, 0.1)
            v.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            torch.addcdiv(p, m, v.sqrt().add_(1e-8), value=-1e-3)

    return measured(step, device, 1)
