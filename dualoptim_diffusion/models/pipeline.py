"""A diffusers pipeline for the conditional DDPM: classes by name, one seed an image, classifier-free guidance."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, UNet2DModel
from PIL import Image
from torch import Tensor

from dualoptim_diffusion.classes import resolve_class
from dualoptim_diffusion.diffusion import guided_noise_pred
from dualoptim_diffusion.errors import InputError
from dualoptim_diffusion.models.stock import table_rows, x_0_shape
from dualoptim_diffusion.models.unet import ConditionalUNet
from dualoptim_diffusion.sampling import draw, make_scheduler


def encode_images(images: Tensor) -> Tensor:
    """uint8 [B, C, H, W] -> float in [-1, 1]."""
    return images.float() / 127.5 - 1


def decode_images(x_0: Tensor) -> Tensor:
    """float [B, C, H, W] -> uint8, values outside [-1, 1] cut."""
    return ((x_0.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def to_pil(images: Tensor) -> list[Image.Image]:
    """uint8 [B, 1 or 3, H, W] -> PIL images."""
    return [Image.fromarray(i.permute(1, 2, 0).squeeze(-1).cpu().numpy()) for i in images]


class ConditionalDDPMPipeline(DiffusionPipeline):
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
        self.null_class = unet.null_class if isinstance(unet, ConditionalUNet) else null_class
        names = {int(i): name for i, name in (id2label or {}).items()}
        self.id2label = names or {i: str(i) for i in range(table_rows(unet)) if i != self.null_class}
        self.forgotten = list(forgotten or ())  # names of the classes that it was made to forget
        self.register_to_config(
            null_class=self.null_class,
            id2label={str(i): name for i, name in self.id2label.items()},
            forgotten=self.forgotten,
        )

    @classmethod
    def from_parts(
        cls, unet: ConditionalUNet | UNet2DModel, id2label: dict[int, str], forgotten: Sequence[str] = ()
    ) -> "ConditionalDDPMPipeline":
        """A pipeline around a network, with the DDIM scheduler; a last label without a name is the null class."""
        null_class = len(id2label) if table_rows(unet) > len(id2label) else None
        names = {str(i): name for i, name in id2label.items()}
        return cls(unet, make_scheduler("ddim"), null_class, names, list(forgotten))

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
        was_training = self.unet.training
        self.unet.eval()
        x_0 = draw(
            self._noise_pred,
            self.scheduler,
            x_0_shape(self.unet),
            ids,
            list(seeds),
            num_inference_steps,
            guidance_scale,
            self._execution_device,
        )
        self.unet.train(was_training)
        images: Any = decode_images(x_0)
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
            return self.unet(*inputs, return_dict=False)[0]

        return guided_noise_pred(predict, x_t, timesteps, class_labels, self.null_class, guidance_scale)


def model_folder(source: Path) -> Path:
    """The pipeline folder of a run folder, or the folder itself."""
    return source / "model" if (source / "model").is_dir() else source


def forgotten_names(source: Path) -> list[str]:
    """Classes that the model in a run or pipeline folder was made to forget, as its model_index.json says."""
    try:
        index = json.loads((model_folder(source) / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # no pipeline folder: whoever loads it says so
        return []
    return list(index.get("forgotten") or ()) if isinstance(index, dict) else []


def load_pipeline(folder: str | Path, device: torch.device | str = "cpu") -> ConditionalDDPMPipeline:
    """The pipeline in a run folder or a pipeline folder.

    Raises:
        InputError: if there is none.
    """
    folder = model_folder(Path(folder))
    if not (folder / "model_index.json").is_file():
        raise InputError(f"There is no pipeline folder {str(folder)!r} (it would hold model_index.json).")
    return ConditionalDDPMPipeline.from_pretrained(folder, use_safetensors=True).to(device)
