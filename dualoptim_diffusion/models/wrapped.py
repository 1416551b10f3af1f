"""Any network of one's own behind the model protocol."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dualoptim_diffusion.core.errors import InputError, reason
from dualoptim_diffusion.diffusion.process import linear_alphas_cumprod
from dualoptim_diffusion.models.denoiser import Denoiser

PREDICTIONS = ("epsilon", "v_prediction", "sample")
WEIGHTS = "network.safetensors"


class NoiseOf(nn.Module):
    """A network as one that predicts noise, whatever it predicts.

    With x_t = a x_0 + s noise, a network of x_0 gives the noise (x_t - a x_0) / s, one of v = a noise - s x_0
    (Salimans and Ho, 2022) gives s x_t + a v.
    """

    alphas_cumprod: Tensor

    def __init__(self, module: nn.Module, prediction_type: str, alphas_cumprod: Tensor) -> None:
        super().__init__()
        self.module, self.prediction_type = module, prediction_type
        self.register_buffer("alphas_cumprod", alphas_cumprod, persistent=False)

    def forward(self, x_t: Tensor, timesteps: Tensor, class_labels: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        output: Any = self.module(x_t, timesteps, class_labels)
        output = output[0] if isinstance(output, tuple) else getattr(output, "sample", output)
        if self.prediction_type == "epsilon":
            return (output,)
        abar = self.alphas_cumprod[timesteps].view(-1, *[1] * (x_t.ndim - 1)).to(x_t.dtype)
        a, s = abar.sqrt(), (1 - abar).sqrt()
        return ((x_t - a * output) / s if self.prediction_type == "sample" else s * x_t + a * output,)


class WrappedModel(Denoiser):
    """A network of one's own, with the scheduler of its process."""

    family = "own"
    network: NoiseOf
    scheduler: Any = None

    @property
    def module(self) -> nn.Module:
        """The network that was wrapped, with the present weights."""
        return self.network.module

    def save(self, folder: Path) -> None:
        """Writes a pipeline folder of a stock network; of any other its state dict as `network.safetensors`."""
        from diffusers import DDPMPipeline, UNet2DModel

        if isinstance(self.module, UNet2DModel) and self.scheduler is not None:
            pipeline = DDPMPipeline(self.module, self.scheduler)
            names = {str(i): name for i, name in self.id2label.items()}
            pipeline.register_to_config(id2label=names, forgotten=self.forgotten)
            pipeline.save_pretrained(folder)
            return
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in self.module.state_dict().items()}, Path(folder) / WEIGHTS)


def wrap(
    module: nn.Module,
    id2label: Mapping[int, str],
    image_shape: tuple[int, int, int],
    *,
    null_class: int | None = None,
    scheduler: Any = None,
) -> WrappedModel:
    """A network of one's own as a model that `forget` and `sample` take.

    Losses are in noise: for a network of v or x_0 each sample's error counts as that of the noise it implies.

    Args:
        module: called as module(x_t, timesteps, class_labels) with float [B, C, H, W], int64 [B] and int64 [B]; returns
            [B, C, H, W], or a tuple or diffusers output that begins with it. Images are in [-1, 1].
        id2label: names of the classes, with ids from 0.
        image_shape: [C, H, W].
        null_class: label that means no class, where the network has one; a tenth of training labels is dropped to it.
        scheduler: of diffusers, with the betas and the prediction_type (epsilon, v_prediction or sample) that the
            network was trained with; None = epsilon under linear betas over 1000 steps.

    Raises:
        InputError: if the network cannot be called so or returns another shape, or the scheduler is of another kind.
    """
    prediction, alphas_cumprod = "epsilon", linear_alphas_cumprod()
    if scheduler is not None:
        prediction, alphas_cumprod = _process(scheduler)
    network = NoiseOf(module, prediction, alphas_cumprod)
    try:
        model = WrappedModel(network, dict(id2label), [], null_class, tuple(image_shape))
    except ValueError as error:
        raise InputError(f"The model cannot be wrapped: {error}.") from None
    if scheduler is not None:
        model.scheduler = scheduler
        model._alphas_cumprod, model.num_train_timesteps = alphas_cumprod, len(alphas_cumprod)
        before = torch.cat([alphas_cumprod.new_ones(1), alphas_cumprod[:-1]])
        model.betas = 1 - alphas_cumprod / before
    _try(model)
    return model


def _process(scheduler: Any) -> tuple[str, Tensor]:
    """Prediction type and abar [T] of a scheduler."""
    name, table = type(scheduler).__name__, getattr(scheduler, "alphas_cumprod", None)
    if not isinstance(table, Tensor):
        raise InputError(
            f"{name} has no table of betas (flow matching has none), so the network cannot be wrapped yet."
        )
    prediction = scheduler.config.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise InputError(f"{name} has prediction_type {prediction!r}, expected {', '.join(PREDICTIONS)}.")
    if not 0 < float(table.min()) <= float(table.max()) < 1:
        raise InputError(f"{name} ends at a signal of exactly 0 (rescale_betas_zero_snr), which noise cannot express.")
    return prediction, table.detach().float().cpu()


@torch.no_grad()
def _try(model: WrappedModel) -> None:
    """One pass over two images of nothing."""
    device = next((p.device for p in model.module.parameters()), torch.device("cpu"))
    if model.null_class is not None and model.null_class in model.id2label:
        raise InputError(f"null_class is {model.null_class}, which is the class {model.id2label[model.null_class]!r}.")
    labels = torch.tensor([0, len(model.id2label) - 1 if model.null_class is None else model.null_class])
    x_t, timesteps = torch.zeros(2, *model.x_0_shape, device=device), torch.zeros(2, dtype=torch.long, device=device)
    model.network.to(device)
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
