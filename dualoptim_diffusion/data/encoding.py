"""What a model trains on: a data set's images, or the latents that its autoencoder makes of them, encoded once."""

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from dualoptim_diffusion.core.config import DenoiserDataConfig
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.data import ImageSet
from dualoptim_diffusion.data.latents import KeptMoments, LatentCache, every_way, keys_of
from dualoptim_diffusion.data.pixels import CROP
from dualoptim_diffusion.data.replay import open_drawn
from dualoptim_diffusion.data.stored import ShardRows
from dualoptim_diffusion.files.cache import cache_entry
from dualoptim_diffusion.models import ConditionalDiT, DenoisingModel, autoencoder_sha256


def training_images(
    dataset: ImageSet, config: DenoiserDataConfig, model: DenoisingModel, accelerator: Accelerator
) -> ImageSet:
    """The same examples as the model trains on them.

    For a model of latents: those that a model drew in this very autoencoder's latents, moments that are kept in a
    folder and encoded when they are first needed, or, with `data.latents: each_step`, the images themselves.

    Raises:
        InputError: if that folder holds something else.
    """
    if not isinstance(model, ConditionalDiT) or model.vae is None:
        return dataset
    drawn = open_drawn(config.path) if config.name == "replay" and config.path is not None else None
    if drawn and isinstance(dataset.images, ShardRows) and drawn.autoencoder_sha256 == autoencoder_sha256(model):
        return ImageSet(dataset.images.of("latents"), dataset.class_labels, dataset.id2label)
    if config.latents == "each_step":
        return dataset
    cache = latent_cache(dataset, config.latents, model, accelerator)
    moments = KeptMoments(cache, torch.arange(len(dataset)), (2 * model.x_0_shape[0], *model.x_0_shape[1:]))
    return ImageSet(moments, dataset.class_labels, dataset.id2label)


def latent_cache(dataset: ImageSet, latents: str, model: ConditionalDiT, accelerator: Accelerator) -> LatentCache:
    """The folder of kept moments of all images of a data set: one in the cache (`keep`), or the one named.

    Raises:
        InputError: as `LatentCache`.
    """
    assert model.vae is not None
    height, width = dataset.images.shape[2:]
    made_from = {
        "autoencoder_sha256": autoencoder_sha256(model),
        "scaling_factor": model.vae.config.scaling_factor,
        "crop": f"{height} x {width}: {CROP}",
        "images_sha256": dataset.pixels_sha256,
    }
    folder = cache_entry("latents", repr(made_from)) if latents == "keep" else Path(latents)

    def encode(images: Tensor) -> Tensor:
        return model.moments(images.to(accelerator.device))

    return LatentCache(folder, made_from, dataset.images, encode, accelerator)


def encode_all(
    dataset: ImageSet, config: DenoiserDataConfig, model: DenoisingModel, accelerator: Accelerator
) -> dict[str, Any]:
    """Encodes every image of a data set, mirrored too where the recipe mirrors; goes on where it was interrupted.

    Returns:
        The folder, how many images and moments it serves, and its bytes.

    Raises:
        InputError: if the model has no autoencoder, or the folder holds something else.
    """
    if not isinstance(model, ConditionalDiT) or model.vae is None:
        raise InputError("This recipe's model draws pixels and has no autoencoder, so there is nothing to encode.")
    if config.latents == "each_step":
        raise InputError("data.latents is each_step, expected keep or a folder to encode into.")
    cache = latent_cache(dataset, config.latents, model, accelerator)
    cache.add(keys_of(*every_way(len(dataset), config.horizontal_flip)))
    written = sum(path.stat().st_size for path in cache.folder.glob("*.safetensors"))
    return {"folder": str(cache.folder), "images": len(dataset), "moments": len(cache), "bytes": written}
