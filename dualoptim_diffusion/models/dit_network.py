"""The diffusion transformer as a diffusers model, and diffusers' own form of it; loading it loads diffusers."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor, nn

from dualoptim_diffusion.core.errors import InputError, reason
from dualoptim_diffusion.models.dit_module import DiTModule
from dualoptim_diffusion.models.saved_network import SharesWeights

if TYPE_CHECKING:
    from diffusers import DiTTransformer2DModel

EMBEDDER = "embedder."
COPIED = ".norm1.emb."  # after `transformer_blocks.i`: where diffusers keeps a block's copy of it


class DiT(SharesWeights, DiTModule, ModelMixin, ConfigMixin):
    """`DiTModule`, whose arguments it takes, with `save_pretrained` and `from_pretrained`."""

    _supports_gradient_checkpointing = True
    __init__ = register_to_config(DiTModule.__init__)

    def forward(
        self, x_t: Tensor, timesteps: Tensor, class_labels: Tensor, return_dict: bool = True
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """x_t [B, C, H, W], timesteps [B], labels [B] -> [B, out_channels, H, W]."""
        output = super().forward(x_t, timesteps, class_labels)
        return Transformer2DModelOutput(sample=output[0]) if return_dict else output

    @classmethod
    def from_stock(cls, stock: "DiTTransformer2DModel") -> "DiT":
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
        return network.to(stock.dtype).eval()

    def to_stock(self) -> "DiTTransformer2DModel":
        """The same weights as diffusers keeps them, every block with its copy of the embedders.

        diffusers' time embedding has other frequencies than the published network (i / 127 in place of i / 128), so its
        outputs differ slightly from these, as they do for every published DiT that it loads.

        Raises:
            InputError: if the network is one of velocity.
        """
        from diffusers import DiTTransformer2DModel

        arguments = dict(self.arguments)
        if arguments.pop("velocity") is not None:
            raise InputError("A network of velocity has no form in diffusers; keep it as a folder of this package.")
        stock = DiTTransformer2DModel(num_embeds_ada_norm=arguments.pop("num_classes"), **arguments)
        own = self.state_dict()
        weights = {name: value for name, value in own.items() if not name.startswith(EMBEDDER)}
        for i in range(len(self.transformer_blocks)):
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
