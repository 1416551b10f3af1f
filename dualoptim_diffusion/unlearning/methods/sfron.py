"""SFRon (Huang et al., NeurIPS 2024): ascent on the forget loss, weighted towards samples not yet forgotten."""

from torch import Tensor

from dualoptim_diffusion.data import Batch
from dualoptim_diffusion.models import DenoisingModel
from dualoptim_diffusion.unlearning.methods.method import FORGET_KEYS, RETAIN_KEYS, Method

EPS = 1e-8


class SFRon(Method):
    """Increases the denoising loss of the class up to that without a label, on weights selected by Fisher information.

    Weights with much more of it on the forget set than on the retain set; gradients are masked, then clipped.
    """

    reads = RETAIN_KEYS | FORGET_KEYS | {"loss_exponent", "forget_ceiling", "mask"}

    def forget_loss(self, model: DenoisingModel, batch: Batch) -> Tensor:
        losses = self.below_ceiling(self.denoising_losses(model, batch), batch)  # l_i, [B]
        weights = 1 / (losses.detach() ** self.settings.loss_exponent + EPS)  # w_i = 1 / (l_i^lambda + eps)
        return -(weights / self.global_mean(weights) * losses).mean()  # -(1/n) sum_i n w_i / (sum_j w_j) l_i
