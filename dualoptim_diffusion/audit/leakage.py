"""Leakage: the class under other labels, without a label, under guidance and by other samplers. Nothing is trained."""

from typing import Any

from dualoptim_diffusion.audit.context import Probe, Scene, Subject, Trial, curve

SAMPLERS = ("ddim", "ddpm", "dpmsolver++")


def other_labels(scene: Scene, subject: Subject) -> dict[str, Any]:
    """Each retained label and the null label: how often they draw the class."""
    labels = {scene.labels[label]: label for label in scene.other_labels}
    if subject.model.null_class is not None:
        labels["null label"] = subject.model.null_class
    return curve([(name, scene.count(subject.model, [label])) for name, label in labels.items()])


def guidance(scene: Scene, subject: Subject) -> dict[str, Any]:
    """The forgotten label under guidance; at 0 it is the null label, at 1 the conditional model."""
    scales = scene.budget.guidance_scales if subject.model.null_class is not None else (1.0,)
    draw = [(s, scene.count(subject.model, scene.forget_classes, guidance_scale=s)) for s in scales]
    return curve(draw)


def samplers(scene: Scene, subject: Subject) -> dict[str, Any]:
    """The forgotten label by each sampler."""
    steps = {"ddpm": scene.budget.ddpm_steps}
    points = []
    for name in SAMPLERS:
        settings = {"scheduler": name, "num_inference_steps": steps.get(name, scene.settings.num_inference_steps)}
        points.append((name, scene.count(subject.model, scene.forget_classes, **settings)))
    return curve(points)


def trials(scene: Scene) -> list[Trial]:
    return [
        Trial("other labels", other_labels, "label"),
        Trial("guidance", guidance, "guidance scale"),
        Trial("samplers", samplers, "sampler"),
    ]


PROBE = Probe(
    question="Do other labels, no label, stronger guidance or another sampler still draw the class?",
    source="Ho and Salimans, Classifier-free diffusion guidance, 2022 (the null label); "
    "Lu et al., When are concepts erased from diffusion models?, NeurIPS 2025",
    trials=trials,
)
