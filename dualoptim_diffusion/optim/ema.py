"""Exponential moving average of a network's weights."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class EMA:
    """shadow <- decay shadow + (1 - decay) weights, once an outer step, from the weights at the start.

    Args:
        network: whose weights are averaged.
        decay: in [0, 1).
        warmup: from random weights, use min(decay, (1 + k) / (10 + k)) so that they are soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float, *, warmup: bool = False) -> None:
        self.decay, self.warmup = decay, warmup
        self.shadow = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Takes in the weights after outer step `step` (0, 1, ...)."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        weights = network.state_dict()
        torch._foreach_lerp_(list(self.shadow.values()), [weights[name] for name in self.shadow], 1 - decay)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights."""
        return dict(self.shadow)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, value in self.shadow.items():
            value.copy_(state[name])
