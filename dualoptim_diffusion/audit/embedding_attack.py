"""The embedding attack: the network stays frozen, and an embedding that still draws the class is searched for."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from dualoptim_diffusion.audit.attack import along, cost_along, restored, table_scale
from dualoptim_diffusion.audit.context import AuditContext, AuditedModel, Probe, Trial

SETTINGS = ("images", "seed", "embedding_images", "embedding_steps", "embedding_lr", "batch_size")


def attack(context: AuditContext, audited: AuditedModel, mixture: bool) -> dict[str, Any]:
    """Optimises the forgotten labels' rows of the class tables on a few images of the class; FA along the steps.

    Args:
        mixture: only convex mixtures of the retained labels' rows are searched, in place of any row.
    """
    model, steps = audited.model, context.budget.embedding_steps
    forgotten, tables = list(context.forget_classes), model.class_tables
    retained = [label for label in context.labels if label not in forgotten]
    images = context.some_of_the_class(context.budget.embedding_images)
    batches = context.batches(model, images, "embedding", steps[-1])
    with restored(model.network):
        model.network.eval().requires_grad_(False)
        for table in tables:
            table.requires_grad_(True)
        variables: list[nn.Parameter]
        if mixture:
            variables = [nn.Parameter(torch.zeros(len(forgotten), len(retained), device=context.device))]
        else:
            variables = [nn.Parameter(t.detach()[forgotten].clone()) for t in tables]
        optimizer = Adam(variables, context.budget.embedding_lr * (1.0 if mixture else table_scale(tables)))

        def place() -> list[Tensor]:
            """Puts what is searched for into the tables; the rows that it stands for."""
            rows: list[Tensor] = _mixed(variables[0], tables, retained) if mixture else [*variables]
            with torch.no_grad():
                for table, row in zip(tables, rows, strict=True):
                    table[forgotten] = row
            return rows

        def advance(step: int) -> None:
            rows, batch = place(), batches(step)
            model.network.eval()  # without dropout
            model.network.zero_grad()
            optimizer.zero_grad()
            losses = model.loss(batch.x_0, batch.timesteps, batch.noise, batch.class_labels)
            context.accelerator.backward(losses.mean())
            torch.autograd.backward(
                rows, [_gradient(table)[forgotten] for table in tables]
            )  # on to what rows are made of
            optimizer.step()
            place()

        place()
        return along(context, model, steps, advance)


def _mixed(logits: Tensor, tables: list[nn.Parameter], retained: list[int]) -> list[Tensor]:
    weights = logits.softmax(1)  # [forgotten, retained]
    return [weights @ table.detach()[retained] for table in tables]


def _gradient(table: nn.Parameter) -> Tensor:
    assert table.grad is not None  # the loss has just been taken back through it
    return table.grad


def trials(context: AuditContext) -> list[Trial]:
    k, steps = context.budget.embedding_images, context.budget.embedding_steps
    return [
        Trial(
            f"{what}, {k} images", partial(attack, mixture=mixture), SETTINGS, "step",
            cost=cost_along(context, steps, first_is_drawn=not mixture),
        )
        for what, mixture in (("any embedding", False), ("mixture of labels", True))
    ]  # fmt: skip


PROBE = Probe(
    question="Is there an embedding for which the frozen network still draws the class?",
    source="Pham et al., Circumventing concept erasure methods for text-to-image generative models, ICLR 2024; "
    "mixtures: Petsiuk and Saenko, Concept arithmetics for circumventing concept inhibition, ECCV 2024",
    trials=trials,
)
