"""Forgetting methods: one paper, one file, one line in the registry."""

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor

from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.plugins import find_among
from dualoptim_diffusion.data import Batch
from dualoptim_diffusion.models import DenoisingModel
from dualoptim_diffusion.unlearning.loop import Phase
from dualoptim_diffusion.unlearning.methods.baselines import Finetune, GradientAscent, Retrain
from dualoptim_diffusion.unlearning.methods.method import Method
from dualoptim_diffusion.unlearning.methods.null_matching import NullMatching
from dualoptim_diffusion.unlearning.methods.salun import SalUn
from dualoptim_diffusion.unlearning.methods.selective_amnesia import SelectiveAmnesia
from dualoptim_diffusion.unlearning.methods.sfron import SFRon

__all__ = ["METHODS", "Method", "find_method", "phases"]

METHODS: dict[str, type[Method]] = {
    "finetune": Finetune,
    "gradient_ascent": GradientAscent,
    "null_matching": NullMatching,
    "retrain": Retrain,
    "sa": SelectiveAmnesia,
    "salun": SalUn,
    "sfron": SFRon,
}

BatchSource = Callable[[int], Batch]


def find_method(name: str) -> type[Method]:
    """The method of that name, here or in another package (`core.plugins`).

    Raises:
        InputError: if there is none; the nearest names are listed.
    """
    found = find_among("methods", METHODS, name)
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise InputError(f"{name} is no method; derive it from dualoptim_diffusion.unlearning.methods.Method.")
    return found


def phases(
    method: Method,
    model: DenoisingModel,
    forget_batches: BatchSource,
    retain_batches: BatchSource,
    mask: Mapping[str, Tensor] | None,
) -> list[Phase]:
    """What the loop runs: forget and retain in turn, or both losses in one step."""
    settings = method.settings
    phase = partial(Phase, clip_norm=settings.clip_norm, clip_first=method.clip_first)

    def forget_loss(update: int) -> Tensor:
        return method.forget_loss(model, forget_batches(update))

    def retain_loss(update: int) -> Tensor:
        return method.retain_loss(model, retain_batches(update))

    def joint_loss(update: int) -> Tensor:
        return method.joint_loss(model, forget_batches(update), retain_batches(update))

    if method.joint:
        add = partial(method.add_gradient, model)
        return [phase("retain", joint_loss, lr_schedule=settings.retain_schedule, mask=mask, add_gradient=add)]
    forget = phase(
        "forget",
        forget_loss,
        steps=settings.forget_steps,
        weight=settings.forget_weight,
        weight_schedule=settings.forget_weight_schedule,
        lr_schedule=settings.forget_schedule,
        mask=mask,
    )
    retain = phase(
        "retain",
        retain_loss,
        steps=settings.retain_steps,
        lr_schedule=settings.retain_schedule,
        mask=mask if method.masks_retain else None,
        clip_norm=settings.clip_norm if settings.clip_retain else None,
    )
    return [forget, retain] if method.forgets else [retain]
