"""Inversion: how well the model explains real images of the class: loss by timestep, and DDIM there and back."""

from typing import Any

import torch
from torch import Tensor

from dualoptim_diffusion.audit.context import AuditContext, AuditedModel, Cost, Probe, Trial
from dualoptim_diffusion.data import ImageSet
from dualoptim_diffusion.diffusion.randomness import generator
from dualoptim_diffusion.diffusion.sampling import denoise, make_scheduler


def groups(context: AuditContext) -> dict[str, ImageSet]:
    """Real images by what they are; empty groups are left out."""
    found = {
        f"{kind}, {origin}": context.real(images, kind == "forgotten")
        for kind in ("forgotten", "retained")
        for origin, images in (("training", context.train), ("held out", context.held_out))
    }
    return {name: images for name, images in found.items() if len(images)}


@torch.no_grad()
def losses(context: AuditContext, audited: AuditedModel) -> dict[str, Any]:
    """Mean denoising loss of each group with its own labels at each timestep, with standard errors."""
    model, timesteps = audited.model, context.budget.loss_timesteps
    model.network.eval()
    found: dict[str, Any] = {}
    for name, images in groups(context).items():
        each: list[list[Tensor]] = [[] for _ in timesteps]
        for first, x_0, labels in context.parts(model, images):
            for i, t in enumerate(timesteps):
                noise = torch.randn(x_0.shape, generator=generator(context.budget.seed, "losses", t, first)).to(x_0)
                each[i].append(model.loss(x_0, torch.full_like(labels, t), noise, labels).cpu())
        means = [_mean(torch.cat(parts)) for parts in each]
        found[name] = {"n": len(images)}
        found[name] |= {"loss": [m for m, _ in means], "standard_error": [error for _, error in means]}
    return {"timesteps": list(timesteps), "groups": found}


@torch.no_grad()
def reconstruction(context: AuditContext, audited: AuditedModel) -> dict[str, Any]:
    """Mean squared error of x_0 after DDIM up to noise and back under its own label, by group."""
    from diffusers import DDIMInverseScheduler

    model, steps = audited.model, context.settings.num_inference_steps
    model.network.eval()
    forward = make_scheduler("ddim", model.learned_variance, model.betas)
    inverse = DDIMInverseScheduler.from_config(forward.config)
    found: dict[str, Any] = {}
    for name, images in groups(context).items():
        errors: list[Tensor] = []
        for _, x_0, labels in context.parts(model, images):
            inverse.set_timesteps(steps)
            forward.set_timesteps(steps)
            x_t = x_0
            for t in inverse.timesteps:
                noise_pred = model.noise_pred(x_t, torch.full_like(labels, t.item()), labels)
                x_t = inverse.step(noise_pred, t, x_t).prev_sample
            back = denoise(model.predict, forward, x_t, labels.tolist(), forward.timesteps, 1.0, [])
            errors.append((back - x_0).square().flatten(1).mean(1).cpu())
        mean, error = _mean(torch.cat(errors))
        found[name] = {"n": len(images), "error": mean, "standard_error": error}
    return {"groups": found}


def _mean(values: Tensor) -> tuple[float | None, float | None]:
    """Mean of values [N] and its standard error; None where they are no numbers."""
    values = values.double()
    if not values.isfinite().all():
        return None, None
    return values.mean().item(), (values.std() / len(values) ** 0.5).item() if len(values) > 1 else 0.0


def trials(context: AuditContext) -> list[Trial]:
    n, timesteps = sum(map(len, groups(context).values())), context.budget.loss_timesteps
    settings, there_and_back = ("seed", "real_images"), 2 * n * context.passes_an_image(scale=1)
    return [
        Trial("losses", losses, (*settings, "loss_timesteps"), cost=Cost(n * len(timesteps))),
        Trial("reconstruction", reconstruction, settings, cost=Cost(there_and_back)),
    ]


PROBE = Probe(
    question="Does the model still explain real images of the class?",
    source="Rusanovsky et al., Memories of forgotten concepts, CVPR 2025; DDIM inversion: Song et al., ICLR 2021",
    trials=trials,
)
