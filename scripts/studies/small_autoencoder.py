"""A small autoencoder of photographs, meant to be trained in about a minute of one GPU."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dualoptim_diffusion.data import ImageSet
from dualoptim_diffusion.diffusion.randomness import derive_seed, epoch_indices
from tables import read_json, write_json

KL_WEIGHT = 1e-6
MAX_LR = 1e-3
MEASURED_AT_ONCE = 100


@dataclass(frozen=True)
class Autoencoder:
    """diffusers' AutoencoderKL of four latent channels; the side is halved after every width but the last."""

    block_out_channels: tuple[int, ...]
    layers_per_block: int
    num_steps: int
    batch_size: int


def obtain_autoencoder(
    settings: Autoencoder, train: ImageSet, held_out: ImageSet, folder: Path, device: torch.device
) -> dict[str, Any]:
    """Trains it and saves it in the folder, unless it is there.

    Returns:
        `psnr_held_out_db`: peak signal-to-noise ratio of `n` held-out images as they are decoded from their means.
    """
    quality = folder / "quality.json"  # written last
    if not quality.is_file():
        vae = _train(settings, train, device)
        decibel, deviation = _measure(vae, held_out, device)
        vae.register_to_config(scaling_factor=1 / deviation)  # latents have deviation 1
        vae.cpu().save_pretrained(folder)
        write_json(quality, {"psnr_held_out_db": decibel, "n": len(held_out)})
    found: dict[str, Any] = read_json(quality)
    return found


def _train(settings: Autoencoder, train: ImageSet, device: torch.device) -> Any:
    """By the absolute error and a little of the posterior's divergence."""
    from diffusers import AutoencoderKL

    levels, channels, side = len(settings.block_out_channels), *train.images.shape[1:3]
    torch.manual_seed(derive_seed(0, "autoencoder-init"))
    vae = AutoencoderKL(
        in_channels=channels, out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=settings.block_out_channels, layers_per_block=settings.layers_per_block,
        latent_channels=4, sample_size=side, mid_block_add_attention=False,
    ).to(device)  # fmt: skip
    optimizer = torch.optim.AdamW(vae.parameters(), lr=MAX_LR, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, MAX_LR, settings.num_steps)
    with tqdm(range(settings.num_steps), desc="training the autoencoder", mininterval=5) as bar:
        for step in bar:
            x = _pixels(train.images[epoch_indices(0, "autoencoder", step, settings.batch_size, len(train))], device)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                posterior = vae.encode(x).latent_dist
                error = (vae.decode(posterior.sample()).sample - x).abs().mean()
            optimizer.zero_grad()
            (error + KL_WEIGHT * posterior.kl().mean()).backward()
            torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if step % 50 == 0:  # reading waits for the device
                bar.set_postfix({"error": f"{error.item():.3f}"}, refresh=False)
    return vae.eval()


@torch.no_grad()
def _measure(vae: Any, images: ImageSet, device: torch.device) -> tuple[float, float]:
    """Decibels of decoded images, and the standard deviation of the latents' means."""
    means, squares = [], []
    for part in images.batches(MEASURED_AT_ONCE):
        x = _pixels(part, device)
        means.append(vae.encode(x).latent_dist.mean)
        squares.append((vae.decode(means[-1]).sample - x).square().flatten(1).mean(1))
    decibel = -10 * (torch.cat(squares).mean() / 4).log10().item()  # of images in [0, 1]
    return decibel, torch.cat(means).std().item()


def _pixels(images: Tensor, device: torch.device) -> Tensor:
    """uint8 -> [-1, 1]."""
    return images.to(device).float() / 127.5 - 1
