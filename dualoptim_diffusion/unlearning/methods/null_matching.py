"""Null matching: draw without a class where the forgotten one is asked for (after ESD, Gandikota et al., ICCV 2023)."""

import torch
from torch import Tensor

from dualoptim_diffusion.data import Batch
from dualoptim_diffusion.models import DenoisingModel
from dualoptim_diffusion.unlearning.methods.method import FORGET_KEYS, RETAIN_KEYS, Method, null_labels


class NullMatching(Method):
    """Trains the forgotten label to draw what the base model draws without a label.

    The prediction for c_f is matched to the frozen base model's for the null label: a bounded target cannot diverge.
    """

    reads = RETAIN_KEYS | FORGET_KEYS | {"mask"}

    @property
    def uses_null(self) -> bool:
        return True

    def forget_loss(self, model: DenoisingModel, batch: Batch) -> Tensor:
        x_t = model.add_noise(batch.x_0, batch.noise, batch.timesteps)
        with torch.no_grad():
            target = self.base.noise_pred(x_t, batch.timesteps, null_labels(self.base, batch))
        return (model.noise_pred(x_t, batch.timesteps, batch.class_labels) - target).square().mean()
