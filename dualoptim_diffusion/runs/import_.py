"""`dualoptim import`: published checkpoints as pipeline folders."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualoptim_diffusion.core.classes import CIFAR10
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.data import cifar10, imagenet
from dualoptim_diffusion.files.atomic import atomic_path
from dualoptim_diffusion.files.weight_files import read_published, weights_sha256
from dualoptim_diffusion.models import ConditionalDDPM, ConditionalDiT, DenoisingModel, DiTModule
from dualoptim_diffusion.models.autoencoder import load_autoencoder
from dualoptim_diffusion.models.published import UNET_MARKS, Imported, import_published
from dualoptim_diffusion.models.published_dit import DIT_MARKS, Form, import_published_dit, is_published_dit

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

CIFAR10_SHAPE = (3, cifar10.SIDE, cifar10.SIDE)


def import_checkpoint(
    checkpoint: Path,
    out: Path,
    weights: str = "raw",
    image_size: int = 32,
    class_names: str | None = None,
    num_heads: int | None = None,
    vae: str | None = None,
    form: Form | None = None,
) -> dict[str, Any]:
    """Writes the pipeline folder of a published checkpoint to `out`.

    Args:
        weights: raw or ema.
        image_size: of a U-Net's images, which no tensor tells.
        num_heads: of a DiT's attention, likewise; by default as in the published sizes.
        vae: autoencoder of a DiT's latents, a folder or hub id; without it the DiT is of pixels.
        form: dit, sit or repa: what a transformer predicts, which no tensor tells.
        class_names: with commas between them, cifar10 or imagenet; by default CIFAR-10's where the network has its
            form, else the ids.

    Returns:
        What was written, and which names in the file the network has no use for; a file that lacks any is refused.

    Raises:
        InputError: if the file is no such checkpoint or the names are not one a class.
    """
    network, step, left_over = _read(checkpoint, weights, image_size, num_heads, form)
    names = {i: str(i) for i in range(network.num_classes)}
    model: DenoisingModel
    if isinstance(network, DiTModule):
        model = ConditionalDiT(network, names, vae=None if vae is None else _fitting_autoencoder(vae, network))
    elif vae is not None:
        raise InputError(f"--vae is {vae!r}, but {checkpoint} holds a U-Net of pixels, which has no autoencoder.")
    else:
        model = ConditionalDDPM(network, names)
    model.id2label = dict(enumerate(_names(class_names, model)))
    with atomic_path(out) as beside:
        model.save(beside)
    return {
        "model": str(out),
        "sha256": weights_sha256(model.network.state_dict()),
        "parameters": sum(p.numel() for p in model.network.parameters()),
        "weights": weights,
        "step": step,
        "missing_keys": [],  # with any, it would have been refused
        "left_over_keys": left_over,
    }


def _read(checkpoint: Path, weights: str, image_size: int, num_heads: int | None, form: Form | None = None) -> Imported:
    """The network of whichever published kind the file is."""
    stored = read_published(checkpoint, UNET_MARKS + DIT_MARKS)
    if is_published_dit(stored.raw):
        return import_published_dit(checkpoint, weights, num_heads, stored, form)
    if form is not None:
        raise InputError(f"--form is {form!r}, but {checkpoint} holds a U-Net; leave it out.")
    return import_published(checkpoint, weights, image_size, stored)


def _fitting_autoencoder(vae: str, network: DiTModule) -> "AutoencoderKL":
    loaded = load_autoencoder(vae)
    if loaded.config.latent_channels != network.in_channels:
        raise InputError(
            f"The latents of {vae} have {loaded.config.latent_channels} channels, the DiT takes "
            f"{network.in_channels}; name the autoencoder that it was trained with."
        )
    return loaded


def _names(class_names: str | None, model: DenoisingModel) -> list[str]:
    count = model.num_classes
    is_cifar10 = count == len(CIFAR10) and model.x_0_shape == CIFAR10_SHAPE
    if class_names is None and not is_cifar10:
        return list(model.id2label.values())
    if class_names is None or class_names == "cifar10":
        names = list(CIFAR10)
    elif class_names == "imagenet":
        names = list(imagenet.class_names().values())
    else:
        names = [name.strip() for name in class_names.split(",")]
    if len(names) != count or len({name.lower() for name in names if name}) != count:
        raise InputError(
            f"{len(names)} class names were given ({', '.join(names[:3])}, ...), expected {count} different ones, in "
            "the order of their ids."
        )
    return names
