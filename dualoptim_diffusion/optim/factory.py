"""Optimizers by name, and what a recipe asks of them: momentum, 8-bit states, weights that stay off a mask."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from dualoptim_diffusion.core.errors import InputError, nearest, reason
from dualoptim_diffusion.core.plugins import find_plugin, registered
from dualoptim_diffusion.optim.mask_indices import overlay

# Each entry of these depends on its own gradient alone, so a zero gradient never moves a weight (weight decay 0).
ELEMENTWISE = frozenset({"adadelta", "adagrad", "adam", "adamax", "adamw", "lion", "momentum", "nadamw", "sgd"})
EIGHT_BIT_FROM = 4096  # weights of a tensor; smaller ones keep full moments
DIRECT = {"adam": Adam, "adamw": AdamW}  # what timm makes of these names; loading timm takes a second or more
# These want another backward pass, another package or a compiler, so a recipe cannot name them.
NEEDS_MORE = ("adahessian", "bnb", "fused", "kron")


def optimizer_names() -> list[str]:
    """Every optimizer a recipe may name: timm's, without those that need more than gradients."""
    from timm.optim import list_optimizers

    return [name for name in list_optimizers() if not name.startswith(NEEDS_MORE)]


def check_optimizer_name(name: str) -> None:
    """Raises:
    InputError: if the name is unknown or needs more than gradients.
    """
    if name in DIRECT or _plugin(name) is not None:
        return
    if name not in (names := optimizer_names()):
        known = [*names, *registered("optimizers")]
        raise InputError(f"There is no optimizer {name!r} for a recipe: {nearest(name, known)}")


def _plugin(name: str) -> Any | None:
    """What makes an optimizer of another package; ours and timm's names come first, and ask nobody else."""
    if ":" not in name and name in optimizer_names():
        return None
    return find_plugin("optimizers", name)


def make_optimizer(name: str, params: Iterable[nn.Parameter], lr: float, fused: bool = False) -> Optimizer:
    """An optimizer by timm's name, with weight decay 0 (a decay would move weights off the mask).

    One of another package (`core.plugins`) is called with the parameters and `lr` alone.

    Args:
        fused: step in one kernel, where the optimizer is one of torch's that can (Adam, AdamW).

    Raises:
        InputError: as `check_optimizer_name`.
    """
    options: dict[str, Any] = {"lr": lr, "weight_decay": 0.0} | ({"fused": True} if fused else {})
    if name in DIRECT:
        return DIRECT[name](list(params), **options)
    if (plugin := _plugin(name)) is not None:
        made = plugin(list(params), lr=lr)
        if not isinstance(made, Optimizer):
            raise InputError(f"{name} makes a {type(made).__name__}, expected a torch.optim.Optimizer.")
        return made
    from timm.optim import create_optimizer_v2

    check_optimizer_name(name)
    return create_optimizer_v2(list(params), opt=name, **options)


def make_8bit_adamw(params: Iterable[nn.Parameter], lr: float) -> Optimizer:
    """AdamW with weight decay 0 whose moments take one byte a weight, in blocks of 256 with one scale (bitsandbytes).

    Zero need not be among the values a byte can take, so weights off a mask move unless `freeze_off_mask` holds them.
    Tensors of fewer than 4096 weights keep full moments.
    """
    from bitsandbytes.optim import AdamW8bit

    optimizer: Optimizer = AdamW8bit(list(params), lr=lr, weight_decay=0.0)
    return optimizer


def check_8bit(device: torch.device) -> None:
    """Takes one step with 8-bit moments on the device.

    Raises:
        InputError: if no backend does that here.
    """
    weight = nn.Parameter(torch.ones(EIGHT_BIT_FROM, device=device))
    weight.grad = torch.ones_like(weight)
    try:
        make_8bit_adamw([weight], lr=1.0).step()
        works = bool(weight.isfinite().all() and (weight < 1).all())
        problem = "its step gives wrong weights"
    except Exception as error:  # a missing package, library or kernel: each raises in its own way
        works, problem = False, reason(error)
    if not works:
        raise InputError(
            f"The recipe asks for an 8bit optimizer state, but bitsandbytes does not work on {device.type} here "
            f"({problem}); `pip install bitsandbytes`, or choose compact or full."
        )


def set_momentum(optimizer: Optimizer, momentum: float) -> None:
    """Sets the momentum and the first of the betas of every group, whichever there are.

    Raises:
        InputError: if the optimizer has neither.
    """
    for group in optimizer.param_groups:
        if not group.keys() & {"betas", "momentum"}:
            raise InputError(f"{type(optimizer).__name__} has no momentum; leave out its momentum {momentum:g}.")
        if "betas" in group:
            group["betas"] = (momentum, *group["betas"][1:])
        if "momentum" in group:
            group["momentum"] = momentum


def freeze_off_mask(optimizer: Optimizer, params: Mapping[str, nn.Parameter], mask: Mapping[str, Tensor]) -> None:
    """Makes every later `optimizer.step()` leave the weights off the mask bit-identical.

    For optimizers that mix entries (Muon orthogonalises whole matrices), where masked gradients alone do not.
    """
    before: dict[str, Tensor] = {}

    def copy(*_: object) -> None:
        before.update({name: params[name].detach().clone() for name in mask})

    @torch.no_grad()
    def restore(*_: object) -> None:
        for name, part in mask.items():
            params[name].copy_(overlay(params[name], part, before[name]))
        before.clear()

    optimizer.register_step_pre_hook(copy)
    optimizer.register_step_post_hook(restore)
