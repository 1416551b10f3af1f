"""Memory and time of a run before it begins: counted, or measured on a few passes of this machine."""

import os
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from dualoptim_diffusion.core.config import DenoiserRunConfig
from dualoptim_diffusion.diffusion.randomness import derive_seed
from dualoptim_diffusion.models import DenoisingModel
from dualoptim_diffusion.optim.plan import FP32_BYTES

LARGEST_PROBE = 128  # images in a timed pass; small networks are timed on as many
PROBE_SECONDS = 0.2  # a pass that takes longer is not timed on more images


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
    """Bytes that a forward pass of this batch saves for the backward pass, from passes of one and of two images.

    The passes are the model's own; of a network on the meta device nothing is allocated.
    """
    one, two = _saved(model, 1), _saved(model, 2)
    return one + (batch_size - 1) * (two - one)


def _saved(model: DenoisingModel, count: int) -> int:
    """Bytes that a forward pass of so many images saves."""
    network = model.network.train()
    first = next(network.parameters())
    weights = {p.untyped_storage()._cdata for p in network.parameters()}
    saved: dict[int, int] = {}
    kept = []  # so that no two storages have one address

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            saved[storage._cdata] = storage.nbytes()
            kept.append(storage)
        return tensor

    x_0 = torch.zeros(count, *model.x_0_shape, device=first.device)
    labels = torch.zeros(count, dtype=torch.long, device=first.device)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model.loss(x_0, labels, torch.zeros_like(x_0), labels)
    return sum(saved.values())


def seconds_per_image(model: DenoisingModel, accelerator: Accelerator, run: DenoiserRunConfig) -> tuple[float, float]:
    """Seconds an image of a forward pass, and of forward and backward; measured on this machine, not compiled."""
    model.prepare(accelerator, run.precision, run.channels_last)
    device = accelerator.device
    torch.manual_seed(derive_seed(0, "probe"))

    def forward(count: int) -> torch.Tensor:
        x_0 = torch.randn(count, *model.x_0_shape, device=device)
        labels = torch.zeros(count, dtype=torch.long, device=device)
        return model.loss(x_0, labels, torch.randn_like(x_0), labels).mean()

    with torch.no_grad():
        alone = measured(forward, device)
    return alone, measured(lambda count: forward(count).backward(), device)


def measured(work: Callable[[int], Any], device: torch.device) -> float:
    """Seconds an image of `work` on so many images."""
    count = 2
    while True:
        for _ in range(2):  # the first one warms up
            start = perf_counter()
            work(count)
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds = perf_counter() - start
        if seconds > PROBE_SECONDS or count >= LARGEST_PROBE:
            return seconds / count
        count *= 4
