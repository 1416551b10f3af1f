"""THE loop: phases take turns on one network, each with its own optimizer (DualOptim, Alg. 1)."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from dualoptim_diffusion.core.errors import NonFiniteError
from dualoptim_diffusion.core.schedules import SCHEDULES, ScheduleName
from dualoptim_diffusion.optim.dual_optim import DualOptim, PhaseName
from dualoptim_diffusion.optim.ema import EMA
from dualoptim_diffusion.optim.mask_indices import chunks, concatenated, few_kernels, zero_off

if TYPE_CHECKING:
    from accelerate import Accelerator

Record = dict[str, float]  # what one outer step logs
Gradients = dict[str, Tensor]  # by parameter name


@dataclass(frozen=True)
class Phase:
    """One objective and how it is stepped.

    Attributes:
        name: which optimizer steps it.
        loss: update (0, 1, ... over the whole run) -> scalar loss.
        steps: updates an outer step (T_f, T_r).
        weight: alpha; a dedicated Adam cancels it except through clipping, so the learning rate is the real knob.
        weight_schedule: how alpha changes over the outer steps.
        lr_schedule: how the optimizer's learning rate changes over the outer steps.
        mask: by parameter name, bool, or the indices that `indices_of` gives; gradients off it become zero.
        clip_norm: largest global gradient norm, or None.
        clip_first: clip before masking (joint SalUn) instead of after (SFRon and alternating SalUn).
        add_gradient: adds an analytic gradient after the backward pass (SA's penalty).
    """

    name: PhaseName
    loss: Callable[[int], Tensor]
    steps: int = 1
    weight: float = 1.0
    weight_schedule: ScheduleName = "constant"
    lr_schedule: ScheduleName = "constant"
    mask: Mapping[str, Tensor] | None = None
    clip_norm: float | None = None
    clip_first: bool = False
    add_gradient: Callable[[], None] | None = None


class Update(NamedTuple):
    """What one update came to.

    Attributes:
        values: loss and gradient norm [2], on the device.
        read: the same on the host, where something waited for them.
    """

    phase: PhaseName
    weight: float
    values: Tensor
    read: Sequence[float] | None = None


def unlearn(
    network: nn.Module,
    optimizers: DualOptim,
    phases: Sequence[Phase],
    num_steps: int,
    *,
    first_step: int = 0,
    ema: EMA | None = None,
    accelerator: "Accelerator | None" = None,
    on_step: Callable[[int, Record], None] | None = None,
    log_cosine: bool = True,
) -> None:
    """Runs outer steps `first_step` to `num_steps` - 1, changing the network's weights in place.

    Args:
        on_step: called with the number of finished outer steps and their last record; may raise to stop.
        log_cosine: record the cosine between the last gradients of two phases; holds one more set of gradients.

    Raises:
        NonFiniteError: if a loss or gradient is not finite; no step has used it, and none was taken after it.
    """
    for step in range(first_step, num_steps):
        updates: list[Update] = []
        cosine: list[Tensor] = []
        gradients: Gradients = {}
        for phase in phases:
            for inner in range(phase.steps):
                updates.append(_update(network, optimizers, phase, (step, inner, num_steps), updates, accelerator))
            if log_cosine and len(phases) > 1 and phase.steps:
                present = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
                if gradients:
                    cosine = [gradient_cosine(gradients, present)]
                gradients = present
        if ema is not None:
            ema.update(network, step)
        record = _read(step, updates, cosine)  # waits for the device, so all work is queued before
        if on_step is not None:
            on_step(step + 1, record)


def _update(
    network: nn.Module,
    optimizers: DualOptim,
    phase: Phase,
    position: tuple[int, int, int],
    before: Sequence[Update],
    accelerator: "Accelerator | None",
) -> Update:
    """One step on one batch, unless its loss or gradient, or one `before` in this outer step, is not finite."""
    step, inner, num_steps = position
    weight = phase.weight * SCHEDULES[phase.weight_schedule](step, num_steps)  # alpha_k
    optimizers.scale_lr(phase.name, SCHEDULES[phase.lr_schedule](step, num_steps))
    optimizers.zero_grad()
    loss = phase.loss(step * phase.steps + inner)
    if accelerator is None:
        (weight * loss).backward()
    else:
        accelerator.backward(weight * loss)
        loss = accelerator.reduce(loss.detach(), "mean")
    if phase.add_gradient is not None:
        phase.add_gradient()
    norm = edit_gradients(network, phase.mask, phase.clip_norm, phase.clip_first)
    update = Update(phase.name, weight, torch.stack([loss.detach().to(norm), norm]))
    finite = torch.cat([u.values for u in (*before, update)]).isfinite().all()
    if not optimizers.skip_where(phase.name, (~finite).float()):
        update = update._replace(read=update.values.tolist())
        _read(step, [update])
    if phase.name == "forget":
        optimizers.step_forget()
    else:
        optimizers.step_retain()
    return update


def _read(step: int, updates: Sequence[Update], cosine: Sequence[Tensor] = ()) -> Record:
    """The record of an outer step: its one wait for a GPU where the optimizers can skip a step by themselves.

    Raises:
        NonFiniteError: if a loss or gradient norm is not finite.
    """
    unread = [*(update.values for update in updates if update.read is None), *(c.reshape(1) for c in cosine)]
    numbers = torch.cat([part.to(unread[0]) for part in unread]).tolist() if unread else []
    record: Record = {"step": step}
    for name, weight, _, read in updates:
        loss, norm = read or (numbers.pop(0), numbers.pop(0))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NonFiniteError(
                f"The {name} phase of step {step} has loss {loss:g} and gradient norm {norm:g}; "
                f"nothing was stepped. Lower the learning rate."
            )
        record |= {f"{name}_loss": loss, f"{name}_grad_norm": norm, f"{name}_weight": weight}
    return record | ({"gradient_cosine": numbers[-1]} if cosine else {})


@torch.no_grad()
def gradient_cosine(one: Gradients, other: Gradients, foreach: bool | None = None) -> Tensor:
    """The cosine between the gradients of two phases, as they were stepped; 0 where one is all zero.

    Args:
        foreach: as in `few_kernels`.
    """
    if not (common := sorted(one.keys() & other.keys())):  # the phases train different weights
        return torch.zeros(())
    left, right = ([part[name] for name in common] for part in (one, other))
    pieces = chunks(left) if few_kernels(left, foreach) else (slice(i, i + 1) for i in range(len(left)))
    dot = torch.stack([torch.dot(concatenated(left[piece]), concatenated(right[piece])) for piece in pieces]).sum()
    norms = [torch.stack(torch._foreach_norm(list(part.values()))).norm() for part in (one, other)]
    cosine = dot / norms[0] / norms[1]
    return torch.where(torch.isfinite(cosine), cosine, 0.0)


@torch.no_grad()
def edit_gradients(
    network: nn.Module, mask: Mapping[str, Tensor] | None, clip_norm: float | None, clip_first: bool
) -> Tensor:
    """Masks and clips the gradients in the method's order; returns the global norm before clipping."""
    norm = _clip(network, clip_norm) if clip_first or mask is None else None
    if mask is not None:
        found = [(p.grad, mask[name]) for name, p in network.named_parameters() if p.grad is not None]
        zero_off([grad for grad, _ in found], [part for _, part in found])
    return _clip(network, clip_norm) if norm is None else norm


def _clip(network: nn.Module, clip_norm: float | None) -> Tensor:
    return nn.utils.clip_grad_norm_(network.parameters(), float("inf") if clip_norm is None else clip_norm)
