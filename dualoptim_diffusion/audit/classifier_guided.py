"""Guidance by a classifier: its gradient leads the frozen network to the class, with the label or without one."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax

from dualoptim_diffusion.audit.context import AuditContext, AuditedModel, Passes, Probe, Trial, curve
from dualoptim_diffusion.core.classes import NULL_LABEL
from dualoptim_diffusion.core.schedules import one_cycle
from dualoptim_diffusion.diffusion.randomness import derive_seed
from dualoptim_diffusion.diffusion.sampling import GuidedPredictor, make_scheduler
from dualoptim_diffusion.files.cache import cache_entry, get_or_make_tensors
from dualoptim_diffusion.judge.timm_models import timm_model
from dualoptim_diffusion.models import DenoisingModel, model_sha256

SETTINGS = ("images", "seed", "guide_steps", "guide_scales", "batch_size")
GUIDE_LR = 2e-3  # at the top of one cycle
Slope = Callable[[Tensor, Tensor], Tensor]  # x_t and class labels -> gradient of log p(class | x_t) in x_t


def recovered(context: AuditContext, audited: AuditedModel, with_label: bool) -> dict[str, Any]:
    """How often the class is drawn under each scale of the classifier's gradient."""
    model = audited.model
    slope = slope_of(guide(context), answers(context))
    scheduler = make_scheduler("ddim", model.learned_variance, model.betas)
    points = []
    for scale in context.budget.guide_scales:
        predict = guided(model, slope, scale, None if with_label else model.null_class)
        points.append((scale, context.count_drawn(model, predict, scheduler)))
    return curve(points)


def guided(model: DenoisingModel, slope: Slope, scale: float, asked: int | None = None) -> GuidedPredictor:
    """The model's noise less scale x sqrt(1 - abar_t) x the slope (Dhariwal and Nichol, 2021, algorithm 2).

    Args:
        asked: the label that the network is given in place of the one to draw.
    """

    def predict(x_t: Tensor, timesteps: Tensor, class_labels: Tensor, guidance_scale: float) -> Tensor:
        labels = class_labels if asked is None else torch.full_like(class_labels, asked)
        predicted = model.predict(x_t, timesteps, labels, guidance_scale)
        pull = model.add_noise(torch.zeros_like(x_t), scale * slope(x_t, class_labels), timesteps)
        return torch.cat([predicted[:, : x_t.shape[1]] - pull, predicted[:, x_t.shape[1] :]], 1)

    return predict


def guide(context: AuditContext) -> nn.Module:
    """A network like the judge's, trained here on noisy images; kept, and equal for all models."""
    network, info = _network(context), context.classifier.info
    made_from = (
        info.name, info.image_size, context.forget_set.sha256, context.retain_set.sha256, context.forget_classes,
        context.horizontal_flip, context.budget.seed, context.budget.guide_steps, context.budget.batch_size,
    )  # fmt: skip
    entry = cache_entry("guides", repr(made_from), model_sha256(context.original)).with_suffix(".safetensors")
    network.load_state_dict(get_or_make_tensors(entry, lambda: _trained(context, _network(context))))
    return network.to(context.device).eval().requires_grad_(False)


def slope_of(network: nn.Module, answers: Tensor) -> Slope:
    """Gradient of the log probability that a classifier gives to `answers[label]` of each image's label."""

    @torch.enable_grad()
    def slope(x_t: Tensor, class_labels: Tensor) -> Tensor:
        x = x_t.detach().requires_grad_(True)
        told = log_softmax(network(x), 1).gather(1, answers[class_labels][:, None])
        return torch.autograd.grad(told.sum(), x)[0]

    return slope


def _network(context: AuditContext) -> nn.Module:
    """The judge's with fresh weights, for x_t; it tells the forgotten classes apart, and from all others."""
    torch.manual_seed(derive_seed(context.budget.seed, "guide"))
    info, kinds = context.classifier.info, len(context.forget_classes) + 1
    network = timm_model(info.name, num_classes=kinds, in_chans=context.original.x_0_shape[0])
    size = (info.image_size, info.image_size)
    return nn.Sequential(nn.Upsample(size, mode="bilinear"), network)


def answers(context: AuditContext) -> Tensor:
    """Of each label the guide's: forgotten classes in their order, then all others as one."""
    found = torch.full((max(context.labels) + 1,), len(context.forget_classes), device=context.device)
    for i, label in enumerate(context.forget_classes):
        found[label] = i
    return found


def _trained(context: AuditContext, network: nn.Module) -> dict[str, Tensor]:
    """The weights after training on x_t at the model's timesteps, half of each batch of forgotten classes."""
    model, steps = context.original, context.budget.guide_steps
    sides = [
        context.batches(model, images, f"guide, {side}", steps)
        for side, images in (("forget", context.forget_set), ("retain", context.retain_set))
    ]
    network.to(context.device).train()
    optimizer, truths = torch.optim.AdamW(network.parameters(), GUIDE_LR), answers(context)
    for step in range(steps):
        batches = [side(step) for side in sides]
        x_t = torch.cat([model.add_noise(batch.x_0, batch.noise, batch.timesteps) for batch in batches])
        truth = truths[torch.cat([batch.class_labels for batch in batches])]
        torch.manual_seed(derive_seed(context.budget.seed, "guide", step))  # of dropout
        for group in optimizer.param_groups:
            group["lr"] = GUIDE_LR * one_cycle(step, steps)
        optimizer.zero_grad()
        cross_entropy(network(x_t), truth).backward()
        optimizer.step()
    return {name: value.detach() for name, value in network.state_dict().items()}


def trials(context: AuditContext) -> list[Trial]:
    passes = Passes(context.passes(len(context.budget.guide_scales) * context.asked))
    asked = {"forgotten label": True} | ({NULL_LABEL: False} if context.original.null_class is not None else {})
    return [
        Trial(name, partial(recovered, with_label=with_label), SETTINGS, "classifier scale", passes=passes)
        for name, with_label in asked.items()
    ]


PROBE = Probe(
    question="Does the frozen network draw the class when a classifier of noisy images leads it there?",
    source="Lu et al., When are concepts erased from diffusion models?, NeurIPS 2025 (classifier guidance); Dhariwal "
    "and Nichol, Diffusion models beat GANs on image synthesis, NeurIPS 2021",
    trials=trials,
)
