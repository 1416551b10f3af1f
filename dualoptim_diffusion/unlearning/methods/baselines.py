"""The baselines every method is measured against."""

from torch import Tensor

from dualoptim_diffusion.data import Batch
from dualoptim_diffusion.models import DenoisingModel
from dualoptim_diffusion.unlearning.methods.method import RETAIN_KEYS, Method


class GradientAscent(Method):
    """Increases the denoising loss of the class without a bound.

    In turn with retain steps (none with retain_steps = 0); `forget_ceiling` sets a bound.
    """

    reads = Method.reads | {"forget_ceiling", "mask"}

    def forget_loss(self, model: DenoisingModel, batch: Batch) -> Tensor:
        return -self.below_ceiling(self.denoising_losses(model, batch), batch).mean()


class Finetune(Method):
    """None: retain steps only."""

    reads = RETAIN_KEYS
    forgets = False


class Retrain(Method):
    """None: trains from scratch without the class.

    The gold standard: the base model's own pretraining, from fresh weights, on the retain set alone.
    """

    reads = frozenset()
    forgets = False
    from_scratch = True
