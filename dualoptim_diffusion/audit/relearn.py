"""Relearning: fine-tuning on a few images of the class, or on retained data alone, and the class as it comes back."""

from functools import partial
from typing import Any

from torch import nn
from torch.optim import Adam

from dualoptim_diffusion.audit.context import Probe, Scene, Subject, Trial, along, restored, table_scale
from dualoptim_diffusion.data import ImageSet

CLIP_NORM = 1.0  # as in pretraining


def relearn(scene: Scene, subject: Subject, kind: int | str) -> dict[str, Any]:
    """Trains all weights on k images of the class under its own label, or on the retained set; FA along the steps.

    Class tables learn at the rate of the embedding attack: a row is one class's alone, and a model whose row was merely
    replaced comes back by it long before the other weights have moved.
    """
    model, steps = subject.model, scene.budget.relearn_steps
    images: ImageSet = scene.some_of_the_class(kind) if isinstance(kind, int) else scene.retain_set
    batches = scene.batches(model, images, f"relearn {kind}", steps[-1])
    with restored(model.network):
        tables = model.class_tables
        others = [p for p in model.network.parameters() if not any(p is table for table in tables)]
        rate = scene.budget.embedding_lr * table_scale(tables)
        groups: list[dict[str, Any]] = [{"params": others}, {"params": tables, "lr": rate}]
        optimizer = Adam(groups, scene.budget.relearn_lr)

        def advance(step: int) -> None:
            model.network.train()
            batch = batches(step)
            optimizer.zero_grad()
            scene.accelerator.backward(model.loss(batch.x_0, batch.timesteps, batch.noise, batch.dropped_labels).mean())
            nn.utils.clip_grad_norm_(model.network.parameters(), CLIP_NORM)
            optimizer.step()

        return along(scene, model, steps, advance)


def trials(scene: Scene) -> list[Trial]:
    found = []
    for kind in scene.budget.relearn:
        name = "retained data" if kind == "retained" else f"{kind} image{'s' if kind != 1 else ''} of the class"
        found.append(Trial(name, partial(relearn, kind=kind), "step"))
    return found


PROBE = Probe(
    question="Does the class come back when the model is fine-tuned, even on retained data alone?",
    source="Suriyakumar et al., Unstable unlearning: the hidden risk of concept resurgence in diffusion models, 2024",
    trials=trials,
)
