"""Null matching: draw without a class where the forgotten one is asked for (after ESD, Gandikota et al., ICCV 2023)."""

import torch
from torch import Tensor

from dualoptim_diffusion.data import Batch
from dualoptim_diffusion.models import DenoisingModel
from dualoptim_diffusion.unlearning.methods.method import FORGET_KEYS, RETAIN_KEYS, Method, null_labels


class NullMatching(Method):
    """Trains the forgotten label to draw what the base model draws without a label, or away from the class.

    The prediction for c_f is matched to the frozen base model's e(null) - eta (e(c_f) - e(null)), eta being
    `negative_guidance`, which ESD sets to 1. A target that stands still cannot diverge.
    """

    reads = RETAIN_KEYS | FORGET_KEYS | {"mask", "negative_guidance"}

    @property
    def uses_null(self) -> bool:
        return True

    def forget_loss(self, model: DenoisingModel, batch: Batch) -> Tensor:
        x_t = model.add_noise(batch.x_0, batch.noise, batch.timesteps)
        return (model.noise_pred(x_t, batch.timesteps, batch.class_labels) - self._target(x_t, batch)).square().mean()

    @torch.no_grad()
    def _target(self, x_t: Tensor, batch: Batch) -> Tensor:
        null = self.base.noise_pred(x_t, batch.timesteps, null_labels(self.base, batch))
        if self.settings.negative_guidance == 0:
            return null
        return null - self.settings.negative_guidance * (
            self.base.noise_pred(x_t, batch.timesteps, batch.class_labels) - null
        )
