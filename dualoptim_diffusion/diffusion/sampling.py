"""Seeds -> images: one generator an image, fixed padded chunks, any of diffusers' schedulers."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from inspect import signature
from typing import Any, Literal

import torch
from torch import Tensor

from dualoptim_diffusion.core.errors import InputError, reason
from dualoptim_diffusion.diffusion.process import BETA_END, BETA_START, NUM_TRAIN_TIMESTEPS

SchedulerName = Literal["ddpm", "ddim", "dpmsolver++"]
GuidedPredictor = Callable[[Tensor, Tensor, Tensor, float], Tensor]  # x_t, timesteps, class_labels, guidance_scale
Generators = list[torch.Generator] | torch.Generator  # one an image, or one for all
AfterStep = Callable[[int, Tensor, Tensor], Tensor]  # index, timestep, x_t -> the x_t to go on from

LEARNED = ("learned", "learned_range")  # variance types that read the model's variance
STEPPED = ["model_output", "timestep", "sample"]  # all that a scheduler's step may need


def make_scheduler(
    name: SchedulerName, learned_variance: bool = False, betas: Tensor | None = None, prediction_type: str = "epsilon"
) -> Any:
    """A diffusers scheduler, with every setting that changes images named.

    Args:
        betas: of each training timestep [T]; None = the linear 1000-step schedule.
        prediction_type: what it is given, as diffusers calls it.
        learned_variance: the model predicts it beside the noise; DDPM then uses it (Nichol and Dhariwal, 2021, eq. 15),
            the others have no use for it.
    """
    import diffusers

    process: dict[str, Any] = {
        "num_train_timesteps": NUM_TRAIN_TIMESTEPS,
        "beta_schedule": "linear",
        "beta_start": BETA_START,
        "beta_end": BETA_END,
        "prediction_type": prediction_type,
        "timestep_spacing": "trailing",  # starts at t = 999; "leading" with 50 steps would start at 980
    }
    if betas is not None:
        process |= {"num_train_timesteps": len(betas), "trained_betas": betas.tolist()}
    if name == "ddpm" and learned_variance:  # from 999 to 0, as published figures of DiT were drawn
        process["timestep_spacing"] = "linspace"
        return diffusers.DDPMScheduler(**process, variance_type="learned_range", clip_sample=False)
    if name == "ddpm":
        return diffusers.DDPMScheduler(**process, variance_type="fixed_small", clip_sample=False)
    if name == "ddim":
        return diffusers.DDIMScheduler(**process, clip_sample=False, set_alpha_to_one=True)
    return diffusers.DPMSolverMultistepScheduler(**process, algorithm_type="dpmsolver++", solver_order=2)


@torch.no_grad()
def draw(
    predict: GuidedPredictor,
    scheduler: Any,
    shape: tuple[int, ...],
    class_labels: Sequence[int],
    seeds: Sequence[int],
    num_inference_steps: int,
    guidance_scale: float,
    device: torch.device | str = "cpu",
) -> Tensor:
    """x_0 [B, *shape], image i from `seeds[i]` and `class_labels[i]` alone: its first and every later noise.

    `predict` returns the noise [B, *shape], with a learned variance twice the channels.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]  # on the CPU: equal on every device
    scheduler.set_timesteps(num_inference_steps)
    noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
    x_t = noise.to(device) * scheduler.init_noise_sigma
    return denoise(predict, scheduler, x_t, class_labels, scheduler.timesteps, guidance_scale, generators)


@torch.no_grad()
def denoise(
    predict: GuidedPredictor,
    scheduler: Any,
    x_t: Tensor,
    class_labels: Sequence[int],
    timesteps: Iterable[Tensor],
    guidance_scale: float,
    generators: Generators,
    after_step: AfterStep | None = None,
) -> Tensor:
    """x_0 [B, C, H, W] of x_t at the first of `timesteps`, which are the scheduler's own or its last ones.

    They are on the CPU, where schedulers look them up and compare them: on a GPU every step would wait for that, as it
    does for the noise that DDPM adds, which comes from the CPU's generators.

    Raises:
        InputError: if the scheduler reads a variance that the model does not predict.
    """
    uses_variance = _reads_variance(scheduler)
    noises = {"generator": generators} if "generator" in signature(scheduler.step).parameters else {}
    labels = torch.tensor(class_labels, device=x_t.device)
    for index, timestep in enumerate(timesteps):
        everywhere = torch.full((len(labels),), timestep.item(), dtype=timestep.dtype, device=x_t.device)
        noise_pred = predict(scheduler.scale_model_input(x_t, timestep), everywhere, labels, guidance_scale)
        if not uses_variance:
            noise_pred = noise_pred[:, : x_t.shape[1]]
        elif noise_pred.shape[1] == x_t.shape[1]:
            raise InputError(
                f"The {type(scheduler).__name__} has variance_type {scheduler.variance_type!r}, but the model predicts "
                "no variance; make it with variance_type='fixed_small'."
            )
        step = scheduler.step(noise_pred, timestep, x_t, **noises)
        last = uses_variance and timestep == scheduler.timesteps[-1]  # diffusers would add noise even to the result
        x_t = step.pred_original_sample if last else step.prev_sample
        if after_step is not None:
            x_t = after_step(index, timestep, x_t)
    return x_t


def _reads_variance(scheduler: Any) -> bool:
    """Whether its steps read the model's variance: DDPM's may; others keep the setting, and have no use for it."""
    return vars(scheduler).get("variance_type") in LEARNED


def set_timesteps(scheduler: Any, num_inference_steps: int, channels: int) -> None:
    """Prepares any of diffusers' schedulers for samples of so many channels.

    Raises:
        InputError: if it cannot draw from a model of noise under a table of betas, or not in so many steps.
    """
    name = type(scheduler).__name__
    needed = [key for key, value in signature(scheduler.step).parameters.items() if value.default is value.empty]
    if needed != STEPPED or not hasattr(scheduler, "alphas_cumprod"):
        raise InputError(
            f"{name} does not sample from models of noise under a table of betas; use another scheduler, such as "
            "DDIMScheduler."
        )
    if hasattr(scheduler, "noise_sampler_seed"):
        raise InputError(
            f"{name} draws noise that no generator of the pipeline seeds; use another scheduler with noise, such as "
            "EulerAncestralDiscreteScheduler."
        )
    if channels > 3 and scheduler.config.get("variance_type") in LEARNED and not _reads_variance(scheduler):
        raise InputError(  # it cuts what the model returns to 3 channels, whatever x_t has
            f"{name} with variance_type {scheduler.config['variance_type']!r} takes 3 channels, but the samples have "
            f"{channels}; make it with from_config(..., variance_type=None)."
        )
    if not isinstance(num_inference_steps, int) or num_inference_steps < 1:
        raise InputError(f"num_inference_steps is {num_inference_steps!r}, expected a whole number above 0.")
    try:
        scheduler.set_timesteps(num_inference_steps)
    except (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError) as error:
        raise InputError(
            f"{name} cannot draw in num_inference_steps={num_inference_steps} ({reason(error)}); choose another number."
        ) from None


def padded_chunks(seeds: Sequence[int], size: int) -> Iterator[tuple[list[int], list[int]]]:
    """(seeds, the same padded to `size` by repeating the last): every chunk is drawn at one batch size."""
    for first in range(0, len(seeds), size):
        chunk = list(seeds[first : first + size])
        yield chunk, chunk + chunk[-1:] * (size - len(chunk))
