"""The optimizers that a recipe asks for: one description, from which they are built and their memory is forecast."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dualoptim_diffusion.core.config import ADAMS, STATES, MethodConfig, Mode, OptimizersConfig, State
from dualoptim_diffusion.optim.dual_optim import DualOptim
from dualoptim_diffusion.optim.factory import (
    DIRECT,
    ELEMENTWISE,
    check_8bit,
    freeze_off_mask,
    make_8bit_adamw,
    make_optimizer,
    set_momentum,
)
from dualoptim_diffusion.optim.linked_adam import LinkedMode, linked_pair
from dualoptim_diffusion.optim.mask_indices import INDEX_BYTES
from dualoptim_diffusion.optim.masked_adamw import MaskedAdamW

FP32_BYTES = 4
EIGHT_BIT = (2 + 2 * 4 / 256) / 4  # two moments of a byte each and an fp32 scale for blocks of 256, in fp32 elements


@dataclass(frozen=True)
class OptimizerOfPhase:
    """One optimizer.

    Attributes:
        name: timm's.
        lr: learning rate before any schedule.
        state: form of its moments.
        momentum: or first beta; None for the optimizer's default.
        masked: its gradients are zero off the mask, where weights must stay bit-identical.
        fused: step in one kernel.
    """

    name: str
    lr: float
    state: State = "full"
    momentum: float | None = None
    masked: bool = False
    fused: bool = False

    @property
    def moves_off_mask(self) -> bool:
        """Whether its step changes weights whose gradient is zero."""
        return self.name not in ELEMENTWISE or self.state == "8bit"

    def build(self, parameters: Mapping[str, nn.Parameter], mask: Mapping[str, Tensor]) -> Optimizer:
        """The optimizer over all parameters, before momentum is set and weights are frozen off the mask."""
        if self.state == "compact":
            return MaskedAdamW(parameters.values(), [mask[name] for name in parameters], self.lr, fused=self.fused)
        if self.state == "8bit":
            return make_8bit_adamw(parameters.values(), self.lr)
        return make_optimizer(self.name, parameters.values(), self.lr, self.fused)

    def finish(self, optimizer: Optimizer, parameters: Mapping[str, nn.Parameter], mask: Mapping[str, Tensor]) -> None:
        """Sets momentum, and holds weights off the mask where the step would move them."""
        if self.momentum is not None:
            set_momentum(optimizer, self.momentum)
        if self.masked and self.moves_off_mask:
            freeze_off_mask(optimizer, parameters, mask)

    def elements(self, density: float, form: State | None = None) -> tuple[str, float]:
        """(form, elements of state per weight) with that share of the weights under the mask, for `form` if it can."""
        wanted = form or self.state
        if self.name not in ADAMS or (wanted == "compact" and not (self.masked and density)):
            wanted = "full"
        by_form: dict[str, float] = {"compact": 2 * density, "8bit": EIGHT_BIT}
        return wanted, by_form.get(wanted) or elements_of_state(self.name)


@dataclass(frozen=True)
class OptimizerPlan:
    """The optimizers of a run.

    Attributes:
        mode: how many there are, and what they share.
        forget: of the forget phase; None where one optimizer takes all steps.
        retain: of the retain phase, or of all.
    """

    mode: Mode
    forget: OptimizerOfPhase | None
    retain: OptimizerOfPhase

    @classmethod
    def of_recipe(
        cls, optimizers: OptimizersConfig, method: MethodConfig, alternates: bool, masks_retain: bool
    ) -> "OptimizerPlan":
        """The plan of a resolved recipe: keys that the method ignores have their defaults.

        Args:
            alternates: the method steps forget and retain in turn, not both losses in one step.
            masks_retain: the method masks the retain gradients too.
        """
        mode: Mode = optimizers.mode if alternates else "shared"
        momentum, fused = optimizers.retain_momentum, optimizers.fused
        name, state = optimizers.retain, optimizers.retain_state
        retain = OptimizerOfPhase(name, method.retain_lr, state, momentum, masks_retain, fused)
        if mode == "shared":
            return cls(mode, None, retain)
        momentum, name, state = optimizers.forget_momentum, optimizers.forget, optimizers.forget_state
        return cls(mode, OptimizerOfPhase(name, method.forget_lr, state, momentum, True, fused), retain)

    @classmethod
    def single(cls, name: str, lr: float, fused: bool = False) -> "OptimizerPlan":
        """One optimizer without a mask, as in pretraining."""
        return cls("shared", None, OptimizerOfPhase(name, lr, fused=fused))

    @property
    def by_phase(self) -> dict[str, OptimizerOfPhase]:
        """The optimizers by what they are called in a report."""
        if self.forget is None:
            return {"optimizer": self.retain}
        return {"forget optimizer": self.forget, "retain optimizer": self.retain}

    @property
    def needs_indices(self) -> bool:
        """Whether an optimizer keeps its state for the weights under the mask alone."""
        return any(phase.state == "compact" for phase in self.by_phase.values())

    def check(self, device: torch.device) -> None:
        """Takes a step with 8-bit states where there are any.

        Raises:
            InputError: if no backend does that on the device.
        """
        if any(phase.state == "8bit" for phase in self.by_phase.values()):
            check_8bit(device)

    def build(self, network: nn.Module, mask: Mapping[str, Tensor] | None = None) -> DualOptim:
        """The optimizers over a network's parameters.

        One shared optimizer moves weights off the mask in the forget step too, by its momentum, as published baselines
        do; it is frozen there only where the method masks both phases.

        Args:
            mask: by parameter name, bool; indices where `needs_indices`.
        """
        parameters, mask = dict(network.named_parameters()), mask or {}
        if self.mode not in STATES:
            return self._build_linked(parameters, mask)
        retain = self.retain.build(parameters, mask)
        forget = retain if self.forget is None else self.forget.build(parameters, mask)
        if self.forget is not None:
            self.forget.finish(forget, parameters, mask)
        self.retain.finish(retain, parameters, mask)
        return DualOptim(forget, retain)

    def _build_linked(self, parameters: Mapping[str, nn.Parameter], mask: Mapping[str, Tensor]) -> DualOptim:
        assert self.forget is not None  # only a shared optimizer has none
        pair = linked_pair(self._linked_mode, parameters.values(), self.forget.lr, self.retain.lr)
        for phase, optimizer in zip((self.forget, self.retain), pair, strict=True):
            if phase.momentum is not None:
                set_momentum(optimizer, phase.momentum)
            if phase.masked:  # the partner's moments reach weights off the mask
                freeze_off_mask(optimizer, parameters, mask)
        return DualOptim(*pair)

    @property
    def _linked_mode(self) -> LinkedMode:
        assert self.mode != "dual" and self.mode != "shared"  # noqa: PT018, mypy narrows this form
        return self.mode

    def elements(self, density: float, form: State | None = None) -> dict[str, float]:
        """Elements of optimizer state per weight, by optimizer.

        Args:
            density: share of the weights under the mask; 0 without one.
            form: full, compact or 8bit for every state that can have it; None for the recipe's own.
        """
        if self.mode not in STATES:
            weight = nn.Parameter(torch.ones(64, 64))
            pair = linked_pair(self._linked_mode, [weight], 1e-3, 1e-3)
            return {f"both optimizers ({self.mode})": sum(stepped_elements(optimizer, weight) for optimizer in pair)}
        found = {}
        for title, phase in self.by_phase.items():
            used, count = phase.elements(density, form)
            found[f"{title} ({phase.name}{'' if used == 'full' else f', {used}'})"] = count
        return found

    def mask_elements(self, density: float, form: State | None = None) -> float:
        """The mask as the run holds it, in fp32 elements per weight: indices, or bools where those are smaller."""
        as_indices = self.needs_indices if form is None else form == "compact"
        return density if as_indices else min(density, 1 / INDEX_BYTES)

    def bytes(self, num_parameters: int, density: float, form: State | None = None) -> dict[str, int]:
        """Bytes of optimizer state and mask, by part; arguments as in `elements`."""
        parts = self.elements(density, form) | {"mask": self.mask_elements(density, form)}
        return {name: round(FP32_BYTES * count * num_parameters) for name, count in parts.items()}


def elements_of_state(name: str) -> int:
    """Elements of state per weight of an optimizer with full state, measured on a small matrix if it is not Adam."""
    if name in DIRECT:  # two moments; a step of any optimizer of torch's loads all of torch.compile
        return 2
    weight = nn.Parameter(torch.ones(64, 64))
    return stepped_elements(make_optimizer(name, [weight], 1e-3), weight)


def stepped_elements(optimizer: Optimizer, weight: nn.Parameter) -> int:
    """Elements of state per weight after one step on `weight`."""
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    state = optimizer.state[weight].values()
    return sum(s.numel() for s in state if isinstance(s, Tensor)) // weight.numel()
