"""Memory of a training pass, counted before it is made."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


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
