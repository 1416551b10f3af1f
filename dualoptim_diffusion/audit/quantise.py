"""Rounding: the weights in fewer bits. What forgetting changed by less than a step of the grid is undone."""

from typing import Any

import torch
from torch import Tensor, nn

from dualoptim_diffusion.audit.attack import curve, restored
from dualoptim_diffusion.audit.context import AuditContext, AuditedModel, Cost, Probe, Trial


def rounded(weight: Tensor, bits: int) -> Tensor:
    """The nearest of 2^bits - 1 evenly spaced values, symmetric about 0, for each output channel of weight [O, ...]."""
    largest = weight.flatten(1).abs().amax(1).reshape(-1, *[1] * (weight.dim() - 1))
    step = largest / (2 ** (bits - 1) - 1)
    return torch.where(step > 0, (weight / step).round() * step, weight)


@torch.no_grad()
def round_weights(network: nn.Module, bits: int) -> None:
    """Rounds all weights in place but vectors (biases and norms), as is usual after training."""
    for parameter in network.parameters():
        if parameter.dim() > 1:
            parameter.copy_(rounded(parameter, bits))


def quantised(context: AuditContext, audited: AuditedModel) -> dict[str, Any]:
    """How often the forgotten labels draw the class with weights of so many bits."""
    points = []
    for bits in context.budget.weight_bits:
        with restored(audited.model.network):
            round_weights(audited.model.network, bits)
            points.append((bits, context.count(audited.model, context.forget_classes)))
    return curve(points)


def trials(context: AuditContext) -> list[Trial]:
    cost = Cost(context.passes(len(context.budget.weight_bits) * len(context.forget_classes)))
    return [Trial("rounded weights", quantised, ("images", "weight_bits"), "bits", cost=cost)]


PROBE = Probe(
    question="Does the class come back when the weights are rounded to a few bits?",
    source="Zhang et al., Catastrophic failure of LLM unlearning via quantization, ICLR 2025",
    trials=trials,
)
