"""The diffusion transformer behind the model protocol, in pixels or in the latents of an autoencoder."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dualoptim_diffusion.diffusion.process import variational_bound
from dualoptim_diffusion.files.pipeline_folder import check_scheduler, class_names, class_of, forgotten_names
from dualoptim_diffusion.models.autoencoder import (
    downsampling,
    from_latents,
    latents_of,
    load_autoencoder,
    posterior_moments,
)
from dualoptim_diffusion.models.denoiser import Denoiser
from dualoptim_diffusion.models.dit_module import Block, DiTModule
from dualoptim_diffusion.models.saved_network import read_network
from dualoptim_diffusion.models.stock import check_process

if TYPE_CHECKING:
    from accelerate import Accelerator
    from diffusers import AutoencoderKL

STOCK_CLASSES = 1000  # the null class that diffusers' DiTPipeline takes for granted

PIPELINE_FILE = "from dualoptim_diffusion import ConditionalDiTPipeline  # noqa: F401\n"


class ConditionalDiT(Denoiser):
    """A DiT with the names of its classes; the label after the last is the null class.

    Args:
        network: with twice the channels out it has a learned variance, and its loss the term L_vb.
        id2label: names of all classes.
        forgotten: names of the classes that it was made to forget.
        vae: the autoencoder of its latents; none for a DiT of pixels.
    """

    network: DiTModule
    repeated_block = Block
    antithetic = False
    family = "dit"

    def __init__(
        self,
        network: DiTModule,
        id2label: dict[int, str],
        forgotten: Sequence[str] = (),
        vae: "AutoencoderKL | None" = None,
    ) -> None:
        if len(id2label) != network.num_classes:
            raise ValueError(f"its network knows {network.num_classes} classes, of which {len(id2label)} are named")
        shape = (network.in_channels, network.sample_size, network.sample_size)
        # the bound at t = 0 divides by 1 - abar_0 = 1e-4, of which float32 keeps four digits
        super().__init__(network, id2label, forgotten, network.null_class, shape, torch.float64)
        self.learned_variance = network.out_channels == 2 * network.in_channels
        self.vae = None if vae is None else vae.eval().requires_grad_(False)

    @property
    def class_tables(self) -> list[nn.Parameter]:
        table: Any = self.network.embedder.class_embedder.embedding_table
        return [table.weight]

    @property
    def middle(self) -> nn.Module:
        blocks = self.network.transformer_blocks
        return blocks[len(blocks) // 2]

    def fresh_network(self) -> DiTModule:
        return super().fresh_network().initialise()

    @property
    def image_shape(self) -> tuple[int, ...]:
        if self.vae is None:
            return self.x_0_shape
        factor = downsampling(self.vae)
        return (self.vae.config.out_channels, *(factor * side for side in self.x_0_shape[1:]))

    def prepare(
        self, accelerator: "Accelerator", precision: str = "fp32", channels_last: bool = False, compiled: bool = False
    ) -> None:
        super().prepare(accelerator, precision, channels_last, compiled)
        if self.vae is not None:
            self.vae.to(accelerator.device)

    def loss(
        self, x_0: Tensor, timesteps: Tensor, noise: Tensor, class_labels: Tensor, guidance_scale: float = 1.0
    ) -> Tensor:
        """Loss of each sample [B]: squared error averaged over channels and pixels, plus L_vb in bits a dimension."""
        x_t = self.add_noise(x_0, noise, timesteps)
        output = self.predict(x_t, timesteps, class_labels, guidance_scale)
        losses = (noise - output[:, : noise.shape[1]]).square().flatten(1).mean(1)
        return losses + variational_bound(output, x_0, x_t, timesteps) if self.learned_variance else losses

    @property
    def autoencoder(self) -> "AutoencoderKL | None":
        return self.vae

    def moments(self, images: Tensor) -> Tensor:
        """uint8 images -> mean and log variance of the autoencoder's posterior, [B, 2 C, h, w]."""
        assert self.vae is not None
        return posterior_moments(self.vae, super().encode(images))

    def from_moments(self, moments: Tensor, noise: Tensor | None = None) -> Tensor:
        """Those -> latents: drawn with `noise` [B, C, h, w] from a standard normal, or the means without it."""
        assert self.vae is not None
        return latents_of(self.vae, moments, noise)

    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """uint8 images -> x_0: in [-1, 1], or latents as `from_moments` makes them."""
        return super().encode(images) if self.vae is None else self.from_moments(self.moments(images), noise)

    def decode(self, x_0: Tensor) -> Tensor:
        """x_0 -> uint8 images."""
        return super().decode(x_0 if self.vae is None else from_latents(self.vae, x_0))

    def save(self, folder: Path) -> None:
        """Writes a pipeline folder: diffusers' own `DiTPipeline` where that can draw it, else ours."""
        from dualoptim_diffusion.models.dit_pipeline import ConditionalDiTPipeline

        if self.vae is not None and self.num_classes == STOCK_CLASSES and self.network.velocity is None:
            return self.save_stock(folder)
        parts = (self.network, self.id2label, self.forgotten, self.vae, self.make_scheduler())
        ConditionalDiTPipeline.from_parts(*parts).save_pretrained(folder)
        (Path(folder) / "pipeline.py").write_text(PIPELINE_FILE, encoding="utf-8")
        return None

    def save_stock(self, folder: Path) -> None:
        """Writes diffusers' own networks and scheduler, in the form of its `DiTPipeline`, with the names of classes."""
        from diffusers import DiTPipeline

        from dualoptim_diffusion.models.dit_network import DiT

        DiTPipeline(DiT.of(self.network).to_stock(), self.vae, self.make_scheduler()).save_pretrained(folder)
        index = Path(folder) / "model_index.json"  # diffusers leaves the names out
        names = {"id2label": {str(i): name for i, name in self.id2label.items()}, "forgotten": self.forgotten}
        content = json.loads(index.read_text(encoding="utf-8")) | names
        index.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> "ConditionalDiT":
        """Reads such a folder, or one of diffusers' `DiTPipeline`.

        Raises:
            InputError: if it is of another diffusion process.
        """
        check_process(folder)
        if class_of(folder, "transformer") == "DiT":
            check_scheduler(folder)
            network = read_network(DiTModule, Path(folder) / "transformer").to(device)
            names = class_names(folder) or {i: str(i) for i in range(network.num_classes)}
            vae = None if class_of(folder, "vae") is None else load_autoencoder(str(folder)).to(device)
            return cls(network, names, forgotten_names(folder), vae)
        from dualoptim_diffusion.models.dit_pipeline import ConditionalDiTPipeline
        from dualoptim_diffusion.models.parts import read_parts

        pipeline = ConditionalDiTPipeline.from_pretrained(folder, **read_parts(folder))
        return cls(pipeline.to(device).transformer, pipeline.id2label, pipeline.forgotten, pipeline.vae)
