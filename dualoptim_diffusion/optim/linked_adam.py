"""Pairs of Adams that share part of their moments: between one shared Adam and two of their own.

`SharedMomentAdam` decouples only the first or only the second moment (the ablation of DualOptim); `PlusAdam` keeps
common base moments and what each objective adds to them (DualOptim+, arXiv 2605.21539). In both, the optimizer built
without a `partner` holds the common part in its state, so that saving the pair saves it once.
"""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Moment = Literal["first", "second"]
LinkedMode = Literal["dual_m", "dual_v", "dual_plus"]


class LinkedAdam(Optimizer):
    """What both kinds need: moments of the phase, and common ones that the partner sees too.

    Args:
        params: the weights; the partner is built over the same ones.
        lr: learning rate of this phase.
        partner: whose common moments to use; None to hold them here.
        betas, eps: as in Adam.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        partner: "LinkedAdam | None" = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})
        self._holder = self if partner is None else partner

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of this phase on the present gradients; parameters without one are left alone."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    own, common = self.state[parameter], self._holder.state[parameter]
                    self._start(own, parameter, "own")
                    self._start(common, parameter, "common")
                    parameter -= group["lr"] * self._direction(parameter.grad, own, common, group)

    def _start(self, state: dict[str, Any], parameter: Tensor, kind: str) -> None:
        if f"{kind}_step" not in state:
            state[f"{kind}_step"] = 0
            for moment in ("first", "second"):
                if self._keeps(kind, moment):
                    state[f"{kind}_{moment}"] = torch.zeros_like(parameter)

    def _keeps(self, kind: str, moment: str) -> bool:
        return True

    def _direction(self, grad: Tensor, own: dict[str, Any], common: dict[str, Any], group: dict[str, Any]) -> Tensor:
        raise NotImplementedError


class SharedMomentAdam(LinkedAdam):
    """Adam with one moment common to both phases; the other belongs to the phase.

    The common moment takes the gradients of both phases and is bias-corrected by the number of all steps; the other
    takes its phase's and is corrected by the number of those.

    Args:
        common: which moment both share.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, *, common: Moment, **settings: Any) -> None:
        self._common = common
        super().__init__(params, lr, **settings)

    def _keeps(self, kind: str, moment: str) -> bool:
        return (moment == self._common) == (kind == "common")

    def _direction(self, grad: Tensor, own: dict[str, Any], common: dict[str, Any], group: dict[str, Any]) -> Tensor:
        hats = {}
        own["own_step"] += 1
        common["common_step"] += 1
        for moment, beta, value in zip(("first", "second"), group["betas"], (grad, grad.square()), strict=True):
            state, kind = (common, "common") if moment == self._common else (own, "own")
            hats[moment] = state[f"{kind}_{moment}"].lerp_(value, 1 - beta) / (1 - beta ** state[f"{kind}_step"])
        return hats["first"] / (hats["second"].sqrt() + group["eps"])


class PlusAdam(LinkedAdam):
    """DualOptim+: common base moments, and in each phase moving averages of what its gradients add to them."""

    def _direction(self, grad: Tensor, own: dict[str, Any], common: dict[str, Any], group: dict[str, Any]) -> Tensor:
        hats = {}
        own["own_step"] += 1
        for moment, beta, value in zip(("first", "second"), group["betas"], (grad, grad.square()), strict=True):
            base, before = common[f"common_{moment}"], common["common_step"]
            base_hat = base / (1 - beta**before) if before else base.clone()  # corrected with the previous total step
            hats[moment] = base_hat + self._delta(own, moment, value - base_hat, beta)
            base.lerp_(value, 1 - beta)  # the base takes g and g^2 in both phases
        common["common_step"] += 1
        return hats["first"] / (hats["second"].abs().sqrt() + group["eps"])

    def _delta(self, own: dict[str, Any], moment: str, surplus: Tensor, beta: float) -> Tensor:
        """m_k <- b1 m_k + (1 - b1)(g - mb_hat) and v_k likewise, bias-corrected by the steps of the phase."""
        return own[f"own_{moment}"].lerp_(surplus, 1 - beta) / (1 - beta ** own["own_step"])


def linked_pair(
    mode: LinkedMode, params: Iterable[nn.Parameter], forget_lr: float, retain_lr: float
) -> tuple[LinkedAdam, LinkedAdam]:
    """(forget, retain) optimizers of `optimizers.mode` dual_m, dual_v or dual_plus; the second holds what is common.

    `dual_m` decouples only the first moment, `dual_v` only the second.
    """
    parameters = list(params)
    if mode == "dual_plus":
        retain: LinkedAdam = PlusAdam(parameters, retain_lr)
        return PlusAdam(parameters, forget_lr, partner=retain), retain
    common: Moment = "second" if mode == "dual_m" else "first"
    retain = SharedMomentAdam(parameters, retain_lr, common=common)
    return SharedMomentAdam(parameters, forget_lr, common=common, partner=retain), retain
