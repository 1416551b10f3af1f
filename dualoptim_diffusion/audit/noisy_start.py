"""Noisy start: real images of the class, noised part of the way and denoised; who still knows them completes them."""

from functools import partial
from typing import Any

import torch

from dualoptim_diffusion.audit.attack import curve
from dualoptim_diffusion.audit.context import AuditContext, AuditedModel, Cost, Probe, Trial
from dualoptim_diffusion.data import ImageSet
from dualoptim_diffusion.diffusion.sampling import denoise, make_scheduler
from dualoptim_diffusion.models import DenoisingModel

SETTINGS = ("seed", "timesteps", "real_images")


def recovered(context: AuditContext, audited: AuditedModel, with_label: bool) -> dict[str, Any]:
    """How many images are still of the class after noise up to each timestep and DDIM back."""
    images = context.unseen(forgotten=True)
    return curve([(t, _count(context, audited.model, images, t, with_label)) for t in context.budget.timesteps])


@torch.no_grad()
def _count(context: AuditContext, model: DenoisingModel, images: ImageSet, t: int, with_label: bool) -> tuple[int, int]:
    model.network.eval()
    predict = context.predictor(model)
    scheduler = make_scheduler("ddim", model.learned_variance, model.betas)
    scheduler.set_timesteps(context.settings.num_inference_steps)
    timesteps = scheduler.timesteps[scheduler.timesteps < t]
    timesteps = timesteps if len(timesteps) else scheduler.timesteps[-1:]
    hits = 0
    for first, x_0, labels in context.parts(model, images):
        generators = [torch.Generator().manual_seed(first + i) for i in range(len(x_0))]
        noise = torch.stack([torch.randn(x_0.shape[1:], generator=g) for g in generators]).to(x_0)
        x_t = model.add_noise(x_0, noise, timesteps[:1].expand(len(x_0)).to(x_0.device))
        asked = (
            labels if with_label else torch.full_like(labels, model.null_class or 0)
        )  # no trial without a null class
        scale = context.settings.guidance_scale
        drawn = denoise(predict, scheduler, x_t, asked.tolist(), timesteps, scale, generators)
        hits += context.hits(model.decode(drawn))
    return hits, len(images)


def trials(context: AuditContext) -> list[Trial]:
    n, steps = len(context.unseen(forgotten=True)), context.settings.num_inference_steps
    cost = Cost(sum(n * context.passes_an_image(max(1, steps * t // 1000)) for t in context.budget.timesteps))
    return [
        Trial(name, partial(recovered, with_label=with_label), SETTINGS, "timestep", cost=cost)
        for name, with_label in context.asked.items()
    ]


PROBE = Probe(
    question="Does the model complete noisy images of the class?",
    source="Lu et al., When are concepts erased from diffusion models?, NeurIPS 2025; noising and back: Meng et al., "
    "SDEdit, ICLR 2022",
    trials=trials,
)
