"""What attacks share: curves of how often the class is drawn, training that leaves no trace, the unit of steps."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from dualoptim_diffusion.audit.context import AuditContext, Cost
from dualoptim_diffusion.models import DenoisingModel


def curve(points: Sequence[tuple[Any, tuple[int, int]]]) -> dict[str, Any]:
    """(where, (hits, n)) of an attack, as plain data."""
    return {
        "at": [where for where, _ in points],
        "hits": [hits for _, (hits, _) in points],
        "n": [n for _, (_, n) in points],
    }


def along(
    context: AuditContext, model: DenoisingModel, steps: Sequence[int], advance: Callable[[int], None]
) -> dict[str, Any]:
    """FA after so many steps of an attack, the first 0; `advance` makes the one of that number."""
    points = []
    for step in range(steps[-1] + 1):
        if step in steps:
            points.append((step, context.count(model, context.forget_classes)))
        if step < steps[-1]:
            advance(step)
    return curve(points)


def cost_along(context: AuditContext, steps: Sequence[int], first_is_drawn: bool = True) -> Cost:
    """What `along` takes; the first point is mostly that of the model as it is, which is drawn once for all."""
    points = len(steps) - first_is_drawn
    return Cost(context.passes(points * len(context.forget_classes)), steps[-1] * context.budget.batch_size)


@contextmanager
def restored(network: nn.Module) -> Iterator[None]:
    """Whatever the block trains, the network ends as it began, bit for bit."""
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    training, trainable = network.training, [p.requires_grad for p in network.parameters()]
    try:
        yield
    finally:
        network.load_state_dict(weights)
        network.zero_grad(set_to_none=True)
        network.train(training)
        for parameter, flag in zip(network.parameters(), trainable, strict=True):
            parameter.requires_grad_(flag)


def table_scale(tables: Sequence[nn.Parameter]) -> float:
    """Root mean square of the class tables: the unit of steps on them."""
    return torch.stack([table.detach().square().mean() for table in tables]).mean().sqrt().item()
