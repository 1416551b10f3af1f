"""THE loop: phases take turns on one network, each with its own optimizer (DualOptim, Alg. 1)."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
        NonFiniteError: before the step that would have used a loss or gradient that is not finite.
    """
    for step in range(first_step, num_steps):
        record: Record = {"step": step}
        gradients: Gradients = {}
        for phase in phases:
            for inner in range(phase.steps):
                record |= _update(network, optimizers, phase, step, inner, num_steps, accelerator)
            if log_cosine and len(phases) > 1 and phase.steps:
                present = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
                if gradients:
                    record["gradient_cosine"] = gradient_cosine(gradients, present).item()
                gradients = present
        if ema is not None:
            ema.update(network, step)
        if on_step is not None:
            on_step(step + 1, record)


def _update(
    network: nn.Module,
    optimizers: DualOptim,
    phase: Phase,
    step: int,
    inner: int,
    num_steps: int,
    accelerator: "Accelerator | None",
) -> Record:
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
    loss_value, norm_value = torch.stack([loss.detach().to(norm), norm]).tolist()  # the update's one wait for a GPU
    if not (math.isfinite(loss_value) and math.isfinite(norm_value)):
        raise NonFiniteError(
            f"The {phase.name} phase of step {step} has loss {loss_value:g} and gradient norm {norm_value:g}; "
            f"nothing was stepped. Lower the learning rate."
        )
    if phase.name == "forget":
        optimizers.step_forget()
    else:
        optimizers.step_retain()
    return {f"{phase.name}_loss": loss_value, f"{phase.name}_grad_norm": norm_value, f"{phase.name}_weight": weight}


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
