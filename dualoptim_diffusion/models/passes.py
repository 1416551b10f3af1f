"""Networks that pass a batch in another way: as a CUDA graph takes it, or in micro-batches."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class FirstOutput(nn.Module):
    """A network that returns the first of its outputs alone, and takes tensors alone: what a CUDA graph can replay."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_t: Tensor, timesteps: Tensor, class_labels: Tensor) -> Tensor:
        first: Tensor = self.network(x_t, timesteps, class_labels, return_dict=False)[0]
        return first


class MicroBatched(nn.Module):
    """Passes a batch through a network in parts of `size` images; equal to one pass but for rounding.

    Activations are saved for one part at a time: the backward pass recomputes each part. So any
    loss of the whole batch has its exact gradient, also those that weigh samples by one another (SFRon's).
    """

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self.network, self.size = network, size

    def forward(self, x_t: Tensor, timesteps: Tensor, class_labels: Tensor, **options: Any) -> tuple[Tensor]:
        if len(x_t) <= self.size or not torch.is_grad_enabled():
            whole: tuple[Tensor] = self.network(x_t, timesteps, class_labels, **options)
            return whole
        parts = zip(*(part.split(self.size) for part in (x_t, timesteps, class_labels)), strict=True)
        return (torch.cat([checkpoint(self.network, *part, use_reentrant=False, **options)[0] for part in parts]),)
