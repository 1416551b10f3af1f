"""The native U-Net as a diffusers model, for pipelines and the hub; loading it loads diffusers."""

from typing import TYPE_CHECKING

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from dualoptim_diffusion.models.saved_network import SharesWeights
from dualoptim_diffusion.models.unet_module import UNetModule

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d import UNet2DOutput


class ConditionalUNet(SharesWeights, UNetModule, ModelMixin, ConfigMixin):
    """`UNetModule`, whose arguments it takes, with `save_pretrained` and `from_pretrained`."""

    _supports_gradient_checkpointing = True
    __init__ = register_to_config(UNetModule.__init__)

    def forward(
        self, sample: Tensor, timestep: Tensor | float, class_labels: Tensor, return_dict: bool = True
    ) -> "UNet2DOutput | tuple[Tensor]":
        """x_t [B, C, H, W], timesteps 0..999 [B] or one, labels 0..num_classes [B] -> predicted noise [B, C, H, W]."""
        timesteps = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        output = super().forward(sample, timesteps, class_labels)
        if not return_dict:
            return output
        from diffusers.models.unets.unet_2d import UNet2DOutput

        return UNet2DOutput(sample=output[0])
