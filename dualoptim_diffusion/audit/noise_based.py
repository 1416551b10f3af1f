"""Noise along the way: the forgotten label with more noise at every step of sampling. Nothing is trained."""

from typing import Any

import torch
from torch import Tensor

from dualoptim_diffusion.audit.attack import curve
from dualoptim_diffusion.audit.context import AuditContext, AuditedModel, Cost, Probe, Trial
from dualoptim_diffusion.diffusion.sampling import make_scheduler


class NoisierDDIM:
    """DDIM with eta 1, as random as DDPM, and `scale` times its noise."""

    def __init__(self, scheduler: Any, scale: float) -> None:
        self.scheduler, self.scale = scheduler, scale

    def __getattr__(self, name: str) -> Any:
        return getattr(self.scheduler, name)

    def step(self, noise_pred: Tensor, timestep: Tensor, x_t: Tensor, generator: list[torch.Generator]) -> Any:
        """One step; image i draws from generator i."""
        noise = torch.stack([torch.randn(x_t.shape[1:], generator=own) for own in generator]).to(x_t)
        return self.scheduler.step(noise_pred, timestep, x_t, eta=1.0, variance_noise=self.scale * noise)


def noisier(context: AuditContext, audited: AuditedModel) -> dict[str, Any]:
    """How often the forgotten labels draw the class under each scale of the noise."""
    model, predict = audited.model, context.predictor(audited.model)
    ddim = make_scheduler("ddim", model.learned_variance, model.betas)
    scales = context.budget.noise_scales
    return curve([(s, context.count_drawn(model, predict, NoisierDDIM(ddim, s))) for s in scales])


def trials(context: AuditContext) -> list[Trial]:
    cost = Cost(context.passes(len(context.budget.noise_scales) * len(context.forget_classes)))
    return [Trial("noisier sampling", noisier, ("images", "noise_scales"), "noise scale", cost=cost)]


PROBE = Probe(
    question="Does the label draw the class again when every step of sampling adds more noise?",
    source="Lu et al., When are concepts erased from diffusion models?, NeurIPS 2025 (noise-based probing)",
    trials=trials,
)
