"""Denoising models behind one small protocol; methods know nothing else of them."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from dualoptim_diffusion.files.pipeline_folder import is_dit, is_hub_id, model_folder, pipeline_folder
from dualoptim_diffusion.files.weight_files import weights_sha256
from dualoptim_diffusion.models.ddpm import ConditionalDDPM
from dualoptim_diffusion.models.dit import ConditionalDiT
from dualoptim_diffusion.models.dit_module import DiTModule
from dualoptim_diffusion.models.unet_module import UNetModule

if TYPE_CHECKING:
    from accelerate import Accelerator
    from diffusers import AutoencoderKL

    from dualoptim_diffusion.models.dit_pipeline import ConditionalDiTPipeline
    from dualoptim_diffusion.models.pipeline import ConditionalDDPMPipeline

__all__ = [
    "ConditionalDDPM",
    "ConditionalDiT",
    "DenoisingModel",
    "DiTModule",
    "UNetModule",
    "autoencoder_sha256",
    "load_pipeline",
    "model_sha256",
    "weights_sha256",
]


class DenoisingModel(Protocol):
    """A class-conditional denoiser: what data, methods and sampling may rely on."""

    family: str  # ddpm or dit
    id2label: dict[int, str]
    num_classes: int
    null_class: int | None  # none where the model knows classes alone
    forgotten: list[str]  # names of the classes that it was made to forget
    x_0_shape: tuple[int, ...]  # of one sample
    num_train_timesteps: int
    label_drop: float  # probability of the null class in training; 0 without one
    antithetic: bool  # whether it is trained on timesteps in pairs t, T-1-t; else on each by itself
    learned_variance: bool  # predict returns twice the channels: noise, then variance
    own_scheduler: Mapping[str, Any] | None  # settings of the one that its folder came with, if it is kept
    passes: str  # how `prepare` made forward passes: each way rounds otherwise

    @property
    def betas(self) -> Tensor | None: ...  # [T] of a process of its own; None = the linear 1000-step schedule

    @property
    def prediction_type(self) -> str: ...  # what the network itself predicts; `predict` turns it into noise

    def make_scheduler(self) -> Any: ...  # for what the network itself predicts

    @property
    def network(self) -> nn.Module: ...  # the plain module that holds the weights

    @property
    def class_tables(self) -> list[nn.Parameter]: ...  # [labels, width], one row a class

    @property
    def middle(self) -> nn.Module: ...  # the block in the middle of the network

    def fresh_network(self) -> nn.Module: ...  # the same with random weights

    @property
    def image_shape(
        self,
    ) -> tuple[int, ...]: ...  # of what is drawn; x_0's own shape where no autoencoder stands between

    def checkpoint_gradients(self) -> None: ...  # recompute activations in the backward pass

    def limit_batches(self, size: int) -> None: ...  # pass batches through the network in micro-batches

    def prepare(
        self, accelerator: "Accelerator", precision: str = "fp32", channels_last: bool = False, compiled: bool = False
    ) -> None: ...

    def predict(
        self,
        x_t: Tensor,
        timesteps: Tensor,
        class_labels: Tensor,
        guidance_scale: float = 1.0,
        guidance_channels: int | None = None,
    ) -> Tensor: ...

    def noise_pred(
        self, x_t: Tensor, timesteps: Tensor, class_labels: Tensor, guidance_scale: float = 1.0
    ) -> Tensor: ...

    def loss(
        self, x_0: Tensor, timesteps: Tensor, noise: Tensor, class_labels: Tensor, guidance_scale: float = 1.0
    ) -> Tensor: ...

    def add_noise(self, x_0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor: ...

    @property
    def autoencoder(self) -> "AutoencoderKL | None": ...  # x_0 are its scaled latents; None for a model of pixels

    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor: ...

    def moments(self, images: Tensor) -> Tensor: ...  # of the autoencoder's posterior, [B, 2 C, h, w]

    def from_moments(self, moments: Tensor, noise: Tensor | None = None) -> Tensor: ...

    def decode(self, x_0: Tensor) -> Tensor: ...

    def copied(self) -> "DenoisingModel": ...  # the present weights in a network of its own, as before `prepare`

    def frozen_copy(self) -> "DenoisingModel": ...  # the present weights, in eval mode, without gradients

    def save(self, folder: Path) -> None: ...


def load_pipeline(
    folder: str | Path, device: torch.device | str = "cpu"
) -> "ConditionalDDPMPipeline | ConditionalDiTPipeline":
    """The pipeline in a run folder or a pipeline folder, or under a hub id such as OWNER/NAME@REVISION.

    Raises:
        InputError: if there is none, it is damaged, or it names parts of another library.
    """
    from dualoptim_diffusion.models.dit_pipeline import ConditionalDiTPipeline
    from dualoptim_diffusion.models.loading import downloaded
    from dualoptim_diffusion.models.parts import read_parts
    from dualoptim_diffusion.models.pipeline import ConditionalDDPMPipeline

    folder = downloaded(str(folder)) if is_hub_id(folder) else model_folder(Path(folder))
    with pipeline_folder(folder):
        kind = ConditionalDiTPipeline if is_dit(folder) else ConditionalDDPMPipeline
        pipeline: ConditionalDDPMPipeline | ConditionalDiTPipeline = kind.from_pretrained(folder, **read_parts(folder))
        return pipeline.to(device)


def autoencoder_sha256(model: DenoisingModel) -> str | None:
    """Hash of the weights of its autoencoder, where it has one."""
    return None if model.autoencoder is None else weights_sha256(model.autoencoder.state_dict())


def model_sha256(model: DenoisingModel) -> str:
    """Hash of all weights that a drawing depends on: the network's, and with an autoencoder both."""
    network, autoencoder = weights_sha256(model.network.state_dict()), autoencoder_sha256(model)
    return network if autoencoder is None else sha256(f"{network} {autoencoder}".encode()).hexdigest()
