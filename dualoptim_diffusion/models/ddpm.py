"""The pixel-space conditional DDPM behind the model protocol."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers import UNet2DModel
from torch import Tensor

from dualoptim_diffusion.diffusion import (
    NUM_TRAIN_TIMESTEPS,
    add_noise,
    denoising_loss,
    guided_noise_pred,
    linear_alphas_cumprod,
)
from dualoptim_diffusion.models.pipeline import ConditionalDDPMPipeline, decode_images, encode_images
from dualoptim_diffusion.models.stock import table_rows, x_0_shape
from dualoptim_diffusion.models.unet import ConditionalUNet

if TYPE_CHECKING:
    from accelerate import Accelerator

LABEL_DROP = 0.1  # probability of the null class in training, for classifier-free guidance


# Lets `DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)` find our class.
PIPELINE_FILE = "from dualoptim_diffusion import ConditionalDDPMPipeline  # noqa: F401\n"


class ConditionalDDPM:
    """A network with the names of its classes; see `DenoisingModel` for what it offers.

    Args:
        network: the native one, or a stock one with a class table.
        id2label: names of all labels; a last label without a name is the null class.
        forgotten: names of the classes that it was made to forget.
    """

    num_train_timesteps = NUM_TRAIN_TIMESTEPS
    learned_variance = False

    def __init__(
        self, network: ConditionalUNet | UNet2DModel, id2label: dict[int, str], forgotten: Sequence[str] = ()
    ) -> None:
        self.network, self.id2label, self.forgotten = network, id2label, list(forgotten)
        self.num_classes = len(id2label)
        self.null_class: int | None = self.num_classes if table_rows(network) > self.num_classes else None
        self.label_drop = 0.0 if self.null_class is None else LABEL_DROP
        self.x_0_shape: tuple[int, ...] = x_0_shape(network)
        self._alphas_cumprod = linear_alphas_cumprod()
        self._forward = network  # what `prepare` may wrap for several processes

    def prepare(self, accelerator: "Accelerator", channels_last: bool = False, compiled: bool = False) -> None:
        """Moves the network to its device and wraps it for mixed precision, several processes and speed."""
        if channels_last:
            self.network.to(memory_format=torch.channels_last)
        wrapped = accelerator.prepare(self.network)
        self._forward = torch.compile(wrapped) if compiled else wrapped
        self._alphas_cumprod = self._alphas_cumprod.to(accelerator.device)

    def frozen_copy(self) -> "ConditionalDDPM":
        """A model with the present weights that nothing trains: eval mode, no gradients, full precision."""
        copy = ConditionalDDPM(deepcopy(self.network).eval().requires_grad_(False), self.id2label)
        copy._alphas_cumprod = self._alphas_cumprod
        return copy

    def _predict(self, x_t: Tensor, timesteps: Tensor, class_labels: Tensor) -> Tensor:
        return self._forward(x_t, timesteps, class_labels, return_dict=False)[0].to(x_t.dtype)

    def noise_pred(self, x_t: Tensor, timesteps: Tensor, class_labels: Tensor, guidance_scale: float = 1.0) -> Tensor:
        """Predicted noise [B, C, H, W] for x_t at timesteps [B] and labels [B]."""
        return guided_noise_pred(self._predict, x_t, timesteps, class_labels, self.null_class, guidance_scale)

    def loss(
        self, x_0: Tensor, timesteps: Tensor, noise: Tensor, class_labels: Tensor, guidance_scale: float = 1.0
    ) -> Tensor:
        """Denoising loss of each sample [B], summed over channels and pixels."""
        x_t = self.add_noise(x_0, noise, timesteps)
        return denoising_loss(self.noise_pred(x_t, timesteps, class_labels, guidance_scale), noise)

    def add_noise(self, x_0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t of the forward process."""
        return add_noise(x_0, noise, timesteps, self._alphas_cumprod)

    def encode(self, images: Tensor) -> Tensor:
        """uint8 images -> x_0 in [-1, 1]."""
        return encode_images(images)

    def decode(self, x_0: Tensor) -> Tensor:
        """x_0 -> uint8 images."""
        return decode_images(x_0)

    def save(self, folder: Path) -> None:
        """Writes a diffusers pipeline folder that `ConditionalDDPMPipeline.from_pretrained` loads."""
        self.network.to(memory_format=torch.contiguous_format)  # safetensors takes no other
        ConditionalDDPMPipeline.from_parts(self.network, self.id2label, self.forgotten).save_pretrained(folder)
        (Path(folder) / "pipeline.py").write_text(PIPELINE_FILE, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> "ConditionalDDPM":
        """Reads such a folder."""
        pipeline = ConditionalDDPMPipeline.from_pretrained(folder, use_safetensors=True).to(device)
        return cls(pipeline.unet, pipeline.id2label, pipeline.forgotten)
