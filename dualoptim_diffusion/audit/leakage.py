"""Leakage: the class under other labels, without a label, under guidance and by other samplers. Nothing is trained."""

from typing import Any

from dualoptim_diffusion.audit.context import AuditContext, AuditedModel, Probe, Trial, curve
from dualoptim_diffusion.core.classes import NULL_LABEL

SAMPLERS = ("ddim", "ddpm", "dpmsolver++")


def other_labels(context: AuditContext, audited: AuditedModel) -> dict[str, Any]:
    """Each retained label and the null label: how often they draw the class."""
    labels = {context.labels[label]: label for label in context.other_labels}
    if audited.model.null_class is not None:
        labels[NULL_LABEL] = audited.model.null_class
    return curve([(name, context.count(audited.model, [label])) for name, label in labels.items()])


def guidance(context: AuditContext, audited: AuditedModel) -> dict[str, Any]:
    """The forgotten label under guidance; at 0 it is the null label, at 1 the conditional model."""
    scales = context.budget.guidance_scales if audited.model.null_class is not None else (1.0,)
    draw = [(s, context.count(audited.model, context.forget_classes, guidance_scale=s)) for s in scales]
    return curve(draw)


def samplers(context: AuditContext, audited: AuditedModel) -> dict[str, Any]:
    """The forgotten label by each sampler."""
    steps = {"ddpm": context.budget.ddpm_steps}
    points = []
    for name in SAMPLERS:
        settings = {"scheduler": name, "num_inference_steps": steps.get(name, context.settings.num_inference_steps)}
        points.append((name, context.count(audited.model, context.forget_classes, **settings)))
    return curve(points)


def trials(context: AuditContext) -> list[Trial]:
    return [
        Trial("other labels", other_labels, ("images", "labels"), "label"),
        Trial("guidance", guidance, ("images", "guidance_scales"), "guidance scale"),
        Trial("samplers", samplers, ("images", "ddpm_steps"), "sampler"),
    ]


PROBE = Probe(
    question="Do other labels, no label, stronger guidance or another sampler still draw the class?",
    source="Ho and Salimans, Classifier-free diffusion guidance, 2022 (the null label); "
    "Lu et al., When are concepts erased from diffusion models?, NeurIPS 2025",
    trials=trials,
)
