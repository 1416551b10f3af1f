"""`dualoptim import` and `dualoptim export`: models from and for code that is not ours."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from dualoptim_diffusion.core.classes import CIFAR10
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.data import cifar10, imagenet
from dualoptim_diffusion.diffusion.sampling import make_scheduler
from dualoptim_diffusion.files.atomic import atomic_path
from dualoptim_diffusion.files.weight_files import read_published, weights_sha256
from dualoptim_diffusion.models import ConditionalDDPM, ConditionalDiT, DenoisingModel, DiTModule, UNetModule
from dualoptim_diffusion.models.autoencoder import load_autoencoder
from dualoptim_diffusion.models.loading import load_model
from dualoptim_diffusion.models.published import UNET_MARKS, Imported, import_published
from dualoptim_diffusion.models.published_dit import DIT_MARKS, import_published_dit, is_published_dit
from dualoptim_diffusion.models.stock import fold

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

CIFAR10_SHAPE = (3, cifar10.SIDE, cifar10.SIDE)
FORMATS = ("unet2d",)

README = """\
# A class-conditional diffusion model for plain diffusers

`unet` is a `diffusers.UNet2DModel` that predicts noise; its class labels are ids:

{classes}

{null}

```python
import torch
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("path/to/this/folder")
unet, scheduler = pipeline.unet.eval(), pipeline.scheduler
label = torch.tensor([0])
scheduler.set_timesteps(50)
x_t = torch.randn(1, {shape}, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    for t in scheduler.timesteps:
{predict}
        x_t = scheduler.step(noise_pred, t, x_t).prev_sample
images = (x_t.clamp(-1, 1) + 1) / 2  # [1, {shape}] in [0, 1]
```
"""
PLAIN = """\
        noise_pred = unet(x_t, t, label).sample"""
GUIDED = """\
        cond, null = unet(x_t, t, label).sample, unet(x_t, t, torch.full_like(label, {null_class})).sample
        noise_pred = null + 1.0 * (cond - null)  # guidance_scale 1.0 is the conditional model; larger ones guide"""


def import_checkpoint(
    checkpoint: Path,
    out: Path,
    weights: str = "raw",
    image_size: int = 32,
    class_names: str | None = None,
    num_heads: int | None = None,
    vae: str | None = None,
) -> dict[str, Any]:
    """Writes the pipeline folder of a published checkpoint to `out`.

    Args:
        weights: raw or ema.
        image_size: of a U-Net's images, which no tensor tells.
        num_heads: of a DiT's attention, likewise; by default as in the published sizes.
        vae: autoencoder of a DiT's latents, a folder or hub id; without it the DiT is of pixels.
        class_names: with commas between them, cifar10 or imagenet; by default CIFAR-10's where the network has its
            form, else the ids.

    Returns:
        What was written, and which names in the file the network has no use for; a file that lacks any is refused.

    Raises:
        InputError: if the file is no such checkpoint or the names are not one a class.
    """
    network, step, left_over = _read(checkpoint, weights, image_size, num_heads)
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
    return _written(out, model.network) | {
        "weights": weights,
        "step": step,
        "missing_keys": [],  # with any, it would have been refused
        "left_over_keys": left_over,
    }


def _read(checkpoint: Path, weights: str, image_size: int, num_heads: int | None) -> Imported:
    """The network of whichever published kind the file is."""
    stored = read_published(checkpoint, UNET_MARKS + DIT_MARKS)
    if is_published_dit(stored.raw):
        return import_published_dit(checkpoint, weights, num_heads, stored)
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


def export_model(source: Path, out: Path, format_name: str = "unet2d") -> dict[str, Any]:
    """Writes the model in a run or pipeline folder as a folder that diffusers loads without this package.

    Returns:
        What was written.

    Raises:
        InputError: if there is no model, or for an unknown format.
    """
    if format_name not in FORMATS:
        raise InputError(f"--format is {format_name!r}, expected {' or '.join(FORMATS)}.")
    from diffusers import DDIMPipeline

    model = load_model(source)
    if isinstance(model.network, DiTModule):
        raise InputError("--format unet2d is of U-Nets; a DiT's own folder is the format that diffusers reads.")
    stock = fold(model.network) if isinstance(model.network, UNetModule) else model.network
    with atomic_path(out) as beside:
        DDIMPipeline(stock, make_scheduler("ddim")).save_pretrained(beside)
        (beside / "README.md").write_text(_readme(model), encoding="utf-8")
    return _written(out, stock) | {"format": format_name, "classes": model.id2label, "null_class": model.null_class}


def _readme(model: DenoisingModel) -> str:
    names = (f"    {i}  {json.dumps(name, ensure_ascii=False)}" for i, name in model.id2label.items())
    null, predict = "No id means no class, so there is no guidance.", PLAIN
    if model.null_class is not None:
        null = f"The id {model.null_class} means no class: images of any, and the other half of guidance."
        predict = GUIDED.format(null_class=model.null_class)
    shape = ", ".join(str(n) for n in model.x_0_shape)
    return README.format(classes="\n".join(names), null=null, shape=shape, predict=predict)


def _written(out: Path, network: nn.Module) -> dict[str, Any]:
    return {
        "model": str(out),
        "sha256": weights_sha256(network.state_dict()),
        "parameters": sum(p.numel() for p in network.parameters()),
    }
