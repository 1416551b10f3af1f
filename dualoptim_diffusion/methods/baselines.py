"""The baselines every method is measured against."""

from torch import Tensor

from dualoptim_diffusion.data import Batch
from dualoptim_diffusion.methods.method import RETAIN_KEYS, Method
from dualoptim_diffusion.models import DenoisingModel


class GradientAscent(Method):
    """Ascent on the denoising loss of the forget set, in turn with retain steps (none with retain_steps = 0)."""

    reads = Method.reads | {"mask"}

    def forget_loss(self, model: DenoisingModel, batch: Batch) -> Tensor:
        return -model.loss(batch.x_0, batch.timesteps, batch.noise, batch.dropped_labels).mean()


class Finetune(Method):
    """Retain steps only."""

    reads = RETAIN_KEYS
    forgets = False


class Retrain(Method):
    """The gold standard: the base model's own pretraining, from fresh weights, on the retain set alone."""

    reads = frozenset()
    forgets = False
    from_scratch = True
