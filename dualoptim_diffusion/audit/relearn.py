"""Relearning: fine-tuning on a few images of the class, or on other data alone, and the class as it comes back."""

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Adam

from dualoptim_diffusion.audit.attack import along, cost_along, restored, table_scale
from dualoptim_diffusion.audit.context import AuditContext, AuditedModel, Probe, Trial
from dualoptim_diffusion.data import ImageSet

AUXILIARY = "auxiliary"
CLIP_NORM = 1.0  # as in pretraining
SETTINGS = ("images", "seed", "relearn_steps", "relearn_lr", "embedding_lr", "batch_size")


def relearn(context: AuditContext, audited: AuditedModel, kind: int | str) -> dict[str, Any]:
    """Trains all weights on k images of the class under its own label, on the retained set, or on auxiliary images
    without a label; FA along the steps.

    Class tables learn at the rate of the embedding attack: a row is one class's alone, and a model whose row was merely
    replaced comes back by it long before the other weights have moved.
    """
    model, steps = audited.model, context.budget.relearn_steps
    batches = context.batches(model, _images(context, kind), f"relearn {kind}", steps[-1])
    unlabelled = kind == AUXILIARY and model.null_class is not None
    with restored(model.network):
        tables = model.class_tables
        others = [p for p in model.network.parameters() if not any(p is table for table in tables)]
        rate = context.budget.embedding_lr * table_scale(tables)
        groups: list[dict[str, Any]] = [{"params": others}, {"params": tables, "lr": rate}]
        optimizer = Adam(groups, context.budget.relearn_lr)

        def advance(step: int) -> None:
            model.network.train()
            batch = batches(step)
            labels = torch.full_like(batch.class_labels, model.null_class or 0) if unlabelled else batch.dropped_labels
            optimizer.zero_grad()
            losses = model.loss(batch.x_0, batch.timesteps, batch.noise, labels)
            context.accelerator.backward(losses.mean())
            nn.utils.clip_grad_norm_(model.network.parameters(), CLIP_NORM)
            optimizer.step()

        return along(context, model, steps, advance)


def _images(context: AuditContext, kind: int | str) -> ImageSet:
    """What a kind of relearning trains on."""
    if isinstance(kind, int):
        return context.some_of_the_class(kind)
    if kind == AUXILIARY:
        assert context.auxiliary is not None  # no such trial otherwise
        return context.auxiliary
    return context.retain_set


def trials(context: AuditContext) -> list[Trial]:
    cost = cost_along(context, context.budget.relearn_steps)
    found = []
    for kind in context.budget.relearn:
        name = "retained data" if kind == "retained" else f"{kind} image{'s' if kind != 1 else ''} of the class"
        found.append(Trial(name, partial(relearn, kind=kind), SETTINGS, "step", cost=cost))
    if context.auxiliary is not None:
        work, made_from = partial(relearn, kind=AUXILIARY), context.auxiliary.sha256
        found.append(Trial("auxiliary data", work, SETTINGS, "step", made_from, cost))
    return found


PROBE = Probe(
    question="Does the class come back when the model is fine-tuned, even on other data alone?",
    source="Suriyakumar et al., Unstable unlearning: the hidden risk of concept resurgence in diffusion models, 2024; "
    "auxiliary data: Yuan et al., Towards irreversible machine unlearning for diffusion models, 2025",
    trials=trials,
)
