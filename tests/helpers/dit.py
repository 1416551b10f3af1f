"""Small DiTs and autoencoders with random weights, and weights under the published names."""

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from dualoptim_diffusion.models import DiTModule

WIDTH, HEADS, LAYERS, CLASSES, PATCH, SIDE, CHANNELS = 16, 2, 3, 5, 2, 8, 4


def random_dit(out_channels: int = 2 * CHANNELS, num_classes: int = CLASSES) -> DiTModule:
    """All weights from a normal, also those that training starts at zero."""
    torch.manual_seed(0)
    network = DiTModule(SIDE, CHANNELS, out_channels, num_classes, LAYERS, HEADS, WIDTH // HEADS, PATCH)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.3)
    return network


def original_weights() -> dict[str, Tensor]:
    """A state dict of the original format."""
    torch.manual_seed(2)
    w = WIDTH
    shapes: dict[str, tuple[int, ...]] = {
        "x_embedder.proj.weight": (w, CHANNELS, PATCH, PATCH),
        "x_embedder.proj.bias": (w,),
        "t_embedder.mlp.0.weight": (w, 256),
        "t_embedder.mlp.0.bias": (w,),
        "t_embedder.mlp.2.weight": (w, w),
        "t_embedder.mlp.2.bias": (w,),
        "y_embedder.embedding_table.weight": (CLASSES + 1, w),
        "final_layer.linear.weight": (PATCH**2 * 2 * CHANNELS, w),
        "final_layer.linear.bias": (PATCH**2 * 2 * CHANNELS,),
        "final_layer.adaLN_modulation.1.weight": (2 * w, w),
        "final_layer.adaLN_modulation.1.bias": (2 * w,),
    }
    for i in range(LAYERS):
        for name, (out, into) in {
            "attn.qkv": (3 * w, w), "attn.proj": (w, w), "mlp.fc1": (4 * w, w), "mlp.fc2": (w, 4 * w),
            "adaLN_modulation.1": (6 * w, w),
        }.items():  # fmt: skip
            shapes[f"blocks.{i}.{name}.weight"] = (out, into)
            shapes[f"blocks.{i}.{name}.bias"] = (out,)
    return {name: 0.3 * torch.randn(shape) for name, shape in shapes.items()} | {"pos_embed": positions()}


def positions() -> Tensor:
    """[1, patches, width]: sines and cosines, of the column in the first half of the channels, then of the row."""
    rows, quarter = SIDE // PATCH, WIDTH // 4
    frequencies = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    table = []
    for row in range(rows):
        for column in range(rows):
            angles = [place * frequencies for place in (column, row)]
            table.append(torch.cat([part for a in angles for part in (a.sin(), a.cos())]))
    return torch.stack(table)[None].float()


def tiny_vae() -> AutoencoderKL:
    torch.manual_seed(3)
    blocks = ("DownEncoderBlock2D", "DownEncoderBlock2D"), ("UpDecoderBlock2D", "UpDecoderBlock2D")
    return AutoencoderKL(
        down_block_types=blocks[0], up_block_types=blocks[1], block_out_channels=(8, 8), layers_per_block=1,
        latent_channels=CHANNELS, norm_num_groups=4, sample_size=2 * SIDE,
    )  # fmt: skip
