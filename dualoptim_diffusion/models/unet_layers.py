"""The layers of the U-Net, and the embeddings that it shares with the transformer, in plain torch."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

EPS = 1e-6  # of every GroupNorm
MAX_PERIOD = 10_000


def sinusoids(timesteps: Tensor, width: int, shift: int = 0) -> tuple[Tensor, Tensor]:
    """Sines and cosines of timesteps [B] at width / 2 frequencies from 1 to about 1 / 10,000, each [B, width / 2].

    Args:
        shift: 1 divides the exponents by one less, as DDPM does; 0 as the transformer's.
    """
    half = width // 2
    exponents = -math.log(MAX_PERIOD) * torch.arange(half, dtype=torch.float32, device=timesteps.device)
    angles = timesteps[:, None].float() * (exponents / (half - shift)).exp()
    return angles.sin(), angles.cos()


def passed(block: nn.Module, *inputs: Tensor, recompute: bool) -> Tensor:
    """What the block makes of its inputs; its activations are kept, or computed again in the backward pass."""
    if recompute and torch.is_grad_enabled():
        output: Tensor = checkpoint(block, *inputs, use_reentrant=False)
    else:
        output = block(*inputs)
    return output


class EmbeddingMLP(nn.Module):
    """Features [B, width] -> embedding [B, out]."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, out)
        self.linear_2 = nn.Linear(out, out)

    def forward(self, features: Tensor) -> Tensor:
        embedding: Tensor = self.linear_2(functional.silu(self.linear_1(features)))
        return embedding


class TimeEmbedding(nn.Module):
    """Timesteps [B] -> [B, 4 width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.mlp = EmbeddingMLP(width, 4 * width)

    def forward(self, timesteps: Tensor) -> Tensor:
        features = torch.cat(sinusoids(timesteps, self.width, shift=1), dim=1)
        embedding: Tensor = self.mlp(features.to(self.mlp.linear_1.weight.dtype))
        return embedding


class ClassEmbedding(nn.Module):
    """Labels [B] -> [B, 4 width]; the label `num_classes` is null, and its vector enters before the MLP."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(num_classes, width)
        self.null = nn.Parameter(torch.randn(width))
        self.mlp = EmbeddingMLP(width, 4 * width)

    def forward(self, class_labels: Tensor) -> Tensor:
        rows = torch.cat([self.table.weight, self.null[None]])  # [num_classes + 1, width]
        embedding: Tensor = self.mlp(rows[class_labels])
        return embedding


class ResnetBlock(nn.Module):
    """Features [B, in, H, W] and embedding [B, E] -> [B, out, H, W]."""

    def __init__(self, in_channels: int, out_channels: int, embedding: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, EPS)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(embedding, out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels, EPS)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = None if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.conv1(functional.silu(self.norm1(x)))
        hidden = hidden + self.time_emb_proj(functional.silu(embedding))[:, :, None, None]
        hidden = self.conv2(self.dropout(functional.silu(self.norm2(hidden))))
        shortcut: Tensor = x if self.conv_shortcut is None else self.conv_shortcut(x)
        return shortcut + hidden


class Attention(nn.Module):
    """Self-attention of one head over all pixels, added to its input: [B, C, H, W] -> the same."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, EPS)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.group_norm(x.flatten(2)).transpose(1, 2)  # [B, H W, C]
        query, key, value = (layer(tokens)[:, None] for layer in (self.to_q, self.to_k, self.to_v))
        attended = functional.scaled_dot_product_attention(query, key, value)[:, 0]
        return self.to_out[0](attended).transpose(1, 2).reshape(x.shape) + x


class Convolution(nn.Module):
    """The convolution of a change of resolution, under the name that diffusers gives it."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride, padding=1 if stride == 1 else 0)

    def forward(self, x: Tensor) -> Tensor:
        convolved: Tensor = self.conv(x)
        return convolved
