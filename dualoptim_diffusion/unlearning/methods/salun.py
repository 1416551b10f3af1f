"""SalUn (Fan et al., ICLR 2024): draw the next retained class where the forgotten one is asked for."""

import torch
from torch import Tensor

from dualoptim_diffusion.data import Batch
from dualoptim_diffusion.models import DenoisingModel
from dualoptim_diffusion.unlearning.methods.method import FORGET_KEYS, RETAIN_KEYS, Method


class SalUn(Method):
    """Trains the forgotten label to draw another class, on weights selected by gradient size.

    The prediction for c_f is matched to the model's own for c'.
    `update: joint` is the published form (one optimizer, one step on both losses, clip then mask); `alternate` is the
    form DualOptim steps (mask on both phases, mask then clip).
    """

    reads = RETAIN_KEYS | FORGET_KEYS | {"update", "retain_weight", "mask", "optimizers.retain_state"}
    updates = ("alternate", "joint")
    masks_retain = True

    @property
    def clip_first(self) -> bool:  # type: ignore[override]
        return self.settings.update == "joint"

    def forget_loss(self, model: DenoisingModel, batch: Batch) -> Tensor:
        x_t = model.add_noise(batch.x_0, batch.noise, batch.timesteps)
        with torch.no_grad():  # sg[eps(x_t, c')]
            target = model.noise_pred(x_t, batch.timesteps, self.substitutes(batch.class_labels, model))
        noise_pred = model.noise_pred(x_t, batch.timesteps, batch.class_labels)
        return (noise_pred - target).square().mean()

    def substitutes(self, class_labels: Tensor, model: DenoisingModel) -> Tensor:
        """c': the next class, cyclically, that is retained, now and by runs before; labels [B] -> [B]."""
        before = {i for i, name in model.id2label.items() if name in model.forgotten}
        table = []
        for class_id in range(self.num_classes):
            substitute = (class_id + 1) % self.num_classes
            while substitute in self.forget_classes or substitute in before:
                substitute = (substitute + 1) % self.num_classes
            table.append(substitute)
        return torch.tensor(table, device=class_labels.device)[class_labels]
