"""Diffusers pipelines of named classes, one seed an image, with guidance; the conditional DDPM's."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import index
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, UNet2DModel
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from dualoptim_diffusion.core.classes import resolve_class
from dualoptim_diffusion.core.errors import InputError, reason
from dualoptim_diffusion.diffusion.process import guided_noise_pred
from dualoptim_diffusion.diffusion.sampling import AfterStep, Generators, denoise, make_scheduler, set_timesteps
from dualoptim_diffusion.models.images import decode_images, to_pil, to_unit
from dualoptim_diffusion.models.stock import table_rows, x_0_shape
from dualoptim_diffusion.models.unet import ConditionalUNet
from dualoptim_diffusion.models.unet_module import UNetModule

OnStepEnd = Callable[[Any, int, Tensor, dict[str, Tensor]], Mapping[str, Tensor]]
OUTPUTS = ("pil", "np", "pt", "uint8", "latent")


class ClassPipeline(DiffusionPipeline):
    """What pipelines of named classes share: labels, seeds, guidance."""

    _callback_tensor_inputs: ClassVar[list[str]] = ["latents"]

    null_class: int | None
    id2label: dict[int, str]
    forgotten: list[str]  # names of the classes that it was made to forget
    _interrupt = False  # a callback sets it to stop after its step

    @property
    def network(self) -> Any:
        """The module that predicts the noise."""
        raise NotImplementedError

    def shape(self) -> tuple[int, ...]:
        """Of one x_0."""
        raise NotImplementedError

    def pixels(self, x_0: Tensor) -> Tensor:
        """x_0 [B, C, H, W] -> images in about [-1, 1]."""
        return x_0

    def register_names(self, null_class: int | None, id2label: dict[int, str], forgotten: Sequence[str] | None) -> None:
        """Keeps the names, and has them saved in model_index.json."""
        self.null_class, self.id2label, self.forgotten = null_class, id2label, list(forgotten or ())
        names = {str(i): name for i, name in id2label.items()}
        self.register_to_config(id2label=names, forgotten=self.forgotten)

    def __call__(
        self,
        class_labels: Sequence[int | str] | Tensor | int | str,
        seeds: Sequence[int] | None = None,
        guidance_scale: float = 1.0,
        num_inference_steps: int = 50,
        output_type: str = "pil",
        return_dict: bool = True,
        generator: Generators | None = None,
        callback_on_step_end: OnStepEnd | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple[Any]:
        """Draws one image a label.

        x_t is float32, or float64 where the network is; a network in half precision sees it rounded.

        Args:
            class_labels: ids or names, one an image, or one of either; the id `null_class` draws without a class.
            seeds: one an image; 0, 1, 2, ... by default. Equal seeds in an equal batch give equal images.
            guidance_scale: s of null + s (cond - null); 1 is the conditional model. The papers' w is s - 1.
            num_inference_steps: steps of the scheduler, which may be any of diffusers' for models of noise.
            output_type: "pil"; "np" for floats [B, H, W, C] in [0, 1]; "pt" for a tensor of them, [B, C, H, W]; "uint8"
                for a tensor of pixels, as `evaluate` takes them; "latent" for x_0 itself, [B, C, H, W].
            generator: of all noise in place of seeds: one for all images, or a list with one an image.
            callback_on_step_end: called as diffusers' pipelines call it, with the pipeline, the number of the step, the
                timestep and the tensors asked for; what it returns for "latents" takes their place.
            callback_on_step_end_tensor_inputs: what it is given; there is "latents".

        Raises:
            InputError: for an unknown class or scheduler, numbers of labels and seeds or generators that are unequal,
                guidance without a null class, or values that are not finite.
        """
        labels = [class_labels] if isinstance(class_labels, int | str) else list(class_labels)
        if not (ids := [self._label_id(label) for label in labels]):
            raise InputError("class_labels is empty, expected the id or the name of a class for each image.")
        if output_type not in OUTPUTS:
            raise InputError(f"output_type is {output_type!r}, expected {', '.join(OUTPUTS)}.")
        after_step = self._after_step(callback_on_step_end, callback_on_step_end_tensor_inputs)
        generators = _generators(len(ids), seeds, generator)
        set_timesteps(self.scheduler, num_inference_steps, self.shape()[0])
        x_T = self._noise(len(ids), generators) * self.scheduler.init_noise_sigma
        was_training = self.network.training
        self.network.eval()
        try:
            x_0 = denoise(
                self._noise_pred, self.scheduler, x_T, ids, self._timesteps(), guidance_scale, generators, after_step
            )
        finally:
            self.network.train(was_training)
        images = self._output(x_0, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _after_step(self, callback: Any, names: Sequence[str]) -> AfterStep | None:
        """What is done after each step: the callback's part in it."""
        if callback is None:
            return None
        if isinstance(callback, PipelineCallback | MultiPipelineCallbacks):
            names = callback.tensor_inputs
        if unknown := set(names) - set(self._callback_tensor_inputs):
            raise InputError(
                f"Callbacks are given 'latents', not {', '.join(map(repr, sorted(unknown)))}; ask for less."
            )

        def after_step(step: int, timestep: Tensor, x_t: Tensor) -> Tensor:
            latents: Tensor = callback(self, step, timestep, dict.fromkeys(names, x_t)).get("latents", x_t)
            return latents

        return after_step

    def _noise(self, count: int, generators: Generators) -> Tensor:
        """The first noise [B, C, H, W], drawn in float32 whatever the network computes in."""
        try:
            noise = randn_tensor((count, *self.shape()), generator=generators, device=self._execution_device)
        except ValueError as error:
            raise InputError(f"The generators do not fit the pipeline's device ({reason(error)}).") from None
        return noise.to(torch.promote_types(self.network.dtype, torch.float32))

    def _timesteps(self) -> Iterator[Tensor]:
        """The scheduler's, with a progress bar, until a callback interrupts."""
        self._interrupt = False
        for timestep in self.progress_bar(self.scheduler.timesteps):
            if self._interrupt:
                return
            yield timestep

    def _output(self, x_0: Tensor, output_type: str) -> Any:
        result = x_0 if output_type == "latent" else self.pixels(x_0)
        if not result.isfinite().all():
            raise InputError(
                f"{type(self.scheduler).__name__} drew values that are not finite in {self.network.dtype}; use another "
                "scheduler or its default settings, or cast the pipeline to torch.float32."
            )
        if output_type == "latent":
            return result
        if output_type in ("np", "pt"):
            unit = to_unit(result)
            return unit if output_type == "pt" else unit.permute(0, 2, 3, 1).cpu().numpy()
        return to_pil(decode_images(result)) if output_type == "pil" else decode_images(result)

    def _label_id(self, label: int | str) -> int:
        if isinstance(label, str):
            return resolve_class(label, self.id2label)
        try:
            label = index(label)  # also of numpy's and torch's integers
        except TypeError:
            raise InputError(f"A label is {label!r}, expected the id or the name of a class.") from None
        if label != self.null_class and label not in self.id2label:
            last = len(self.id2label) - 1 if self.null_class is None else self.null_class
            meaning = "" if self.null_class is None else ", the last meaning no class"
            raise InputError(f"There is no class {label}: ids are 0 to {last}{meaning}.")
        return label

    def _noise_pred(self, x_t: Tensor, timesteps: Tensor, class_labels: Tensor, guidance_scale: float) -> Tensor:
        def predict(x_t: Tensor, *conditions: Tensor) -> Tensor:
            return self.network(x_t.to(self.network.dtype), *conditions, return_dict=False)[0].to(x_t.dtype)

        return guided_noise_pred(predict, x_t, timesteps, class_labels, self.null_class, guidance_scale)


def _generators(count: int, seeds: Sequence[int] | None, generator: Generators | None) -> Generators:
    """One for all images, or one an image.

    Raises:
        InputError: if there are seeds too, or not one an image.
    """
    if generator is None:
        seeds = range(count) if seeds is None else seeds
        if len(seeds) != count:
            raise InputError(f"There are {count} labels and {len(seeds)} seeds; give one seed an image.")
        return [torch.Generator().manual_seed(index(seed)) for seed in seeds]  # on the CPU: equal on every device
    if seeds is not None:
        raise InputError("There are seeds and a generator; give one or the other.")
    if isinstance(generator, torch.Generator):
        return generator
    if not isinstance(generator, list | tuple) or not all(isinstance(one, torch.Generator) for one in generator):
        raise InputError(f"generator is {generator!r}, expected a torch.Generator or a list with one an image.")
    if len(generator) != count:
        raise InputError(
            f"There are {count} labels and {len(generator)} generators; give one an image, or one for all."
        )
    return list(generator)


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
        cls,
        unet: UNetModule | UNet2DModel,
        id2label: dict[int, str],
        forgotten: Sequence[str] = (),
        scheduler: Any = None,
    ) -> "ConditionalDDPMPipeline":
        """A pipeline around a network, with DDIM for noise if no other scheduler is given.

        A last label without a name is the null class.
        """
        null_class = len(id2label) if table_rows(unet) > len(id2label) else None
        names = {str(i): name for i, name in id2label.items()}
        unet = ConditionalUNet.of(unet) if isinstance(unet, UNetModule) else unet
        return cls(unet, scheduler or make_scheduler("ddim"), null_class, names, list(forgotten))

    @property
    def network(self) -> Any:
        return self.unet

    def shape(self) -> tuple[int, ...]:
        return x_0_shape(self.unet)
