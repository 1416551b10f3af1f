"""The native conditional DDPM U-Net: time and class embeddings are concatenated, the null class is a learned vector.

Everything between the two embeddings and the output is diffusers' own `UNet2DModel`.
"""

from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

MIN_CHANNELS_PER_GROUP = 2  # with one channel a group, GroupNorm removes the added time and class signal


class TimeHalf(nn.Module):
    """Sinusoidal features [B, width] -> [B, 8 width]: the time MLP in the low half, zeros in the high half."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = TimestepEmbedding(width, 4 * width)

    def forward(self, features: Tensor) -> Tensor:
        embedding = self.mlp(features)  # [B, 4 width]
        return torch.cat([embedding, torch.zeros_like(embedding)], dim=1)


class ClassHalf(nn.Module):
    """Labels [B] -> [B, 8 width]: zeros low, the class MLP in the high half; label `num_classes` is null."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(num_classes, width)
        self.null = nn.Parameter(torch.randn(width))
        self.mlp = TimestepEmbedding(width, 4 * width)

    def forward(self, class_labels: Tensor) -> Tensor:
        rows = torch.cat([self.table.weight, self.null[None]])  # [num_classes + 1, width]
        embedding = self.mlp(rows[class_labels])  # the null vector enters before the MLP
        return torch.cat([torch.zeros_like(embedding), embedding], dim=1)


class ConditionalUNet(ModelMixin, ConfigMixin):
    """Predicts the noise in x_t given the timestep and the class.

    Adding the zero-padded halves inside `UNet2DModel` is the concatenation of the published model. At the defaults
    (the CIFAR-10 setting) it has 38,632,323 parameters.

    Args:
        sample_size: height and width of x_t in pixels; every level but the last halves it.
        in_channels: channels of x_t and of the predicted noise.
        num_classes: classes without the null class, whose label is `num_classes`.
        width: channels of the first level; time and class embeddings have 4 x width each.
        multipliers: channels of each level as multiples of `width`.
        layers_per_block: residual blocks a level on the way down (one more on the way up).
        attention_resolutions: heights at which attention follows each residual block.
        mid_attention: attention between the two residual blocks in the middle.
        dropout: rate inside the residual blocks.
        norm_groups: groups of every GroupNorm; each needs at least two channels.

    Raises:
        ValueError: if the sample size cannot be halved often enough or a group would have fewer than two channels.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        sample_size: int = 32,
        in_channels: int = 3,
        num_classes: int = 10,
        width: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        layers_per_block: int = 2,
        attention_resolutions: Sequence[int] = (16,),
        mid_attention: bool = True,
        dropout: float = 0.1,
        norm_groups: int = 32,
    ) -> None:
        super().__init__()
        channels = [width * m for m in multipliers]
        stride = 2 ** (len(channels) - 1)
        if sample_size % stride:
            low = sample_size // stride * stride
            raise ValueError(
                f"sample_size {sample_size} cannot be halved {len(channels) - 1} times; "
                f"the nearest sizes that can are {' and '.join(str(s) for s in (low, low + stride) if s)}."
            )
        if any(c % norm_groups or c // norm_groups < MIN_CHANNELS_PER_GROUP for c in channels):
            raise ValueError(
                f"norm_groups {norm_groups} must divide every width {channels} and leave at least "
                f"{MIN_CHANNELS_PER_GROUP} channels a group; choose at most {width // MIN_CHANNELS_PER_GROUP}."
            )
        with_attention = [sample_size >> level in attention_resolutions for level in range(len(channels))]
        self.unet = UNet2DModel(
            sample_size=sample_size,
            in_channels=in_channels,
            out_channels=in_channels,
            time_embedding_dim=8 * width,
            freq_shift=1,
            flip_sin_to_cos=False,
            down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in with_attention),
            up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(with_attention)),
            block_out_channels=tuple(channels),
            layers_per_block=layers_per_block,
            downsample_padding=0,
            attention_head_dim=None,  # one head
            norm_num_groups=norm_groups,
            norm_eps=1e-6,
            dropout=dropout,
            add_attention=mid_attention,
        )
        self.unet.time_embedding = TimeHalf(width)
        self.unet.class_embedding = ClassHalf(num_classes, width)

    @property
    def null_class(self) -> int:
        """The label that stands for no class."""
        return self.config.num_classes

    def forward(
        self, sample: Tensor, timestep: Tensor | float, class_labels: Tensor, return_dict: bool = True
    ) -> UNet2DOutput | tuple[Tensor]:
        """x_t [B, C, H, W], timesteps 0..999 [B], labels 0..num_classes [B] -> predicted noise [B, C, H, W]."""
        return self.unet(sample, timestep, class_labels, return_dict=return_dict)
