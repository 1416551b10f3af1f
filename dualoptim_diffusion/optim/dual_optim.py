"""DualOptim: two optimizers over the same weights, one an objective, each with its own moments (Algorithm 1)."""

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor
from torch.optim import Optimizer

from dualoptim_diffusion.core.errors import InputError

PhaseName = Literal["forget", "retain"]


class DualOptim:
    """Steps the forget loss with one optimizer and the retain loss with another; neither sees the other's momentum.

    Both are real `torch.optim.Optimizer`s over the same parameters. The same object given twice is the shared
    optimizer that the paper compares with.

    Args:
        forget: optimizer of the forget phase (the paper: Adam).
        retain: optimizer of the retain phase (the paper: the one used in pretraining).
    """

    def __init__(self, forget: Optimizer, retain: Optimizer) -> None:
        self.forget, self.retain = forget, retain
        self._base_lrs = {phase: [group["lr"] for group in self[phase].param_groups] for phase in ("forget", "retain")}

    def __getitem__(self, phase: str) -> Optimizer:
        return {"forget": self.forget, "retain": self.retain}[phase]

    @property
    def shared(self) -> bool:
        """Whether one optimizer takes both kinds of steps."""
        return self.forget is self.retain

    def step_forget(self) -> None:
        """One step of the forget optimizer on the present gradients."""
        self.forget.step()

    def step_retain(self) -> None:
        """One step of the retain optimizer on the present gradients."""
        self.retain.step()

    def skip_where(self, phase: PhaseName, skip: Tensor) -> bool:
        """Makes the phase's next step change nothing if `skip` is 1, which is decided on the device without a wait.

        Returns:
            Whether the optimizer can do so: torch's fused Adams and `MaskedAdamW` in its fused form.
        """
        optimizer: Any = self[phase]
        if not all(group.get("fused") for group in optimizer.param_groups):
            return False
        optimizer.found_inf = skip  # the name that torch's gradient scaler uses
        return True

    def zero_grad(self) -> None:
        """Clears the gradients, which both optimizers share."""
        self.forget.zero_grad()
        self.retain.zero_grad()

    def scale_lr(self, phase: PhaseName, factor: float) -> None:
        """Sets the phase's learning rate to `factor` times the one its optimizer was built with."""
        for group, lr in zip(self[phase].param_groups, self._base_lrs[phase], strict=True):
            group["lr"] = lr * factor

    def state_dict(self) -> dict[str, Any]:
        """`{"forget": ..., "retain": ...}`, or `{"shared": ...}` where both are one optimizer."""
        if self.shared:
            return {"shared": self.retain.state_dict()}
        return {"forget": self.forget.state_dict(), "retain": self.retain.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` gave.

        Raises:
            InputError: if the state is of the other mode.
        """
        expected = {"shared"} if self.shared else {"forget", "retain"}
        if set(state) != expected:
            raise InputError(f"The optimizer state holds {sorted(state)}, expected {sorted(expected)}.")
        for name, part in state.items():
            (self.retain if name == "shared" else self[name]).load_state_dict(part)
