"""What a forgetting method offers: two losses, which recipe keys it reads, how gradients are masked and clipped."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from pydantic import ValidationError
from torch import Tensor

from dualoptim_diffusion.core.config import MethodConfig, Section
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.sections import complaint
from dualoptim_diffusion.data import Batch, ImageSet
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
        "optimizers.retain_momentum",
        "optimizers.fused",
    }
)
FORGET_KEYS = frozenset(
    {"forget_steps", "clip_retain", "forget_lr", "forget_schedule", "forget_weight", "forget_weight_schedule"}
    | {"optimizers.mode", "optimizers.forget", "optimizers.forget_momentum", "optimizers.forget_state"}
)


def null_labels(model: DenoisingModel, batch: Batch) -> Tensor:
    """The null label for every sample [B]."""
    assert model.null_class is not None  # Method.check has seen to it
    return torch.full_like(batch.class_labels, model.null_class)


class Method:
    """Base of all methods: plain denoising on the retain set, and what the loop asks of a forget loss.

    Args:
        settings: the recipe's `method` section.
        forget_classes: ids to forget.
        num_classes: of the model, without the null class.
        global_mean: mean of a per-sample tensor over the batches of all processes.
    """

    Options: ClassVar[type[Section]] = Section  # settings of a method's own, under method.options
    reads: ClassVar[frozenset[str]] = RETAIN_KEYS | FORGET_KEYS
    updates: ClassVar[tuple[str, ...]] = ("alternate",)
    forgets: ClassVar[bool] = True  # has a forget loss
    from_scratch: ClassVar[bool] = False  # pretrains on the retain set alone
    replays: ClassVar[bool] = False  # retains images that the base model drew, not real ones
    masks_retain: bool = False
    clip_first: bool = False

    def __init__(
        self,
        settings: MethodConfig,
        forget_classes: Sequence[int],
        num_classes: int,
        global_mean: Callable[[Tensor], Tensor] = Tensor.mean,
    ) -> None:
        self.settings, self.forget_classes = settings, tuple(forget_classes)
        self.options: Any = self.Options.model_validate(settings.options)
        self.num_classes, self.global_mean = num_classes, global_mean

    @classmethod
    def check_update(cls, settings: MethodConfig) -> None:
        """Raises:
        InputError: if the settings name a form of update that the method has not.
        """
        if cls.forgets and "update" in settings.model_fields_set and settings.update not in cls.updates:
            known = " or ".join(cls.updates)
            raise InputError(f"method.update is {settings.update!r}, expected {known} for {settings.name}.")

    @classmethod
    def check_options(cls, settings: MethodConfig) -> frozenset[str]:
        """Keys that the method reads, with `options` if it has settings of its own.

        Raises:
            InputError: if one of these is unknown or wrong.
        """
        try:
            cls.Options.model_validate(settings.options)
        except ValidationError as error:
            raise InputError(f"method.options of {settings.name}: {complaint(cls.Options, error)}") from None
        return cls.reads | ({"options"} if cls.Options.model_fields else set())

    @property
    def num_steps(self) -> int:
        """Outer steps K: several classes share each forget batch, so `num_steps_per: class` gives each its own."""
        return self.settings.num_steps * (len(self.forget_classes) if self.settings.num_steps_per == "class" else 1)

    @classmethod
    def alternates_under(cls, settings: MethodConfig) -> bool:
        """Whether these settings step forget and retain in turn."""
        return cls.forgets and (settings.update if "update" in cls.reads else cls.updates[0]) == "alternate"

    @property
    def alternates(self) -> bool:
        """Whether forget and retain are stepped in turn."""
        return self.alternates_under(self.settings)

    @property
    def joint(self) -> bool:
        """Whether one step takes a forget and a retain batch."""
        return self.forgets and not self.alternates

    @property
    def num_updates(self) -> dict[str, int]:
        """Batches of the forget and of the retain set that a run takes; a joint step takes one of each."""
        forget_steps = self.settings.forget_steps if self.alternates else int(self.forgets)
        retain_steps = 1 if self.joint else self.settings.retain_steps
        return {"forget": self.num_steps * forget_steps, "retain": self.num_steps * retain_steps}

    @property
    def uses_null(self) -> bool:
        """Whether the losses ask what the base model predicts without a label."""
        return "forget_ceiling" in self.reads and self.settings.forget_ceiling is not None

    @property
    def copies(self) -> int:
        """Copies of the weights, or tensors like them, that the losses compare with."""
        return int(self.uses_null)

    def check(self, model: DenoisingModel) -> None:
        """Checks that the model has what the losses ask of it.

        Raises:
            InputError: if it has no null class, but they need one.
        """
        if self.uses_null and model.null_class is None:
            raise InputError(
                f"{self.settings.name} asks here what the model predicts without a label, but the model has no null "
                "class; set model.null_class, or choose another method without method.forget_ceiling."
            )

    def prepare(self, model: DenoisingModel, retain_set: ImageSet) -> None:
        """Called once with the base model, before any step."""
        if self.copies:
            self.base = model.frozen_copy()

    def denoising_losses(self, model: DenoisingModel, batch: Batch) -> Tensor:
        """The loss of pretraining, one value a sample [B]."""
        return model.loss(batch.x_0, batch.timesteps, batch.noise, batch.dropped_labels)

    def below_ceiling(self, losses: Tensor, batch: Batch) -> Tensor:
        """The same [B], detached where a loss is above the ceiling: ascent on that sample ends.

        The ceiling is `forget_ceiling` times the base model's loss on this very sample without a label.
        """
        if self.settings.forget_ceiling is None:
            return losses
        with torch.no_grad():
            null = null_labels(self.base, batch)
            ceiling = self.settings.forget_ceiling * self.base.loss(batch.x_0, batch.timesteps, batch.noise, null)
        return torch.where(losses < ceiling, losses, losses.detach())

    def forget_loss(self, model: DenoisingModel, batch: Batch) -> Tensor:
        """Scalar, of a batch of the forget set."""
        raise NotImplementedError

    def retain_loss(self, model: DenoisingModel, batch: Batch) -> Tensor:
        """Scalar, of a batch of the retain set: the loss of pretraining."""
        return self.denoising_losses(model, batch).mean()

    def joint_loss(self, model: DenoisingModel, forget_batch: Batch, retain_batch: Batch) -> Tensor:
        """Scalar, of both batches, where one step serves both objectives."""
        retain_loss = self.retain_loss(model, retain_batch)
        return self.forget_loss(model, forget_batch) + self.settings.retain_weight * retain_loss

    def add_gradient(self, model: DenoisingModel) -> None:
        """Adds an analytic gradient to the joint step's, where the method has one."""
