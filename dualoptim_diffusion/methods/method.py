"""What a forgetting method offers: two losses, which recipe keys it reads, how gradients are masked and clipped."""

from collections.abc import Callable, Sequence
from typing import ClassVar

from torch import Tensor

from dualoptim_diffusion.config import MethodConfig
from dualoptim_diffusion.data import Batch
from dualoptim_diffusion.errors import InputError
from dualoptim_diffusion.models import DenoisingModel

RETAIN_KEYS = frozenset(
    {
        "num_steps",
        "num_steps_per",
        "retain_steps",
        "retain_lr",
        "retain_schedule",
        "clip_norm",
        "ema_decay",
        "optimizers.retain",
    }
)
FORGET_KEYS = frozenset(
    {"forget_steps", "forget_lr", "forget_schedule", "forget_weight", "forget_weight_schedule"}
    | {"optimizers.mode", "optimizers.forget"}
)


class Method:
    """Base of all methods: plain denoising on the retain set, and what the loop asks of a forget loss.

    Args:
        settings: the recipe's `method` section.
        forget_classes: ids to forget.
        num_classes: of the model, without the null class.
        global_mean: mean of a per-sample tensor over the batches of all processes.
    """

    reads: ClassVar[frozenset[str]] = RETAIN_KEYS | FORGET_KEYS
    updates: ClassVar[tuple[str, ...]] = ("alternate",)
    forgets: ClassVar[bool] = True  # has a forget loss
    from_scratch: ClassVar[bool] = False  # trains anew on the retain set
    masks_retain: bool = False
    clip_first: bool = False

    def __init__(
        self,
        settings: MethodConfig,
        forget_classes: Sequence[int],
        num_classes: int,
        global_mean: Callable[[Tensor], Tensor] = Tensor.mean,
    ) -> None:
        if self.forgets and settings.update not in self.updates:
            known = " or ".join(self.updates)
            raise InputError(f"method.update is {settings.update!r}, expected {known} for {settings.name}.")
        self.settings, self.forget_classes = settings, tuple(forget_classes)
        self.num_classes, self.global_mean = num_classes, global_mean

    @property
    def num_steps(self) -> int:
        """Outer steps K: several classes share each forget batch, so `num_steps_per: class` gives each its own."""
        return self.settings.num_steps * (len(self.forget_classes) if self.settings.num_steps_per == "class" else 1)

    @classmethod
    def alternates(cls, settings: MethodConfig) -> bool:
        """Whether forget and retain are stepped in turn."""
        return cls.forgets and settings.update == "alternate"

    def forget_loss(self, model: DenoisingModel, batch: Batch) -> Tensor:
        """Scalar, of a batch of the forget set."""
        raise NotImplementedError

    def retain_loss(self, model: DenoisingModel, batch: Batch) -> Tensor:
        """Scalar, of a batch of the retain set: the loss of pretraining."""
        return model.loss(batch.x_0, batch.timesteps, batch.noise, batch.dropped_labels).mean()
