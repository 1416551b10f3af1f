"""The autoencoder of latent models: diffusers' AutoencoderKL, by folder or hub id."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dualoptim_diffusion.core.errors import InputError, reason
from dualoptim_diffusion.models.saved_network import read_network

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

DECODED_AT_ONCE = 16  # latents; an image of 256 pixels takes several hundred MB of activations


def load_autoencoder(source: str) -> "AutoencoderKL":
    """The autoencoder in a folder (or in `vae` below it), or on the hub, such as stabilityai/sd-vae-ft-ema@REVISION.

    Raises:
        InputError: if there is none.
    """
    from diffusers import AutoencoderKL

    folder = Path(source, "vae") if Path(source, "vae").is_dir() else Path(source)
    name, _, revision = source.partition("@")
    try:
        if folder.is_dir():
            return read_network(AutoencoderKL, folder)
        return AutoencoderKL.from_pretrained(name, revision=revision or None, use_safetensors=True).eval()
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise InputError(
            f"{source} is no folder of an AutoencoderKL here and cannot be downloaded ({reason(error, 150)}); name a "
            "folder with config.json and weights, or a hub id."
        ) from None


def latent_shape(vae: "AutoencoderKL", channels: int, size: int) -> tuple[int, int]:
    """Channels and side of the latents of images with so many channels and such a side.

    Raises:
        InputError: if the autoencoder takes other images.
    """
    if vae.config.in_channels != channels:
        raise InputError(
            f"The autoencoder takes images of {vae.config.in_channels} channels, the data have {channels}."
        )
    factor = downsampling(vae)
    if size % factor:
        raise InputError(
            f"The autoencoder makes images smaller by {factor}, which does not divide their side {size}; set "
            f"data.image_size={max(1, round(size / factor)) * factor}."
        )
    return vae.config.latent_channels, size // factor


def downsampling(vae: "AutoencoderKL") -> int:
    """Pixels a side of a latent."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


@torch.no_grad()
def posterior_moments(vae: "AutoencoderKL", images: Tensor) -> Tensor:
    """Images [B, 3, H, W] in [-1, 1] -> mean and log variance of the autoencoder's posterior, [B, 2 C, h, w]."""
    moments: Tensor = vae.encode(images).latent_dist.parameters
    return moments


def latents_of(vae: "AutoencoderKL", moments: Tensor, noise: Tensor | None) -> Tensor:
    """Those -> scaled latents [B, C, h, w]: mean + deviation x `noise`, or the mean alone without it."""
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    posterior = DiagonalGaussianDistribution(moments)
    latents: Tensor = posterior.mean if noise is None else posterior.mean + posterior.std * noise
    return latents * vae.config.scaling_factor


@torch.no_grad()
def from_latents(vae: "AutoencoderKL", latents: Tensor) -> Tensor:
    """Scaled latents -> images [B, 3, H, W] in about [-1, 1]."""
    parts = (latents / vae.config.scaling_factor).split(DECODED_AT_ONCE)
    return torch.cat([vae.decode(part.to(vae.dtype)).sample.to(latents.dtype) for part in parts])
