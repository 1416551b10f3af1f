"""Folding the native network into a stock `diffusers.UNet2DModel` with equal outputs."""

import torch
from diffusers import UNet2DModel

from dualoptim_diffusion.models.unet import ConditionalUNet

REPLACED = ("time_embedding.", "class_embedding.")


@torch.no_grad()
def fold(network: ConditionalUNet) -> UNet2DModel:
    """A stock network with the same output for every input; label `num_classes` stays the null label.

    The time MLP fills the low half of the doubled embedding and zeros the rest; row c of the class table
    [num_classes + 1, 8 width] is what the class MLP makes of label c. Training the two differs: the table is no MLP.
    """
    native = network.unet
    rows = torch.arange(network.config.num_classes + 1, device=native.conv_in.weight.device)
    stock = UNet2DModel.from_config(native.config, num_class_embeds=len(rows))
    state = {name: value for name, value in native.state_dict().items() if not name.startswith(REPLACED)}
    for name, value in native.time_embedding.mlp.state_dict().items():
        padded = torch.zeros_like(stock.get_parameter(f"time_embedding.{name}"), device=value.device)
        padded[tuple(slice(n) for n in value.shape)] = value
        state[f"time_embedding.{name}"] = padded
    state["class_embedding.weight"] = native.class_embedding(rows)
    stock.load_state_dict(state)
    return stock.to(native.conv_in.weight.device).eval()
