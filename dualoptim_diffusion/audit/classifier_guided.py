"""Guidance by a classifier: its gradient leads the frozen network to the class, with the label or without one."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dualoptim_diffusion.audit import guide as guiding
from dualoptim_diffusion.audit.attack import curve
from dualoptim_diffusion.audit.context import AuditContext, AuditedModel, Cost, Probe, Trial
from dualoptim_diffusion.audit.guide import GUIDE_LR, Slope, answers_of, fresh_guide, guide, slope_of
from dualoptim_diffusion.core.rates import rate
from dualoptim_diffusion.diffusion.randomness import generator
from dualoptim_diffusion.diffusion.sampling import GuidedPredictor, make_scheduler
from dualoptim_diffusion.models.costs import measured

SETTINGS = (*guiding.SETTINGS, "images", "guide_scales")
ASKED_AT = (100, 300, 500)  # timesteps of the noise under which the classifier is measured


def recovered(context: AuditContext, audited: AuditedModel, with_label: bool) -> dict[str, Any]:
    """How often the class is drawn under each scale of the classifier's gradient."""
    model = audited.model
    slope = slope_of(guide(context), answers_of(context))
    scheduler = make_scheduler("ddim", model.learned_variance, model.betas)
    asked = None if with_label else model.null_class
    points = []
    for scale in context.budget.guide_scales:
        predict = guided(context.predictor(model), model.add_noise, slope, scale, asked)
        points.append((scale, context.count_drawn(model, predict, scheduler)))
    return curve(points)


def guided(
    predict: GuidedPredictor, add_noise: Callable[..., Tensor], slope: Slope, scale: float, asked: int | None = None
) -> GuidedPredictor:
    """A model's noise less scale x sqrt(1 - abar_t) x the slope (Dhariwal and Nichol, 2021, algorithm 2).

    Args:
        predict, add_noise: of the model.
        asked: the label that the network is given in place of the one to draw.
    """

    def led(x_t: Tensor, timesteps: Tensor, class_labels: Tensor, guidance_scale: float) -> Tensor:
        labels = class_labels if asked is None else torch.full_like(class_labels, asked)
        predicted = predict(x_t, timesteps, labels, guidance_scale)
        pull = add_noise(torch.zeros_like(x_t), scale * slope(x_t, class_labels), timesteps)
        return torch.cat([predicted[:, : x_t.shape[1]] - pull, predicted[:, x_t.shape[1] :]], 1)

    return led


@torch.no_grad()
def told_apart(context: AuditContext, audited: AuditedModel) -> dict[str, Any]:
    """How well the classifier tells noisy held-out images (training images where none are held out); where it
    does not, finding no excess says nothing.

    Returns:
        `timesteps`; `found` and `false_alarms` at each: rates of images of forgotten classes called their own class,
        and of other images called a forgotten one.
    """
    model, network, answers = context.original, guide(context), answers_of(context)
    images = context.unseen(forgotten=True), context.unseen(forgotten=False)
    found: dict[str, list[Any]] = {"found": [], "false_alarms": []}
    for t in ASKED_AT:
        for name, part in zip(found, images, strict=True):
            hits = 0
            for first, x_0, labels in context.parts(model, part):
                noise = torch.randn(x_0.shape, generator=generator(context.budget.seed, name, t, first)).to(x_0)
                called = network(model.add_noise(x_0, noise, torch.full_like(labels, t))).argmax(1)
                right = called == answers[labels]
                hits += int(right.sum() if name == "found" else (~right).sum())
            found[name].append(rate(hits, len(part)))
    return {"timesteps": list(ASKED_AT), **found}


def _seconds(context: AuditContext) -> float:
    """Of the classifier in one attack, from one batch."""
    slope = slope_of(fresh_guide(context).to(context.device).eval().requires_grad_(False), answers_of(context))

    def lead(count: int) -> None:
        labels = torch.full((count,), context.forget_classes[0], device=context.device)
        slope(guiding.example(context, count), labels)

    drawn = context.passes(len(context.budget.guide_scales) * len(context.forget_classes), scale=1)
    return measured(lead, context.device, context.drawn_at_once) * drawn


def trials(context: AuditContext) -> list[Trial]:
    passes = context.passes(len(context.budget.guide_scales) * len(context.forget_classes))
    cost = Cost(passes, other=_seconds, once=guiding.seconds_of_training, bytes=guiding.bytes_needed)
    made_from = repr(GUIDE_LR)
    attacks = [
        Trial(name, partial(recovered, with_label=with_label), SETTINGS, "classifier scale", made_from, cost)
        for name, with_label in context.asked.items()
    ]
    return [*attacks, Trial("classifier", told_apart, (*guiding.SETTINGS, "real_images"), made_from=made_from)]


PROBE = Probe(
    question="Does the frozen network draw the class when a classifier of noisy images leads it there?",
    source="Lu et al., When are concepts erased from diffusion models?, NeurIPS 2025 (classifier guidance); Dhariwal "
    "and Nichol, Diffusion models beat GANs on image synthesis, NeurIPS 2021",
    trials=trials,
)
