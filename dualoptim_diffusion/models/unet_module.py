"""The conditional DDPM U-Net in plain torch: time and class embeddings are concatenated, the null class is a vector.

Between the embeddings and the output it is the network of DDPM (Ho et al., 2020) as diffusers' `UNet2DModel` has it:
its names of parameters, its operations in its order. Loading diffusers takes longer than loading torch.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from dualoptim_diffusion.models.unet_layers import (
    EPS,
    Attention,
    ClassEmbedding,
    Convolution,
    EmbeddingMLP,
    ResnetBlock,
    TimeEmbedding,
    passed,
)

MIN_CHANNELS_PER_GROUP = 2  # with one channel a group, GroupNorm removes the added time and class signal


class Level(nn.Module):
    """Residual blocks of one resolution, each followed by attention if the level attends.

    Args:
        widths: channels that each block is given.
        out_channels: channels that each returns.
    """

    def __init__(
        self, widths: Sequence[int], out_channels: int, embedding: int, groups: int, dropout: float, attends: bool
    ) -> None:
        super().__init__()
        blocks, attentions = [], []
        for width in widths:  # one after the other, which decides their random weights
            blocks.append(ResnetBlock(width, out_channels, embedding, groups, dropout))
            if attends:
                attentions.append(Attention(out_channels, groups))
        if attends:
            self.attentions = nn.ModuleList(attentions)
        self.resnets = nn.ModuleList(blocks)
        self.checkpoints = False  # recomputes the blocks in the backward pass

    def block(self, index: int, x: Tensor, embedding: Tensor) -> Tensor:
        """One block and its attention."""
        x = passed(self.resnets[index], x, embedding, recompute=self.checkpoints)
        return self.attentions[index](x) if hasattr(self, "attentions") else x


class Down(Level):
    """A level on the way down; it returns all that the way up takes from it, its result last."""

    def __init__(self, widths: Sequence[int], out_channels: int, *common: Any, halves: bool) -> None:
        super().__init__(widths, out_channels, *common)
        if halves:
            self.downsamplers = nn.ModuleList([Convolution(out_channels, stride=2)])

    def forward(self, x: Tensor, embedding: Tensor) -> list[Tensor]:
        results = []
        for index in range(len(self.resnets)):
            results.append(x := self.block(index, x, embedding))
        if hasattr(self, "downsamplers"):
            results.append(self.downsamplers[0](functional.pad(x, (0, 1, 0, 1))))
        return results


class Up(Level):
    """A level on the way up; it takes from the end of `skips`, and takes it away, what belongs to it."""

    def __init__(self, widths: Sequence[int], out_channels: int, *common: Any, doubles: bool) -> None:
        super().__init__(widths, out_channels, *common)
        if doubles:
            self.upsamplers = nn.ModuleList([Convolution(out_channels, stride=1)])

    def forward(self, x: Tensor, embedding: Tensor, skips: list[Tensor]) -> Tensor:
        for index in range(len(self.resnets)):
            x = self.block(index, torch.cat([x, skips.pop()], dim=1), embedding)
        if hasattr(self, "upsamplers"):
            x = self.upsamplers[0](functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return x


class Middle(nn.Module):
    """Two residual blocks, with attention between them if it attends."""

    def __init__(self, channels: int, embedding: int, groups: int, dropout: float, attends: bool) -> None:
        super().__init__()
        first = ResnetBlock(channels, channels, embedding, groups, dropout)
        self.attentions = nn.ModuleList([Attention(channels, groups)] if attends else [])
        self.resnets = nn.ModuleList([first, ResnetBlock(channels, channels, embedding, groups, dropout)])
        self.checkpoints = False

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        x = self.resnets[0](x, embedding)
        for attention in self.attentions:
            x = attention(x)
        return passed(self.resnets[1], x, embedding, recompute=self.checkpoints)


class UNet(nn.Module):
    """x_t [B, C, H, W], timesteps [B] and labels [B] -> predicted noise [B, C, H, W]."""

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: Sequence[int],
        layers_per_block: int,
        attends: Sequence[bool],
        mid_attention: bool,
        dropout: float,
        groups: int,
    ) -> None:
        super().__init__()
        width, last = channels[0], len(channels) - 1
        common = (8 * width, groups, dropout)
        above = [width, *channels[:-1]]  # channels of the level above each
        conv_in = nn.Conv2d(in_channels, width, 3, padding=1)
        EmbeddingMLP(width, 8 * width)  # diffusers' own, which it is made without: a seed keeps its random weights
        down = [
            Down([above[i]] + [c] * (layers_per_block - 1), c, *common, attends[i], halves=i < last)
            for i, c in enumerate(channels)
        ]
        middle = Middle(channels[-1], *common, mid_attention)
        up = []
        for i, c in reversed(list(enumerate(channels))):
            own = [channels[min(i + 1, last)]] + [c] * layers_per_block
            skips = [c] * layers_per_block + [above[i]]
            widths = [a + b for a, b in zip(own, skips, strict=True)]
            up.append(Up(widths, c, *common, attends[i], doubles=i > 0))
        conv_out = nn.Conv2d(width, in_channels, 3, padding=1)

        self.conv_in = conv_in  # registered in the order in which optimizers know the parameters
        self.time_embedding = TimeEmbedding(width)
        self.down_blocks, self.up_blocks, self.mid_block = nn.ModuleList(down), nn.ModuleList(up), middle
        self.conv_norm_out = nn.GroupNorm(groups, width, EPS)
        self.conv_out = conv_out
        self.class_embedding = ClassEmbedding(num_classes, width)

    def forward(self, x_t: Tensor, timesteps: Tensor, class_labels: Tensor) -> Tensor:
        dtype = self.conv_in.weight.dtype
        parts = self.time_embedding(timesteps), self.class_embedding(class_labels)
        embedding = torch.cat([part.to(dtype) for part in parts], dim=1)  # [B, 8 width]
        skips = [x := self.conv_in(x_t)]
        for level in self.down_blocks:
            skips += level(x, embedding)
            x = skips[-1]
        x = self.mid_block(x, embedding)
        for level in self.up_blocks:
            x = level(x, embedding, skips)
        noise: Tensor = self.conv_out(functional.silu(self.conv_norm_out(x)))
        return noise


class UNetModule(nn.Module):
    """Predicts the noise in x_t given the timestep and the class.

    Time and class embeddings have 4 x width numbers each, and every residual block sees both, one beside the other. At
    the defaults (the CIFAR-10 setting) it has 38,632,323 parameters.

    Args:
        sample_size: height and width of x_t in pixels; every level but the last halves it.
        in_channels: channels of x_t and of the predicted noise.
        num_classes: classes without the null class, whose label is `num_classes`.
        width: channels of the first level.
        multipliers: channels of each level as multiples of `width`.
        layers_per_block: residual blocks a level on the way down (one more on the way up).
        attention_resolutions: heights at which attention follows each residual block.
        mid_attention: attention between the two residual blocks in the middle.
        dropout: rate inside the residual blocks.
        norm_groups: groups of every GroupNorm; each needs at least two channels.

    Raises:
        ValueError: if the sample size cannot be halved often enough or a group would have fewer than two channels.
    """

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
        self.arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
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
        self.sample_size, self.in_channels, self.num_classes = sample_size, in_channels, num_classes
        attends = [sample_size >> level in attention_resolutions for level in range(len(channels))]
        self.unet = UNet(
            in_channels, num_classes, channels, layers_per_block, attends, mid_attention, dropout, norm_groups
        )

    @property
    def null_class(self) -> int:
        """The label that stands for no class."""
        return self.num_classes

    def enable_gradient_checkpointing(self) -> None:
        """Recompute the residual blocks in the backward pass from now on, which keeps few activations."""
        for part in [*self.unet.down_blocks, self.unet.mid_block, *self.unet.up_blocks]:
            part.checkpoints = True

    def forward(
        self, x_t: Tensor, timesteps: Tensor, class_labels: Tensor, return_dict: Literal[False] = False
    ) -> tuple[Tensor]:
        """x_t [B, C, H, W], timesteps 0..999 [B], labels 0..num_classes [B] -> predicted noise [B, C, H, W]."""
        return (self.unet(x_t, timesteps, class_labels),)
