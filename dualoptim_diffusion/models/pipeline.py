"""Diffusers pipelines of named classes, one seed an image, with guidance; the conditional DDPM's."""

from collections.abc import Sequence
from typing import Any

from diffusers import DiffusionPipeline, ImagePipelineOutput, UNet2DModel
from torch import Tensor

from dualoptim_diffusion.core.classes import resolve_class
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.diffusion.process import guided_noise_pred
from dualoptim_diffusion.diffusion.sampling import draw, make_scheduler
from dualoptim_diffusion.models.images import decode_images, to_pil
from dualoptim_diffusion.models.stock import table_rows, x_0_shape
from dualoptim_diffusion.models.unet import ConditionalUNet
from dualoptim_diffusion.models.unet_module import UNetModule


class ClassPipeline(DiffusionPipeline):
    """What pipelines of named classes share: labels, seeds, guidance."""

    null_class: int | None
    id2label: dict[int, str]
    forgotten: list[str]  # names of the classes that it was made to forget

    @property
    def network(self) -> Any:
        """The module that predicts the noise."""
        raise NotImplementedError

    def shape(self) -> tuple[int, ...]:
        """Of one x_0."""
        raise NotImplementedError

    def decode(self, x_0: Tensor) -> Tensor:
        """x_0 [B, C, H, W] -> uint8 images."""
        return decode_images(x_0)

    def register_names(self, null_class: int | None, id2label: dict[int, str], forgotten: Sequence[str] | None) -> None:
        """Keeps the names, and has them saved in model_index.json."""
        self.null_class, self.id2label, self.forgotten = null_class, id2label, list(forgotten or ())
        names = {str(i): name for i, name in id2label.items()}
        self.register_to_config(id2label=names, forgotten=self.forgotten)

    def __call__(
        self,
        class_labels: Sequence[int | str],
        seeds: Sequence[int] | None = None,
        guidance_scale: float = 1.0,
        num_inference_steps: int = 50,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Draws one image a label.

        Args:
            class_labels: ids or names, one an image; the id `null_class` draws without a class.
            seeds: one an image; 0, 1, 2, ... by default. Equal seeds in an equal batch give equal images.
            guidance_scale: s of null + s (cond - null); 1 is the conditional model. The papers' w is s - 1.
            num_inference_steps: steps of the scheduler.
            output_type: "pil", or "pt" for a uint8 tensor [B, C, H, W].

        Raises:
            InputError: for an unknown class, unequal numbers of labels and seeds, or guidance without a null class.
        """
        seeds = range(len(class_labels)) if seeds is None else seeds
        if len(seeds) != len(class_labels):
            raise InputError(f"There are {len(class_labels)} labels and {len(seeds)} seeds; give one seed an image.")
        if output_type not in ("pil", "pt"):
            raise InputError(f"output_type {output_type!r} is unknown; use 'pil' or 'pt'.")
        ids = [self._label_id(label) for label in class_labels]
        was_training = self.network.training
        self.network.eval()
        x_0 = draw(
            self._noise_pred,
            self.scheduler,
            self.shape(),
            ids,
            list(seeds),
            num_inference_steps,
            guidance_scale,
            self._execution_device,
        )
        self.network.train(was_training)
        images: Any = self.decode(x_0)
        if output_type == "pil":
            images = to_pil(images)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _label_id(self, label: int | str) -> int:
        if isinstance(label, str):
            return resolve_class(label, self.id2label)
        if label != self.null_class and label not in self.id2label:
            last = len(self.id2label) - 1 if self.null_class is None else self.null_class
            meaning = "" if self.null_class is None else ", the last meaning no class"
            raise InputError(f"There is no class {label}: ids are 0 to {last}{meaning}.")
        return int(label)

    def _noise_pred(self, x_t: Tensor, timesteps: Tensor, class_labels: Tensor, guidance_scale: float) -> Tensor:
        def predict(*inputs: Tensor) -> Tensor:
            return self.network(*inputs, return_dict=False)[0]

        return guided_noise_pred(predict, x_t, timesteps, class_labels, self.null_class, guidance_scale)


class ConditionalDDPMPipeline(ClassPipeline):
    """Draws images of named classes.

    Example:
        >>> pipeline = ConditionalDDPMPipeline.from_pretrained("runs/three/model")
        >>> images = pipeline(["eight"] * 4, seeds=range(4)).images
    """

    model_cpu_offload_seq = "unet"

    def __init__(
        self,
        unet: ConditionalUNet | UNet2DModel,
        scheduler: Any,
        null_class: int | None = None,
        id2label: dict[str, str] | None = None,
        forgotten: list[str] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        null_class = unet.null_class if isinstance(unet, ConditionalUNet) else null_class
        names = {int(i): name for i, name in (id2label or {}).items()}
        names = names or {i: str(i) for i in range(table_rows(unet)) if i != null_class}
        self.register_names(null_class, names, forgotten)
        self.register_to_config(null_class=null_class)

    @classmethod
    def from_parts(
        cls, unet: UNetModule | UNet2DModel, id2label: dict[int, str], forgotten: Sequence[str] = ()
    ) -> "ConditionalDDPMPipeline":
        """A pipeline around a network, with the DDIM scheduler; a last label without a name is the null class."""
        null_class = len(id2label) if table_rows(unet) > len(id2label) else None
        names = {str(i): name for i, name in id2label.items()}
        unet = ConditionalUNet.of(unet) if isinstance(unet, UNetModule) else unet
        return cls(unet, make_scheduler("ddim"), null_class, names, list(forgotten))

    @property
    def network(self) -> Any:
        return self.unet

    def shape(self) -> tuple[int, ...]:
        return x_0_shape(self.unet)
