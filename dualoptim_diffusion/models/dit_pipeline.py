"""A diffusers pipeline for DiT: classes by name, in pixels or in the latents of an autoencoder."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from diffusers import AutoencoderKL, DiTTransformer2DModel
from torch import Tensor

from dualoptim_diffusion.diffusion.sampling import make_scheduler
from dualoptim_diffusion.models.autoencoder import from_latents
from dualoptim_diffusion.models.dit_module import DiTModule
from dualoptim_diffusion.models.dit_network import DiT
from dualoptim_diffusion.models.pipeline import ClassPipeline


class ConditionalDiTPipeline(ClassPipeline):
    """Draws images of named classes; reads folders of diffusers' `DiTPipeline` too.

    Example:
        >>> pipeline = ConditionalDiTPipeline.from_pretrained("facebook/DiT-XL-2-256")
        >>> images = pipeline(["golden retriever"] * 4, seeds=range(4), guidance_scale=4.0).images
    """

    model_cpu_offload_seq = "transformer->vae"
    _optional_components: ClassVar[list[str]] = ["vae"]

    def __init__(
        self,
        transformer: DiT | DiTTransformer2DModel,
        scheduler: Any,
        vae: AutoencoderKL | None = None,
        id2label: Mapping[str, str] | None = None,
        forgotten: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        network = transformer if isinstance(transformer, DiT) else DiT.from_stock(transformer)
        self.register_modules(transformer=network, scheduler=scheduler, vae=vae)
        names = {int(i): name for i, name in (id2label or {}).items()}
        names = names or {i: str(i) for i in range(network.num_classes)}
        self.register_names(network.null_class, names, forgotten)

    @classmethod
    def from_parts(
        cls,
        network: DiTModule,
        id2label: Mapping[int, str],
        forgotten: Sequence[str] = (),
        vae: AutoencoderKL | None = None,
        scheduler: Any = None,
    ) -> "ConditionalDiTPipeline":
        """A pipeline around a network, with DDIM if no other scheduler is given."""
        names = {str(i): name for i, name in id2label.items()}
        return cls(DiT.of(network), scheduler or make_scheduler("ddim"), vae, names, forgotten)

    @property
    def network(self) -> Any:
        return self.transformer

    def shape(self) -> tuple[int, ...]:
        network = self.transformer
        return network.in_channels, network.sample_size, network.sample_size

    def pixels(self, x_0: Tensor) -> Tensor:
        return x_0 if self.vae is None else from_latents(self.vae, x_0)
