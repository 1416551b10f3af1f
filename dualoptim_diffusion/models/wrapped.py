"""Any network of one's own behind the model protocol."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dualoptim_diffusion.core.errors import InputError, reason
from dualoptim_diffusion.models.denoiser import Denoiser
from dualoptim_diffusion.models.stock import process_of_scheduler

WEIGHTS = "network.safetensors"


class Adapter(nn.Module):
    """A network that is called as diffusers' are, and returns a tuple.

    Args:
        none_label: in place of this label the network is given None, in a call of its own.
    """

    def __init__(self, module: nn.Module, none_label: int | None = None) -> None:
        super().__init__()
        self.module, self.none_label = module, none_label

    def forward(self, x_t: Tensor, timesteps: Tensor, class_labels: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        if self.none_label is None:
            return (self._output(x_t, timesteps, class_labels),)
        without = class_labels == self.none_label
        groups = [(~without, class_labels), (without, None)]
        parts = [
            self._output(x_t[chosen], timesteps[chosen], None if labels is None else labels[chosen])
            for chosen, labels in groups
            if chosen.any()
        ]
        order = torch.cat([chosen.nonzero() for chosen, _ in groups])[:, 0]
        return (torch.cat(parts)[order.argsort()],)

    def _output(self, x_t: Tensor, timesteps: Tensor, class_labels: Tensor | None) -> Tensor:
        output: Any = self.module(x_t, timesteps, class_labels)
        first: Tensor = output[0] if isinstance(output, tuple) else getattr(output, "sample", output)
        return first


class WrappedModel(Denoiser):
    """A network of one's own; it is saved as its weights, not as a pipeline."""

    family = "own"
    network: Adapter

    @property
    def module(self) -> nn.Module:
        """The network that was wrapped, with the present weights."""
        return self.network.module

    def save(self, folder: Path) -> None:
        """Writes the weights of the wrapped network, by the names of its state dict, to `network.safetensors`."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in self.module.state_dict().items()}, Path(folder) / WEIGHTS)


def wrap(
    module: nn.Module,
    id2label: Mapping[int, str],
    image_shape: tuple[int, int, int],
    *,
    null_class: int | Literal["none"] | None = None,
    scheduler: Any = None,
) -> WrappedModel:
    """A network of one's own as a model that `forget` and `sample` take.

    Losses are in noise: for a network of v, x_0 or velocity each sample's error counts as that of the noise it implies.

    Args:
        module: called as module(x_t, timesteps, class_labels) with float [B, C, H, W], int64 [B] and int64 [B]; returns
            [B, C, H, W], or a tuple or diffusers output that begins with it. Images are in [-1, 1]. Of flow matching
            the timesteps are floats, as its scheduler has them: 1000 sigma.
        id2label: names of the classes, with ids from 0.
        image_shape: [C, H, W].
        null_class: label that means no class, where the network has one; a tenth of training labels is dropped to it.
            "none": the network takes None for the labels of images of no class.
        scheduler: of diffusers, with the betas and the prediction_type (epsilon, v_prediction or sample) that the
            network was trained with; FlowMatchEulerDiscreteScheduler for noise - x_0 along the straight path;
            EDMEulerScheduler for a network D(x; sigma) that returns x_0, its preconditioning included, and is told
            sigma; None = epsilon under linear betas over 1000 steps.

    Raises:
        InputError: if the network cannot be called so or returns another shape, or the scheduler is of another kind.
    """
    process = None if scheduler is None else process_of_scheduler(scheduler)
    none_label = len(id2label) if null_class == "none" else None
    null_label = null_class if null_class != "none" else none_label
    if null_label is not None and null_label in id2label:
        raise InputError(f"null_class is {null_label}, which is the class {id2label[null_label]!r}.")
    parts = (Adapter(module, none_label), dict(id2label), (), null_label, tuple(image_shape))
    try:
        model = WrappedModel(*parts, process=process)
    except ValueError as error:
        raise InputError(f"The model cannot be wrapped: {error}.") from None
    _try(model)
    return model


@torch.no_grad()
def _try(model: WrappedModel) -> None:
    """One pass over two images of nothing."""
    device = next((p.device for p in model.module.parameters()), torch.device("cpu"))
    labels = torch.tensor([0, len(model.id2label) - 1 if model.null_class is None else model.null_class])
    x_t = torch.zeros(2, *model.x_0_shape, device=device)
    timesteps = model._times(torch.zeros(2, dtype=torch.long, device=device))
    was_training = model.network.training
    model.network.eval()
    try:
        output = model.network(x_t, timesteps, labels.to(device))[0]
    except Exception as error:
        raise InputError(
            f"The network cannot be called as network(x_t, timesteps, class_labels) ({reason(error, 200)}); give it in "
            "a module that can."
        ) from None
    model.network.train(was_training)
    if not isinstance(output, Tensor) or output.shape != x_t.shape:
        found = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise InputError(f"The network returns {found} for images {list(x_t.shape)}, expected the same shape.")
