"""What all denoising models share: the network behind its wrappers, the diffusion process, prediction and loss."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy, deepcopy
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from dualoptim_diffusion.core.classes import usable_names
from dualoptim_diffusion.diffusion.process import (
    NUM_TRAIN_TIMESTEPS,
    Process,
    add_noise,
    denoising_loss,
    guided_noise_pred,
    implied_noise,
    linear_alphas_cumprod,
    network_input,
)
from dualoptim_diffusion.diffusion.sampling import make_scheduler
from dualoptim_diffusion.models.images import decode_images, encode_images
from dualoptim_diffusion.models.passes import FirstOutput, MicroBatched

if TYPE_CHECKING:
    from accelerate import Accelerator

LABEL_DROP = 0.1  # probability of the null class in training, for classifier-free guidance

Model = TypeVar("Model", bound="Denoiser")


class Denoiser:
    """A network with the names of its classes; see `DenoisingModel` for what it offers.

    Args:
        network: returns a tuple whose first entry is the noise, with a learned variance twice the channels.
        id2label: names of all labels but the null class.
        forgotten: names of the classes that it was made to forget.
        null_class: the label that means no class, where there is one.
        x_0_shape: of one sample.
        precision: of the table of the linear schedule.
        process: of its own; None = noise under the linear 1000-step schedule.

    Raises:
        ValueError: if ids do not count from 0 or a name is none.
    """

    family: str  # ddpm or dit
    num_train_timesteps = NUM_TRAIN_TIMESTEPS
    learned_variance = False
    antithetic = True
    passes = "fp32"  # how `prepare` made them; others round otherwise
    repeated_block: type[nn.Module] | tuple[()] = ()  # what alone is compiled of a network of equal blocks
    own_scheduler: Mapping[str, Any] | None = None  # settings of the one that its folder came with, if kept
    _autocast = False  # to bf16
    _memory_format = torch.preserve_format

    def __init__(
        self,
        network: Any,
        id2label: dict[int, str],
        forgotten: Sequence[str],
        null_class: int | None,
        x_0_shape: tuple[int, ...],
        precision: torch.dtype = torch.float32,
        process: Process | None = None,
    ) -> None:
        if id2label.keys() != {*range(len(id2label))} or not all(isinstance(n, str) and n for n in id2label.values()):
            raise ValueError(f"its classes must be named, with the ids 0 to {len(id2label) - 1}")
        self.network, self.id2label, self.forgotten = network, usable_names(id2label), list(forgotten)
        self.num_classes = len(id2label)
        self.null_class = null_class
        self.label_drop = 0.0 if null_class is None else LABEL_DROP
        self.x_0_shape = x_0_shape
        self.process = process
        if process is None:
            self._alphas_cumprod = linear_alphas_cumprod(dtype=precision)
        else:
            self.num_train_timesteps = len(process.betas)
            self._alphas_cumprod = torch.cumprod(1 - process.betas, dim=0)
        self._all_times = None if process is None else process.times
        self._wrapped = network  # what `prepare` prepares
        self._forward = network  # what it made of it

    @property
    def betas(self) -> Tensor | None:
        """Of a process of its own [T]; None under the linear 1000-step schedule."""
        return None if self.process is None else self.process.betas

    def make_scheduler(self) -> Any:
        """The scheduler that its folder came with, or DDIM; it takes what the network itself predicts."""
        if self.own_scheduler is not None:
            import diffusers

            return getattr(diffusers, self.own_scheduler["_class_name"]).from_config(dict(self.own_scheduler))
        return make_scheduler("ddim", betas=self.betas, prediction_type=self.prediction_type)

    @property
    def prediction_type(self) -> str:
        """What the network itself predicts, as diffusers calls it; `predict` turns it into noise."""
        return "epsilon" if self.process is None else self.process.prediction_type

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Channels, height and width of what is drawn."""
        return self.x_0_shape

    @property
    def class_tables(self) -> list[nn.Parameter]:
        """What turns a label into numbers: tables [labels, width], one row a class."""
        raise NotImplementedError

    @property
    def middle(self) -> nn.Module:
        """The block in the middle of the network; it returns features [B, C, H, W] or tokens [B, N, C]."""
        raise NotImplementedError

    def fresh_network(self) -> Any:
        """A network like this one with random weights, from torch's global generator."""
        arguments = getattr(self.network, "arguments", None)
        if arguments is None:  # a stock network's; its from_config would take positional arguments for defaults
            arguments = {key: value for key, value in self.network.config.items() if not key.startswith("_")}
        return type(self.network)(**arguments)

    def checkpoint_gradients(self) -> None:
        """Recompute activations in the backward pass from now on, which keeps few of them."""
        self.network.enable_gradient_checkpointing()

    def limit_batches(self, size: int) -> None:
        """Pass batches through the network in micro-batches of at most this size; takes effect with `prepare`."""
        self._wrapped = MicroBatched(self.network, size)

    def prepare(
        self, accelerator: "Accelerator", precision: str = "fp32", channels_last: bool = False, compiled: bool = False
    ) -> None:
        """Moves the network to its device and wraps it for several processes and speed.

        Args:
            precision: of its passes, fp32 or bf16; weights and gradients stay as they are.
            channels_last: memory order of what passes through it; weights keep theirs, which optimizers rely on.
            compiled: by torch.compile, once a shape; of a network of equal blocks the block alone.
        """
        self._autocast = precision == "bf16"
        self._memory_format = torch.channels_last if channels_last else torch.preserve_format
        self.passes = ", ".join([precision, *["channels_last"] * channels_last, *["compiled"] * compiled])
        blocks = [module for module in self.network.modules() if isinstance(module, self.repeated_block)]
        for block in blocks if compiled else ():
            block.compile(dynamic=False)
        prepared = accelerator.prepare(self._wrapped)
        self._forward = torch.compile(prepared, dynamic=False) if compiled and not blocks else prepared
        self._alphas_cumprod = self._alphas_cumprod.to(accelerator.device)
        if self._all_times is not None:
            self._all_times = self._all_times.to(accelerator.device)

    def capture_training(self, batch_size: int) -> None:
        """Replays training passes of this batch size as CUDA graphs, one launch forward and one backward, from now on.

        For networks whose many small kernels a CPU cannot launch fast enough. Other passes stay as they are. Gradients
        then lie in fixed memory, which the next backward pass overwrites. Call it after `prepare`, on a GPU.
        """
        device, plain = next(self.network.parameters()).device, self._forward
        x_t = torch.zeros(batch_size, *self.x_0_shape, device=device).to(memory_format=self._memory_format)
        timesteps, labels = torch.zeros(2, batch_size, dtype=torch.long, device=device).unbind()  # a buffer each
        timesteps = self._times(timesteps)
        was_training = self.network.training
        self.network.train()
        with self._passes(cache_enabled=False):
            replay = torch.cuda.make_graphed_callables(FirstOutput(plain), (x_t, timesteps, labels))
        self.network.train(was_training)

        def forward(x_t: Tensor, timesteps: Tensor, class_labels: Tensor, **options: Any) -> Any:
            if torch.is_grad_enabled() and self.network.training and len(x_t) == batch_size:
                return (replay(x_t, timesteps, class_labels),)
            return plain(x_t, timesteps, class_labels, **options)

        self._forward = forward

    def copied(self: Model) -> Model:
        """A model of its own with the present weights, as before `prepare`."""
        model = copy(self)
        model.network = deepcopy(self.network)
        model._wrapped = model._forward = model.network
        model._autocast, model.passes = False, Denoiser.passes
        return model

    def frozen_copy(self: Model) -> Model:
        """The same, which nothing trains: eval mode, no gradients, full precision."""
        model = self.copied()
        model.network.eval().requires_grad_(False)
        return model

    def _predict(self, x_t: Tensor, timesteps: Tensor, class_labels: Tensor) -> Tensor:
        if self.prediction_type == "epsilon":
            return self._passed(x_t, timesteps, class_labels)
        abar = self._alphas_cumprod.to(x_t.device)[timesteps].view(-1, 1, 1, 1)
        output = self._passed(network_input(x_t, abar, self.prediction_type), self._times(timesteps), class_labels)
        return implied_noise(output, x_t, abar, self.prediction_type)

    def _passed(self, x_t: Tensor, times: Tensor, class_labels: Tensor) -> Tensor:
        """What the network makes of it."""
        ordered = x_t.to(memory_format=self._memory_format)
        with self._passes():
            output: Tensor = self._forward(ordered, times, class_labels, return_dict=False)[0]
        return output.to(x_t.dtype)

    def _times(self, timesteps: Tensor) -> Tensor:
        """What the network is told at timesteps [B]."""
        return timesteps if self._all_times is None else self._all_times.to(timesteps.device)[timesteps]

    def _passes(self, cache_enabled: bool = True) -> AbstractContextManager[Any]:
        """The precision of the network's passes."""
        if not self._autocast:
            return nullcontext()
        device = next(self.network.parameters()).device
        return torch.autocast(device.type, torch.bfloat16, cache_enabled=cache_enabled)

    def predict(
        self,
        x_t: Tensor,
        timesteps: Tensor,
        class_labels: Tensor,
        guidance_scale: float = 1.0,
        guidance_channels: int | None = None,
    ) -> Tensor:
        """Predicted noise [B, C, H, W], with a learned variance [B, 2 C, H, W], as a sampler takes it."""
        return guided_noise_pred(
            self._predict, x_t, timesteps, class_labels, self.null_class, guidance_scale, guidance_channels
        )

    def noise_pred(self, x_t: Tensor, timesteps: Tensor, class_labels: Tensor, guidance_scale: float = 1.0) -> Tensor:
        """Predicted noise [B, C, H, W] for x_t at timesteps [B] and labels [B]."""
        return self.predict(x_t, timesteps, class_labels, guidance_scale)[:, : x_t.shape[1]]

    def loss(
        self, x_0: Tensor, timesteps: Tensor, noise: Tensor, class_labels: Tensor, guidance_scale: float = 1.0
    ) -> Tensor:
        """Denoising loss of each sample [B], summed over channels and pixels."""
        x_t = self.add_noise(x_0, noise, timesteps)
        return denoising_loss(self.noise_pred(x_t, timesteps, class_labels, guidance_scale), noise)

    def add_noise(self, x_0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t of the forward process."""
        return add_noise(x_0, noise, timesteps, self._alphas_cumprod)

    @property
    def autoencoder(self) -> Any:
        """What x_0 are the latents of; None for a model of pixels."""
        return None

    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """uint8 images -> x_0 in [-1, 1]; `noise` is for latents alone."""
        return encode_images(images)

    def moments(self, images: Tensor) -> Tensor:
        """uint8 images -> moments of the autoencoder's posterior."""
        raise NotImplementedError

    def from_moments(self, moments: Tensor, noise: Tensor | None = None) -> Tensor:
        """Moments of the autoencoder's posterior -> x_0."""
        raise NotImplementedError

    def decode(self, x_0: Tensor) -> Tensor:
        """x_0 -> uint8 images."""
        return decode_images(x_0)
