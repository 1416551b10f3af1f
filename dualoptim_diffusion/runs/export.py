"""`dualoptim export`: models for code that is not ours: diffusers without this package, or the research code."""

import json
import shutil
from pathlib import Path
from typing import Any

from torch import nn

from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.terminal import say
from dualoptim_diffusion.files.atomic import atomic_path
from dualoptim_diffusion.files.weight_files import weights_sha256, write_published
from dualoptim_diffusion.models import ConditionalDiT, DenoisingModel, DiTModule, UNetModule
from dualoptim_diffusion.models.dit_module import EPS
from dualoptim_diffusion.models.loading import load_model
from dualoptim_diffusion.models.published import export_published
from dualoptim_diffusion.models.published_dit import export_published_dit
from dualoptim_diffusion.models.stock import fold
from dualoptim_diffusion.runs.card import make_card

FORMATS = ("diffusers", "published")

USAGE = """\
It needs diffusers alone. The network predicts {prediction}; its class labels are ids:

{classes}

{null}

```python
import torch
from diffusers import {kinds}

folder = "path/to/this/folder"
{loading}
scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
label = torch.tensor([0])
scheduler.set_timesteps(50)
x_t = torch.randn(1, {shape}, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    for t in scheduler.timesteps:
{predicting}
        x_t = scheduler.step(noise_pred, t, x_t).prev_sample
    images = {decoding}
images = (images.clamp(-1, 1) + 1) / 2  # [1, {image_shape}] in [0, 1]
```"""
PREDICTED = {"epsilon": "noise", "v_prediction": "v", "sample": "x_0"}
PLAIN = """\
        noise_pred = {cond}"""
GUIDED = """\
        cond, null = {cond}, {null}
        noise_pred = null + 1.0 * (cond - null)  # guidance_scale 1.0 is the conditional model; larger ones guide"""


def export_model(source: Path, out: Path, format_name: str = "diffusers") -> dict[str, Any]:
    """Writes the model in a run or pipeline folder for other code.

    Args:
        format_name: diffusers, a folder with a model card; or published, a torch file as the research code saves it.

    Returns:
        What was written.

    Raises:
        InputError: if there is no model, or for an unknown format or one that the model does not have.
    """
    if format_name not in FORMATS:
        raise InputError(f"--format is {format_name!r}, expected {' or '.join(FORMATS)}.")
    model = load_model(source)
    write = _write_diffusers if format_name == "diffusers" else _write_published
    network = write(source, model, out)
    return {
        "model": str(out),
        "format": format_name,
        "sha256": weights_sha256(network.state_dict()),
        "parameters": sum(p.numel() for p in network.parameters()),
        "classes": model.id2label,
        "null_class": model.null_class,
    }


def _write_diffusers(source: Path, model: DenoisingModel, out: Path) -> nn.Module:
    """Writes diffusers' own networks and scheduler, a model card and, of a run, its grid; returns the network.

    A U-Net becomes a `UNet2DModel`; what was one already stays as it is.
    """
    from diffusers import DDIMPipeline

    network = fold(model.network) if isinstance(model.network, UNetModule) else model.network
    with atomic_path(out) as beside:
        if isinstance(model, ConditionalDiT):
            model.save_stock(beside)
        else:
            DDIMPipeline(network, model.make_scheduler()).save_pretrained(beside)
        card = make_card(source, model, _usage(model))
        (beside / "README.md").write_text(card.text, encoding="utf-8")
        if card.grid is not None:
            shutil.copyfile(card.grid, beside / card.grid.name)
    return network


def _write_published(source: Path, model: DenoisingModel, out: Path) -> nn.Module:
    network = model.network
    if isinstance(network, DiTModule):
        if (eps := network.arguments["norm_eps"]) != EPS:
            say(f"norm_eps is {eps} here and {EPS} in the research code: its outputs will differ slightly.")
        write_published(out, export_published_dit(network))
    elif isinstance(network, UNetModule):
        write_published(out, export_published(network))
    else:
        raise InputError(
            f"The model in {source} is a {type(network).__name__}, which adds classes to the time embedding; the "
            "research code has no such network, so it has no published form; use --format diffusers."
        )
    return network


def _usage(model: DenoisingModel) -> str:
    """How to draw with diffusers alone."""
    names = (f"    {i}  {json.dumps(model.id2label[i], ensure_ascii=False)}" for i in range(model.num_classes))
    is_dit, decoding, kinds = isinstance(model, ConditionalDiT), "x_t", ["DDIMScheduler", "UNet2DModel"]
    loading = ['unet = UNet2DModel.from_pretrained(folder, subfolder="unet").eval()']
    predict = "unet(x_t, t, {label}).sample"
    if is_dit:
        kinds = ["DDIMScheduler", "DiTTransformer2DModel"]
        loading = ['transformer = DiTTransformer2DModel.from_pretrained(folder, subfolder="transformer").eval()']
        predict = f"transformer(x_t, timestep=t[None], class_labels={{label}}).sample[:, :{model.x_0_shape[0]}]"
    if model.autoencoder is not None:
        kinds = ["AutoencoderKL", *kinds]
        loading += ['vae = AutoencoderKL.from_pretrained(folder, subfolder="vae").eval()']
        decoding = "vae.decode(x_t / vae.config.scaling_factor).sample"
    cond, null, said = predict.format(label="label"), "", "No id means no class, so there is no guidance."
    if model.null_class is not None:
        said = f"The id {model.null_class} means no class: images of any, and the other half of guidance."
        null = predict.format(label=f"torch.full_like(label, {model.null_class})")
    shape, image_shape = (", ".join(map(str, sides)) for sides in (model.x_0_shape, model.image_shape))
    return USAGE.format(
        prediction=PREDICTED[model.prediction_type],
        classes="\n".join(names), null=said, kinds=", ".join(kinds), loading="\n".join(loading), shape=shape,
        predicting=(GUIDED if null else PLAIN).format(cond=cond, null=null), decoding=decoding, image_shape=image_shape,
    )  # fmt: skip
