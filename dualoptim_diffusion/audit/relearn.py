"""Relearning: fine-tuning on a few images of the class, or on retained data alone, and the class as it comes back."""

from functools import partial
from typing import Any

from torch import nn
from torch.optim import Adam

from dualoptim_diffusion.audit.context import AuditContext, AuditedModel, Probe, Trial, along, restored, table_scale
from dualoptim_diffusion.data import ImageSet

CLIP_NORM = 1.0  # as in pretraining
SETTINGS = ("images", "seed", "relearn_steps", "relearn_lr", "embedding_lr", "batch_size")


def relearn(context: AuditContext, audited: AuditedModel, kind: int | str) -> dict[str, Any]:
    """Trains all weights on k images of the class under its own label, or on the retained set; FA along the steps.

    Class tables learn at the rate of the embedding attack: a row is one class's alone, and a model whose row was merely
    replaced comes back by it long before the other weights have moved.
    """
    model, steps = audited.model, context.budget.relearn_steps
    images: ImageSet = context.some_of_the_class(kind) if isinstance(kind, int) else context.retain_set
    batches = context.batches(model, images, f"relearn {kind}", steps[-1])
    with restored(model.network):
        tables = model.class_tables
        others = [p for p in model.network.parameters() if not any(p is table for table in tables)]
        rate = context.budget.embedding_lr * table_scale(tables)
        groups: list[dict[str, Any]] = [{"params": others}, {"params": tables, "lr": rate}]
        optimizer = Adam(groups, context.budget.relearn_lr)

        def advance(step: int) -> None:
            model.network.train()
            batch = batches(step)
            optimizer.zero_grad()
            losses = model.loss(batch.x_0, batch.timesteps, batch.noise, batch.dropped_labels)
            context.accelerator.backward(losses.mean())
            nn.utils.clip_grad_norm_(model.network.parameters(), CLIP_NORM)
            optimizer.step()

        return along(context, model, steps, advance)


def trials(context: AuditContext) -> list[Trial]:
    found = []
    for kind in context.budget.relearn:
        name = "retained data" if kind == "retained" else f"{kind} image{'s' if kind != 1 else ''} of the class"
        found.append(Trial(name, partial(relearn, kind=kind), SETTINGS, "step"))
    return found


PROBE = Probe(
    question="Does the class come back when the model is fine-tuned, even on retained data alone?",
    source="Suriyakumar et al., Unstable unlearning: the hidden risk of concept resurgence in diffusion models, 2024",
    trials=trials,
)
