"""The networks of a pipeline folder as diffusers modules, for pipelines; loading them loads diffusers."""

from pathlib import Path

from diffusers import AutoencoderKL, DiTTransformer2DModel, UNet2DModel
from torch import nn

from dualoptim_diffusion.files.pipeline_folder import class_of
from dualoptim_diffusion.models.dit_network import DiT
from dualoptim_diffusion.models.saved_network import read_network
from dualoptim_diffusion.models.unet import ConditionalUNet

KINDS: dict[str, dict[str, type[nn.Module]]] = {
    "unet": {"ConditionalUNet": ConditionalUNet, "UNet2DModel": UNet2DModel},
    "transformer": {
        "DiT": DiT,
        "DiTTransformer2DModel": DiTTransformer2DModel,
        "Transformer2DModel": DiTTransformer2DModel,  # its name when DiT was published
    },
    "vae": {"AutoencoderKL": AutoencoderKL},
}


def read_parts(folder: Path) -> dict[str, nn.Module]:
    """The networks by the names of their parts.

    Raises:
        ValueError: if one is of another class, damaged, or lacks weights.
        OSError, TypeError, RuntimeError: if a file is missing or of another network.
    """
    parts: dict[str, nn.Module] = {}
    for part, kinds in KINDS.items():
        if (name := class_of(folder, part)) is None:
            continue
        if name not in kinds:
            raise ValueError(f"its part {part!r} is a {name}, expected {' or '.join(kinds)}")
        parts[part] = read_network(kinds[name], folder / part)
    return parts
