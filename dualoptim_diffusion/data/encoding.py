"""What a model trains on: a data set's images, or the latents that its autoencoder makes of them, encoded once."""

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from dualoptim_diffusion.core.config import DenoiserDataConfig
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.data import ImageSet
from dualoptim_diffusion.data.latents import CachedMoments, LatentCache, every_way, keys_of
from dualoptim_diffusion.data.replay import open_replay
from dualoptim_diffusion.data.stored import ShardRows
from dualoptim_diffusion.files.cache import cache_entry, place_for
from dualoptim_diffusion.files.image_files import CROP
from dualoptim_diffusion.models import DenoisingModel, autoencoder_sha256


def training_images(
    dataset: ImageSet, config: DenoiserDataConfig, model: DenoisingModel, accelerator: Accelerator
) -> ImageSet:
    """The same examples as the model trains on them.

    For a model of latents: those that a model drew in this very autoencoder's latents, cached moments that are
    encoded when they are first needed, or, with `data.latents: each_step`, the images themselves.

    Raises:
        InputError: if that folder holds something else.
    """
    if model.autoencoder is None:
        return dataset
    replay = open_replay(config.path) if config.name == "replay" and config.path is not None else None
    if replay and isinstance(dataset.images, ShardRows) and replay.autoencoder_sha256 == autoencoder_sha256(model):
        return ImageSet(dataset.images.of("latents"), dataset.class_labels, dataset.id2label)
    if config.latents == "each_step":
        return dataset
    cache = latent_cache(dataset, config.latents, model, accelerator)
    moments = CachedMoments(cache, torch.arange(len(dataset)), (2 * model.x_0_shape[0], *model.x_0_shape[1:]))
    return ImageSet(moments, dataset.class_labels, dataset.id2label)


def latent_cache(dataset: ImageSet, latents: str, model: DenoisingModel, accelerator: Accelerator) -> LatentCache:
    """The folder of moments of all images of a data set: one in the cache (`keep`), or the one named.

    Raises:
        InputError: as `LatentCache`.
    """
    assert model.autoencoder is not None  # both callers have seen to it
    height, width = dataset.images.shape[2:]
    made_from = {
        "autoencoder_sha256": autoencoder_sha256(model),
        "scaling_factor": model.autoencoder.config.scaling_factor,
        "crop": f"{height} x {width}: {CROP}",
        "images_sha256": dataset.pixels_sha256,
    }
    folder = place_for(cache_entry("latents", repr(made_from))) if latents == "keep" else Path(latents)

    def encode(images: Tensor) -> Tensor:
        return model.moments(images.to(accelerator.device))

    return LatentCache(folder, made_from, dataset.images, encode, accelerator)


def encode_all(
    dataset: ImageSet, config: DenoiserDataConfig, model: DenoisingModel, accelerator: Accelerator
) -> dict[str, Any]:
    """Encodes every image of a data set, mirrored too where the recipe mirrors; an interrupted call continues.

    Returns:
        The folder, how many images and moments it serves, and its bytes.

    Raises:
        InputError: if the model has no autoencoder, or the folder holds something else.
    """
    if model.autoencoder is None:
        raise InputError("This recipe's model draws pixels and has no autoencoder, so there is nothing to encode.")
    if config.latents == "each_step":
        raise InputError("data.latents is each_step, expected keep or a folder to encode into.")
    cache = latent_cache(dataset, config.latents, model, accelerator)
    cache.add(keys_of(*every_way(len(dataset), config.horizontal_flip)))
    written = sum(path.stat().st_size for path in cache.folder.glob("*.safetensors"))
    return {"folder": str(cache.folder), "images": len(dataset), "moments": len(cache), "bytes": written}
