"""Memory and time of passes through a network, counted or measured on a few of them before the others are made."""

from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from torch import nn

LARGEST_PROBE = 128  # images in a timed pass; small networks are timed on as many
PROBE_SECONDS = 0.2  # a pass that takes longer is not timed on more images


def bytes_saved(network: nn.Module, forward: Callable[[int], Any], batch_size: int) -> int:
    """Bytes that a forward pass of this batch saves for the backward pass, from passes of one and of two images.

    The passes are the network's own; of one on the meta device nothing is allocated.

    Args:
        forward: makes a pass of so many images.
    """
    one, two = (_saved(network, forward, count) for count in (1, 2))
    return one + (batch_size - 1) * (two - one)


def _saved(network: nn.Module, forward: Callable[[int], Any], count: int) -> int:
    weights = {p.untyped_storage()._cdata for p in network.parameters()}
    saved: dict[int, int] = {}
    kept = []  # so that no two storages have one address

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            saved[storage._cdata] = storage.nbytes()
            kept.append(storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        forward(count)
    return sum(saved.values())


def measured(work: Callable[[int], Any], device: torch.device, batch_size: int | None = None) -> float:
    """Seconds an image of `work` on a batch, or on fewer images where these take long."""
    largest = min(batch_size or LARGEST_PROBE, LARGEST_PROBE)
    count = min(2, largest)
    while True:
        for _ in range(2):  # the first one warms up
            start = perf_counter()
            work(count)
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds = perf_counter() - start
        if seconds > PROBE_SECONDS or count >= largest:
            return seconds / count
        count = min(4 * count, largest)
