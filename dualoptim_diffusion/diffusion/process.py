"""The diffusion process as pure functions: schedule, x_t, timesteps, guidance, loss (DDPM, Ho et al., 2020)."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dualoptim_diffusion.core.errors import InputError

NUM_TRAIN_TIMESTEPS = 1000
BETA_START, BETA_END = 1e-4, 0.02  # linear schedule of DDPM

FLOW, DENOISER = "flow_prediction", "denoiser"
# as diffusers calls noise, v, x_0 and noise - x_0; DENOISER is x_0 of an image with noise of scale sigma (EDM)
PREDICTIONS = ("epsilon", "v_prediction", "sample", FLOW, DENOISER)

NoisePredictor = Callable[[Tensor, Tensor, Tensor], Tensor]  # x_t, timesteps, class_labels -> noise_pred


class Process(NamedTuple):
    """A diffusion process of a network's own.

    Attributes:
        betas: of each training timestep, [T].
        prediction_type: what the network predicts, one of PREDICTIONS.
        times: what the network is told instead of each timestep, [T]; None = the timestep.
    """

    betas: Tensor
    prediction_type: str
    times: Tensor | None = None


def straight_path(sigmas: Tensor, times: Tensor) -> Process:
    """Flow matching on (1 - sigma) x_0 + sigma noise (Lipman et al., 2023; Liu et al., 2023) as a process of betas.

    Divided by its length the path is x_t at abar = (1 - sigma)^2 / ((1 - sigma)^2 + sigma^2), so that all that is made
    for betas holds; a DDIM step is then Euler's step along the path.

    Args:
        sigmas: of each timestep, [T], rising and below 1.
        times: what the network is told at each, [T].
    """
    sigmas = sigmas.double()
    return Process(_betas((1 - sigmas) ** 2 / ((1 - sigmas) ** 2 + sigmas**2)), FLOW, times.float())


def growing_noise(sigmas: Tensor) -> Process:
    """x_0 + sigma noise, of networks D(x; sigma) that return x_0 (EDM, Karras et al., 2022), as a process of betas.

    At abar = 1 / (1 + sigma^2) it is x_t by a factor; a DDIM step is then Euler's step in sigma.

    Args:
        sigmas: of each timestep, [T], rising; the network is told them.
    """
    sigmas = sigmas.double()
    return Process(_betas(1 / (1 + sigmas**2)), DENOISER, sigmas.float())


def _betas(alphas_cumprod: Tensor) -> Tensor:
    return 1 - alphas_cumprod / torch.cat([alphas_cumprod.new_ones(1), alphas_cumprod[:-1]])


def linear_alphas_cumprod(num_train_timesteps: int = NUM_TRAIN_TIMESTEPS, dtype: torch.dtype = torch.float32) -> Tensor:
    """abar_t = prod_{s<=t} (1 - beta_s), [T]."""
    betas = torch.linspace(BETA_START, BETA_END, num_train_timesteps, dtype=dtype)
    return torch.cumprod(1.0 - betas, dim=0)


def add_noise(x_0: Tensor, noise: Tensor, timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise, all [B, C, H, W] (DDPM, eq. 4)."""
    abar = alphas_cumprod.to(x_0.device)[timesteps].view(-1, 1, 1, 1)
    return abar.sqrt().to(x_0.dtype) * x_0 + (1 - abar).sqrt().to(x_0.dtype) * noise


def network_input(x_t: Tensor, abar: Tensor, prediction_type: str) -> Tensor:
    """x_t [B, C, H, W] as the network takes it: with x_0 and noise weighed 1 - sigma to sigma, or 1 to sigma.

    Args:
        abar: of each sample, [B, 1, 1, 1].
    """
    if prediction_type not in (FLOW, DENOISER):
        return x_t
    a, s = _weights(abar, x_t)
    return x_t / (a + s) if prediction_type == FLOW else x_t / a


def _weights(abar: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Of x_0 and of noise in x_t."""
    return abar.sqrt().to(like.dtype), (1 - abar).sqrt().to(like.dtype)


def implied_noise(output: Tensor, x_t: Tensor, abar: Tensor, prediction_type: str) -> Tensor:
    """The noise [B, C, H, W] that a network's output implies.

    With x_t = a x_0 + s noise, x_0 implies (x_t - a x_0) / s, v = a noise - s x_0 (Salimans and Ho, 2022) implies
    s x_t + a v, and the velocity u = noise - x_0 of flow matching implies (x_t + a u) / (a + s).

    Args:
        abar: of each sample, [B, 1, 1, 1].
    """
    if prediction_type == "epsilon":
        return output
    a, s = _weights(abar, x_t)
    if prediction_type in ("sample", DENOISER):
        return (x_t - a * output) / s
    return s * x_t + a * output if prediction_type == "v_prediction" else (x_t + a * output) / (a + s)


def antithetic_timesteps(batch_size: int, num_train_timesteps: int, generator: torch.Generator) -> Tensor:
    """Timesteps [B] in pairs t, T-1-t, so each batch covers early and late steps alike."""
    half = torch.randint(num_train_timesteps, (batch_size // 2 + 1,), generator=generator)
    return torch.cat([half, num_train_timesteps - 1 - half])[:batch_size]


def uniform_timesteps(batch_size: int, num_train_timesteps: int, generator: torch.Generator) -> Tensor:
    """Timesteps [B], each by itself, as DiT was trained."""
    return torch.randint(num_train_timesteps, (batch_size,), generator=generator)


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
    guidance_channels: int | None = None,
) -> Tensor:
    """Classifier-free guidance null + s (cond - null) in one batched call; s = w + 1 of Ho and Salimans (2022).

    At s = 1 this is the conditional model, drawn without the null half. Output channels beyond those of x_t are a
    learned variance, which is the conditional model's at any scale, and so are the channels of noise from
    `guidance_channels` on (published DiT figures guide three of four).

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
    channels = x_t.shape[1] if guidance_channels is None else guidance_channels
    guided = null[:, :channels] + guidance_scale * (cond[:, :channels] - null[:, :channels])
    return torch.cat([guided, cond[:, channels:]], 1)


def variational_bound(model_output: Tensor, x_0: Tensor, x_t: Tensor, timesteps: Tensor) -> Tensor:
    """L_vb of each sample [B] in bits a dimension, for a learned variance (Nichol and Dhariwal, 2021, eq. 4, 5 and 15).

    The divergence of the model's step from the true posterior, and at t = 0 the negative log-likelihood of x_0 in bins
    of 2 / 255. Its gradient reaches the variance alone, not the noise.

    Args:
        model_output: predicted noise, then v in [-1, 1] that places the log variance: [B, 2 C, H, W].
        x_0, x_t: [B, C, H, W].
        timesteps: [B].
    """
    noise_pred, v = model_output.detach()[:, : x_0.shape[1]], model_output[:, x_0.shape[1] :]
    abar = linear_alphas_cumprod(dtype=torch.float64).to(x_0.device)
    before = torch.cat([abar.new_ones(1), abar[:-1]])  # abar_{t-1}
    betas = 1 - abar / before
    log_posterior = (betas * (1 - before) / (1 - abar)).log()
    log_posterior[0] = log_posterior[1]  # it is 0 at t = 0, where no noise is added

    def at(table: Tensor) -> Tensor:
        return table[timesteps].to(x_0.dtype).view(-1, 1, 1, 1)

    x_0_pred = at(abar.rsqrt()) * x_t - at((1 / abar - 1).sqrt()) * noise_pred
    to_x_0, to_x_t = at(betas * before.sqrt() / (1 - abar)), at((1 - before) * (1 - betas).sqrt() / (1 - abar))
    true_mean, mean = (to_x_0 * x + to_x_t * x_t for x in (x_0, x_0_pred))
    fraction = (v + 1) / 2
    log_variance = fraction * at(betas.log()) + (1 - fraction) * at(log_posterior)  # eq. 15
    ratio = at(log_posterior) - log_variance
    divergence = 0.5 * (ratio.exp() - 1 - ratio + (true_mean - mean).square() * (-log_variance).exp())
    likelihood = _log_likelihood_of_bins(x_0, mean, 0.5 * log_variance)
    nats = torch.where(timesteps.view(-1, 1, 1, 1) == 0, -likelihood, divergence)
    return nats.flatten(1).mean(1) / math.log(2)


def _log_likelihood_of_bins(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log probability of x's bin of width 2 / 255 under a Gaussian; the outer bins reach to infinity."""

    def cdf(z: Tensor) -> Tensor:  # the approximation that published models were trained with
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))

    inverse = (-log_scale).exp()
    upper, lower = (cdf(inverse * (x - mean + side / 255)) for side in (1, -1))
    inside = torch.where(x < -0.999, upper, torch.where(x > 0.999, 1 - lower, upper - lower))
    return inside.clamp(min=1e-12).log()
