"""The diffusion transformer (DiT, Peebles and Xie, ICCV 2023) in plain torch, with one pair of embedders, as published.

Parameters have diffusers' names, and blocks its operations in its order. Its own `DiTTransformer2DModel` gives each
block a copy of the time and label embedders and drops labels in each of them independently, so training it is not
training a DiT; and loading diffusers takes longer than loading torch.
"""

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from dualoptim_diffusion.diffusion.process import FLOW, implied_noise, linear_alphas_cumprod, network_input
from dualoptim_diffusion.models.unet_layers import MAX_PERIOD, EmbeddingMLP, passed, sinusoids

TIME_CHANNELS = 256
EPS = 1e-6


class LabelEmbedding(nn.Module):
    """The table [classes + 1, width] under the name that diffusers gives it; its last row is the null class."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(rows, width)


class Embedder(nn.Module):
    """Timesteps [B] and labels [B] -> conditioning [B, width]; labels are dropped by the caller, once a sample."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.timestep_embedder = EmbeddingMLP(TIME_CHANNELS, width)
        self.class_embedder = LabelEmbedding(rows, width)

    def forward(self, timesteps: Tensor, class_labels: Tensor, dtype: torch.dtype) -> Tensor:
        sines, cosines = sinusoids(timesteps, TIME_CHANNELS)
        time: Tensor = self.timestep_embedder(torch.cat([cosines, sines], dim=1).to(dtype))
        return time + self.class_embedder.embedding_table(class_labels)


class PatchEmbedding(nn.Module):
    """x_t [B, C, H, W] -> tokens [B, patches, width] with their fixed positions."""

    pos_embed: Tensor

    def __init__(self, side: int, patch_size: int, in_channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, patch_size, patch_size)
        self.register_buffer("pos_embed", positions(side // patch_size, width), persistent=False)

    def forward(self, x_t: Tensor) -> Tensor:
        tokens: Tensor = self.proj(x_t).flatten(2).transpose(1, 2)
        return (tokens + self.pos_embed).to(tokens.dtype)


def positions(side: int, width: int) -> Tensor:
    """Sines and cosines of each patch's column, then of its row: [1, side^2, width]."""
    frequencies = 1 / MAX_PERIOD ** (torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    angles = torch.outer(torch.arange(side, dtype=torch.float64), frequencies)
    line = torch.cat([angles.sin(), angles.cos()], dim=1)  # [side, width / 2]
    return torch.cat([line.repeat(side, 1), line.repeat_interleave(side, 0)], dim=1)[None].float()


class AdaLNZero(nn.Module):
    """Conditioning [B, width] -> six vectors [B, 1, width] that shift, scale and gate a block's two halves."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 6 * width)

    def forward(self, conditioning: Tensor) -> list[Tensor]:
        vectors: Tensor = self.linear(functional.silu(conditioning))
        return [part[:, None] for part in vectors.chunk(6, dim=1)]


class Attention(nn.Module):
    """Self-attention of several heads: tokens [B, N, width] -> the same."""

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, tokens: Tensor) -> Tensor:
        layers = (self.to_q, self.to_k, self.to_v)
        query, key, value = (layer(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in layers)
        attended = functional.scaled_dot_product_attention(query, key, value)  # [B, heads, N, width / heads]
        output: Tensor = self.to_out[0](attended.transpose(1, 2).flatten(2))
        return output


class GELU(nn.Module):
    """A linear layer and the tanh form of GELU."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, out)

    def forward(self, tokens: Tensor) -> Tensor:
        return functional.gelu(self.proj(tokens), approximate="tanh")


class FeedForward(nn.Module):
    """Tokens [B, N, width] -> the same, through 4 x width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GELU(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        output: Tensor = self.net(tokens)
        return output


class Block(nn.Module):
    """A transformer block with adaLN-Zero: tokens [B, N, width] and conditioning [B, width] -> tokens."""

    def __init__(self, width: int, heads: int, norm_eps: float) -> None:
        super().__init__()
        Embedder(2, width)  # diffusers' copy of it, which it is made without: a seed keeps its random weights
        self.norm1 = AdaLNZero(width)
        self.attn1 = Attention(heads, width)
        self.ff = FeedForward(width)
        self.width, self.norm_eps = width, norm_eps

    def forward(self, tokens: Tensor, conditioning: Tensor) -> Tensor:
        shift, scale, gate, shift_ff, scale_ff, gate_ff = self.norm1(conditioning)
        normed = functional.layer_norm(tokens, [self.width], eps=EPS)
        tokens = gate * self.attn1(normed * (1 + scale) + shift) + tokens
        normed = functional.layer_norm(tokens, [self.width], eps=self.norm_eps)
        return gate_ff * self.ff(normed * (1 + scale_ff) + shift_ff) + tokens


@lru_cache(maxsize=4)
def _alphas_cumprod(device: torch.device) -> Tensor:
    return linear_alphas_cumprod(dtype=torch.float64).to(device)


class DiTModule(nn.Module):
    """Predicts the noise in x_t, and with twice the channels its variance, given the timestep and the class.

    At the defaults it is DiT-XL/2 for 32 x 32 latents: 674,834,720 weights, and 294,912 fixed numbers of position.

    Args:
        sample_size: height and width of x_t.
        in_channels: channels of x_t.
        out_channels: as many, or twice as many with a learned variance.
        num_classes: classes without the null class, whose label is `num_classes`.
        num_layers, num_attention_heads, attention_head_dim: of the transformer; its width is heads x head dimension.
        patch_size: side of a patch, which divides `sample_size`.
        norm_eps: of the layer norm before each feed-forward; published weights were trained with 1e-6.
        velocity: that its transformer predicts along the straight path, with times in [0, 1]: "to_data" (x_0 - noise,
            data at 1, as SiT) or "to_noise" (noise - x_0, noise at 1, as REPA). The network turns it into the noise at
            the same ratio of signal to noise. None = its transformer predicts noise.

    Raises:
        ValueError: if patches do not tile x_t, the width is no multiple of 4, as positions need it, or a velocity is
            of another kind or has a variance beside it.
    """

    def __init__(
        self,
        sample_size: int = 32,
        in_channels: int = 4,
        out_channels: int = 8,
        num_classes: int = 1000,
        num_layers: int = 28,
        num_attention_heads: int = 16,
        attention_head_dim: int = 72,
        patch_size: int = 2,
        norm_eps: float = EPS,
        velocity: Literal["to_data", "to_noise"] | None = None,
    ) -> None:
        super().__init__()
        self.arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        width = num_attention_heads * attention_head_dim
        if sample_size % patch_size:
            raise ValueError(f"patch_size {patch_size} does not divide the side {sample_size} of the images")
        if width % 4:
            raise ValueError(f"the width {width} (heads x head dimension) is no multiple of 4")
        if out_channels not in (in_channels, 2 * in_channels):
            raise ValueError(f"out_channels is {out_channels}, expected {in_channels} or {2 * in_channels}")
        if velocity is not None and (velocity not in ("to_data", "to_noise") or out_channels != in_channels):
            raise ValueError(f"velocity is {velocity!r} with {out_channels} channels out of {in_channels}")
        self.velocity = velocity
        self.sample_size, self.in_channels, self.out_channels = sample_size, in_channels, out_channels
        self.num_classes, self.patch_size = num_classes, patch_size
        self.embedder = Embedder(num_classes + 1, width)
        self.pos_embed = PatchEmbedding(sample_size, patch_size, in_channels, width)
        self.transformer_blocks = nn.ModuleList(Block(width, num_attention_heads, norm_eps) for _ in range(num_layers))
        self.norm_out = nn.LayerNorm(width, elementwise_affine=False, eps=EPS)
        self.proj_out_1 = nn.Linear(width, 2 * width)
        self.proj_out_2 = nn.Linear(width, patch_size**2 * out_channels)
        self.checkpoints = False  # recomputes the blocks in the backward pass

    @property
    def null_class(self) -> int:
        """The label that stands for no class."""
        return self.num_classes

    @torch.no_grad()
    def initialise(self) -> "DiTModule":
        """Fresh weights as published: Xavier in linear layers, zeros where a block or the output begins (adaLN-Zero).

        A fresh network returns 0 whatever it is given.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight.flatten(1))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        embedder = self.embedder.timestep_embedder
        for weight in (embedder.linear_1.weight, embedder.linear_2.weight):
            nn.init.normal_(weight, std=0.02)
        nn.init.normal_(self.embedder.class_embedder.embedding_table.weight, std=0.02)
        for name, parameter in self.named_parameters():
            if ".norm1.linear." in name or name.startswith("proj_out_"):
                nn.init.zeros_(parameter)
        return self

    def enable_gradient_checkpointing(self) -> None:
        """Recompute the blocks in the backward pass from now on, which keeps few activations."""
        self.checkpoints = True

    def forward(
        self, x_t: Tensor, timesteps: Tensor, class_labels: Tensor, return_dict: Literal[False] = False
    ) -> tuple[Tensor]:
        """x_t [B, C, H, W], timesteps [B], labels [B] -> [B, out_channels, H, W]."""
        if self.velocity is None:
            return (self._transformed(x_t, timesteps, class_labels),)
        abar = _alphas_cumprod(timesteps.device)[timesteps.long()].view(-1, 1, 1, 1)
        a, s = abar.sqrt(), (1 - abar).sqrt()
        time = ((a if self.velocity == "to_data" else s) / (a + s)).flatten().float()
        output = self._transformed(network_input(x_t, abar, FLOW), time, class_labels)
        return (implied_noise(-output if self.velocity == "to_data" else output, x_t, abar, FLOW),)

    def _transformed(self, x_t: Tensor, timesteps: Tensor, class_labels: Tensor) -> Tensor:
        """What the transformer makes of it."""
        tokens = self.pos_embed(x_t)  # [B, patches, width]
        conditioning = self.embedder(timesteps, class_labels, tokens.dtype)  # [B, width]
        for block in self.transformer_blocks:
            tokens = passed(block, tokens, conditioning, recompute=self.checkpoints)
        shift, scale = self.proj_out_1(functional.silu(conditioning)).chunk(2, dim=1)
        tokens = self.norm_out(tokens) * (1 + scale[:, None]) + shift[:, None]
        return self._unpatchify(self.proj_out_2(tokens))

    def _unpatchify(self, tokens: Tensor) -> Tensor:
        """[B, patches, p p C] -> [B, C, H, W]."""
        p, channels, rows = self.patch_size, self.out_channels, self.sample_size // self.patch_size
        grid = tokens.reshape(-1, rows, rows, p, p, channels)
        return grid.permute(0, 5, 1, 3, 2, 4).reshape(-1, channels, rows * p, rows * p)
