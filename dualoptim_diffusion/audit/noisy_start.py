"""Noisy start: real images of the class, noised part of the way and denoised; who still knows them completes them."""

from functools import partial
from typing import Any

import torch

from dualoptim_diffusion.audit.context import Probe, Scene, Subject, Trial, curve
from dualoptim_diffusion.data import ImageSet
from dualoptim_diffusion.diffusion.sampling import denoise, make_scheduler
from dualoptim_diffusion.models import DenoisingModel


def recovered(scene: Scene, subject: Subject, with_label: bool) -> dict[str, Any]:
    """How many images are still of the class after noise up to each timestep and DDIM back."""
    images = real_images(scene)
    return curve([(t, _count(scene, subject.model, images, t, with_label)) for t in scene.budget.timesteps])


def real_images(scene: Scene) -> ImageSet:
    """Of the class: held-out ones, or training images where none are held out."""
    held_out = scene.real(scene.held_out, forgotten=True)
    return held_out if len(held_out) else scene.real(scene.train, forgotten=True)


@torch.no_grad()
def _count(scene: Scene, model: DenoisingModel, images: ImageSet, t: int, with_label: bool) -> tuple[int, int]:
    model.network.eval()
    scheduler = make_scheduler("ddim", model.learned_variance)
    scheduler.set_timesteps(scene.settings.num_inference_steps)
    timesteps = scheduler.timesteps[scheduler.timesteps < t]
    timesteps = timesteps if len(timesteps) else scheduler.timesteps[-1:]
    hits = 0
    for first, x_0, labels in scene.parts(model, images):
        generators = [torch.Generator().manual_seed(first + i) for i in range(len(x_0))]
        noise = torch.stack([torch.randn(x_0.shape[1:], generator=g) for g in generators]).to(x_0)
        x_t = model.add_noise(x_0, noise, timesteps[:1].expand(len(x_0)).to(x_0.device))
        asked = (
            labels if with_label else torch.full_like(labels, model.null_class or 0)
        )  # no trial without a null class
        scale = scene.settings.guidance_scale
        drawn = denoise(model.predict, scheduler, x_t, asked.tolist(), timesteps, scale, generators)
        hits += scene.hits(model.decode(drawn))
    return hits, len(images)


def trials(scene: Scene) -> list[Trial]:
    found = [Trial("forgotten label", partial(recovered, with_label=True), "timestep")]
    if scene.original.null_class is not None:
        found.append(Trial("null label", partial(recovered, with_label=False), "timestep"))
    return found


PROBE = Probe(
    question="Does the model complete noisy images of the class?",
    source="Lu et al., When are concepts erased from diffusion models?, NeurIPS 2025; noising and back: Meng et al., "
    "SDEdit, ICLR 2022",
    trials=trials,
)
