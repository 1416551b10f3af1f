"""Leakage: the class under other labels, without a label, under guidance and by other samplers. Nothing is trained."""

from typing import Any

from dualoptim_diffusion.audit.attack import curve
from dualoptim_diffusion.audit.context import AuditContext, AuditedModel, Cost, Probe, Trial
from dualoptim_diffusion.core.classes import NULL_LABEL

SAMPLERS = ("ddim", "ddpm", "dpmsolver++")


def other_labels(context: AuditContext, audited: AuditedModel) -> dict[str, Any]:
    """Each retained label and the null label: how often they draw the class."""
    labels = {context.labels[label]: label for label in context.other_labels}
    if audited.model.null_class is not None:
        labels[NULL_LABEL] = audited.model.null_class
    return curve([(name, context.count(audited.model, [label])) for name, label in labels.items()])


def guidance(context: AuditContext, audited: AuditedModel) -> dict[str, Any]:
    """The forgotten label under guidance; at 0 it is the null label whatever the label, at 1 the conditional model."""
    points = []
    for scale in _scales(context):
        if scale == 0:
            points.append((scale, context.count(audited.model, [_null(context)])))
        else:
            points.append((scale, context.count(audited.model, context.forget_classes, guidance_scale=scale)))
    return curve(points)


def samplers(context: AuditContext, audited: AuditedModel) -> dict[str, Any]:
    """The forgotten label by each sampler."""
    return curve(
        [
            (name, context.count(audited.model, context.forget_classes, **settings))
            for name, settings in _samplers(context).items()
        ]
    )


def _scales(context: AuditContext) -> tuple[float, ...]:
    return context.budget.guidance_scales if context.original.null_class is not None else (1.0,)


def _null(context: AuditContext) -> int:
    assert context.original.null_class is not None  # no scale but 1 is tried without
    return context.original.null_class


def _samplers(context: AuditContext) -> dict[str, dict[str, Any]]:
    """Settings of each sampler."""
    steps = {"ddpm": context.budget.ddpm_steps}
    usual = context.settings.num_inference_steps
    return {name: {"scheduler": name, "num_inference_steps": steps.get(name, usual)} for name in SAMPLERS}


def _passes(context: AuditContext, **changed: Any) -> int:
    """To draw the forgotten labels with these settings; none with the run's own, which are drawn before."""
    settings = context.settings.model_copy(update=changed)
    if settings == context.settings:
        return 0
    if settings.guidance_scale == 0:  # "other labels" has drawn it
        return 0
    return context.passes(len(context.forget_classes), settings.num_inference_steps, settings.guidance_scale)


def trials(context: AuditContext) -> list[Trial]:
    labels = len(context.other_labels) + (context.original.null_class is not None)
    under_labels = Cost(context.passes(labels))
    under_scales = Cost(sum(_passes(context, guidance_scale=scale) for scale in _scales(context)))
    by_samplers = Cost(sum(_passes(context, **settings) for settings in _samplers(context).values()))
    return [
        Trial("other labels", other_labels, ("images", "labels"), "label", cost=under_labels),
        Trial("guidance", guidance, ("images", "guidance_scales"), "guidance scale", cost=under_scales),
        Trial("samplers", samplers, ("images", "ddpm_steps"), "sampler", cost=by_samplers),
    ]


PROBE = Probe(
    question="Do other labels, no label, stronger guidance or another sampler still draw the class?",
    source="Ho and Salimans, Classifier-free diffusion guidance, 2022 (the null label); "
    "Lu et al., When are concepts erased from diffusion models?, NeurIPS 2025",
    trials=trials,
)
