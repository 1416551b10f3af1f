"""The diffusion process as pure functions: schedule, x_t, timesteps, guidance, loss (DDPM, Ho et al., 2020)."""

from collections.abc import Callable

import torch
from torch import Tensor

from dualoptim_diffusion.errors import InputError

NUM_TRAIN_TIMESTEPS = 1000
BETA_START, BETA_END = 1e-4, 0.02  # linear schedule of DDPM

NoisePredictor = Callable[[Tensor, Tensor, Tensor], Tensor]  # x_t, timesteps, class_labels -> noise_pred


def linear_alphas_cumprod(num_train_timesteps: int = NUM_TRAIN_TIMESTEPS) -> Tensor:
    """abar_t = prod_{s<=t} (1 - beta_s), float32 [T]."""
    betas = torch.linspace(BETA_START, BETA_END, num_train_timesteps, dtype=torch.float32)
    return torch.cumprod(1.0 - betas, dim=0)


def add_noise(x_0: Tensor, noise: Tensor, timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise, all [B, C, H, W] (DDPM, eq. 4)."""
    abar = alphas_cumprod.to(device=x_0.device, dtype=x_0.dtype)[timesteps].view(-1, 1, 1, 1)
    return abar.sqrt() * x_0 + (1 - abar).sqrt() * noise


def antithetic_timesteps(batch_size: int, num_train_timesteps: int, generator: torch.Generator) -> Tensor:
    """Timesteps [B] in pairs t, T-1-t, so each batch covers early and late steps alike."""
    half = torch.randint(num_train_timesteps, (batch_size // 2 + 1,), generator=generator)
    return torch.cat([half, num_train_timesteps - 1 - half])[:batch_size]


def denoising_loss(noise_pred: Tensor, noise: Tensor) -> Tensor:
    """Squared error summed over channels and pixels, one value a sample: [B, C, H, W] -> [B] (DDPM, eq. 14)."""
    return (noise - noise_pred).square().flatten(1).sum(1)


def guided_noise_pred(
    predict: NoisePredictor,
    x_t: Tensor,
    timesteps: Tensor,
    class_labels: Tensor,
    null_class: int | None,
    guidance_scale: float,
) -> Tensor:
    """Classifier-free guidance null + s (cond - null) in one batched call; s = w + 1 of Ho and Salimans (2022).

    At s = 1 this is the conditional model, drawn without the null half. Output channels beyond those of x_t are a
    learned variance, which is the conditional model's at any scale.

    Raises:
        InputError: if a model without a null class is to be guided.
    """
    if guidance_scale == 1.0:
        return predict(x_t, timesteps, class_labels)
    if null_class is None:
        raise InputError(
            f"guidance_scale is {guidance_scale}, but the model has no null class to be guided away from; set "
            "model.null_class, or sampling.guidance_scale=1."
        )
    both = torch.cat([class_labels, torch.full_like(class_labels, null_class)])
    cond, null = predict(torch.cat([x_t, x_t]), torch.cat([timesteps, timesteps]), both).chunk(2)
    channels = x_t.shape[1]
    guided = null[:, :channels] + guidance_scale * (cond[:, :channels] - null[:, :channels])
    return torch.cat([guided, cond[:, channels:]], 1)
