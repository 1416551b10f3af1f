"""The diffusion transformer (DiT, Peebles and Xie, ICCV 2023) with one pair of embedders, as it was published.

Blocks, patches and output layer are diffusers' own; its `DiTTransformer2DModel` gives each block a copy of the time and
label embedders and drops labels in each of them independently, so training it is not training a DiT.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from diffusers import ConfigMixin, DiTTransformer2DModel, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.embeddings import CombinedTimestepLabelEmbeddings, PatchEmbed, Timesteps
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor, nn
from torch.nn import functional

from dualoptim_diffusion.core.errors import InputError, reason

TIME_CHANNELS = 256
EMBEDDER = "embedder."
COPIED = ".norm1.emb."  # after `transformer_blocks.i`: where diffusers keeps a block's copy of it


class PassedOn(nn.Module):
    """In place of a block's own embedders: the embedding that is handed to the block in place of labels."""

    def forward(self, timestep: None, class_labels: Tensor, hidden_dtype: torch.dtype | None = None) -> Tensor:
        return class_labels


class DiT(ModelMixin, ConfigMixin):
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

    Raises:
        ValueError: if patches do not tile x_t, or the width is no multiple of 4, as positions need it.
    """

    _supports_gradient_checkpointing = True
    _repeated_blocks: ClassVar[list[str]] = ["BasicTransformerBlock"]  # for regional compilation

    @register_to_config
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
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        width = num_attention_heads * attention_head_dim
        if sample_size % patch_size:
            raise ValueError(f"patch_size {patch_size} does not divide the side {sample_size} of the images")
        if width % 4:
            raise ValueError(f"the width {width} (heads x head dimension) is no multiple of 4")
        if out_channels not in (in_channels, 2 * in_channels):
            raise ValueError(f"out_channels is {out_channels}, expected {in_channels} or {2 * in_channels}")
        self.null_class = num_classes
        self.embedder = CombinedTimestepLabelEmbeddings(num_classes, width)
        self.embedder.time_proj = Timesteps(TIME_CHANNELS, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.embedder.class_embedder.dropout_prob = 0.0  # labels are dropped by the caller, once a sample
        self.pos_embed = PatchEmbed(sample_size, sample_size, patch_size, in_channels, width)
        self.transformer_blocks = nn.ModuleList(
            BasicTransformerBlock(
                width,
                num_attention_heads,
                attention_head_dim,
                activation_fn="gelu-approximate",
                num_embeds_ada_norm=1,  # of embedders that are taken out below
                attention_bias=True,
                norm_type="ada_norm_zero",
                norm_elementwise_affine=False,
                norm_eps=norm_eps,
            )
            for _ in range(num_layers)
        )
        for block in self.transformer_blocks:
            block.norm1.emb = PassedOn()  # type: ignore[union-attr]
        self.norm_out = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.proj_out_1 = nn.Linear(width, 2 * width)
        self.proj_out_2 = nn.Linear(width, patch_size**2 * out_channels)
        self.gradient_checkpointing = False

    @torch.no_grad()
    def initialise(self) -> "DiT":
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

    def forward(
        self, x_t: Tensor, timesteps: Tensor, class_labels: Tensor, return_dict: bool = True
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """x_t [B, C, H, W], timesteps [B], labels [B] -> [B, out_channels, H, W]."""
        tokens = self.pos_embed(x_t)  # [B, patches, width]
        conditioning = self.embedder(timesteps, class_labels, hidden_dtype=tokens.dtype)  # [B, width]
        for block in self.transformer_blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                tokens = self._gradient_checkpointing_func(
                    block, tokens, None, None, None, None, None, conditioning
                )  # fmt: skip
            else:
                tokens = block(tokens, class_labels=conditioning)
        shift, scale = self.proj_out_1(functional.silu(conditioning)).chunk(2, dim=1)
        tokens = self.norm_out(tokens) * (1 + scale[:, None]) + shift[:, None]
        output = self._unpatchify(self.proj_out_2(tokens))
        return Transformer2DModelOutput(sample=output) if return_dict else (output,)

    def _unpatchify(self, tokens: Tensor) -> Tensor:
        """[B, patches, p p C] -> [B, C, H, W]."""
        p, channels = self.config.patch_size, self.config.out_channels
        rows = self.config.sample_size // p
        grid = tokens.reshape(-1, rows, rows, p, p, channels)
        return grid.permute(0, 5, 1, 3, 2, 4).reshape(-1, channels, rows * p, rows * p)

    @classmethod
    def from_stock(cls, stock: DiTTransformer2DModel) -> "DiT":
        """The network of a diffusers folder; its copies of the embedders become one.

        Raises:
            InputError: if the copies differ, or it is no DiT of the published kind.
        """
        config, weights = stock.config, stock.state_dict()
        first = f"transformer_blocks.0{COPIED}"
        own = {name: value for name, value in weights.items() if COPIED not in name}
        for name, value in weights.items():
            part = name.split(COPIED)[-1]
            if COPIED in name and not torch.equal(value, weights[first + part]):
                raise InputError(
                    f"The blocks of this DiT have different embedders ({name} is not the first block's): it was "
                    "trained without tying them, so it is no DiT that this package can train."
                )
        own |= {EMBEDDER + n.removeprefix(first): value for n, value in weights.items() if n.startswith(first)}
        network = cls(
            sample_size=config.sample_size,
            in_channels=config.in_channels,
            out_channels=config.out_channels or config.in_channels,
            num_classes=config.num_embeds_ada_norm,
            num_layers=config.num_layers,
            num_attention_heads=config.num_attention_heads,
            attention_head_dim=config.attention_head_dim,
            patch_size=config.patch_size,
            norm_eps=config.norm_eps,
        )
        _load(network, own)
        return network.eval()

    def to_stock(self) -> DiTTransformer2DModel:
        """The same weights as diffusers keeps them, every block with its copy of the embedders.

        diffusers' time embedding has other frequencies than the published network (i / 127 in place of i / 128), so its
        outputs differ slightly from these, as they do for every published DiT that it loads.
        """
        config = self.config
        stock = DiTTransformer2DModel(
            num_attention_heads=config.num_attention_heads,
            attention_head_dim=config.attention_head_dim,
            in_channels=config.in_channels,
            out_channels=config.out_channels,
            num_layers=config.num_layers,
            sample_size=config.sample_size,
            patch_size=config.patch_size,
            num_embeds_ada_norm=config.num_classes,
            norm_eps=config.norm_eps,
        )
        own = self.state_dict()
        weights = {name: value for name, value in own.items() if not name.startswith(EMBEDDER)}
        for i in range(config.num_layers):
            for name, value in own.items():
                if name.startswith(EMBEDDER):
                    weights[f"transformer_blocks.{i}{COPIED}{name.removeprefix(EMBEDDER)}"] = value
        _load(stock, weights)
        return stock.eval()


def _load(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"The weights are not of a DiT with adaLN-Zero blocks ({reason(error)}).") from None
