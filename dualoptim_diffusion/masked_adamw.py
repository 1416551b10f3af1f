"""AdamW with moments for the weights under a mask alone: what makes two optimizers cost little more than one."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adamw import adamw

AT_ONCE = 2**23  # weights under the mask that are gathered at a time
INDEX_BYTES = 4  # of a weight's place, against one byte of a bool mask for every weight


def support_of(mask: Tensor) -> Tensor:
    """The places of the weights under a bool mask: flat indices, int32 [N]."""
    return mask.flatten().nonzero()[:, 0].int()


def smaller_form(mask: Tensor) -> Tensor:
    """The mask itself, or its places where those take fewer bytes."""
    return support_of(mask) if INDEX_BYTES * int(mask.sum()) < mask.numel() else mask


def overlay(values: Tensor, support: Tensor, ground: Tensor) -> Tensor:
    """`ground` with the entries under the mask taken from `values`; `ground` may be changed in place.

    Args:
        support: a bool mask, or what `support_of` makes of it.
    """
    if support.dtype == torch.bool:
        return torch.where(support, values, ground)
    ground.view(-1).scatter_(0, support.long(), values.reshape(-1).index_select(0, support))
    return ground


class MaskedAdamW(Optimizer):
    """AdamW over the weights under a mask; the others have no state and never move.

    With weight decay 0 every weight's step depends on its own gradients alone, so the steps are those of AdamW (and of
    Adam) fed gradients that are zero off the mask, bit for bit between equal implementations.

    Args:
        params: the weights.
        masks: for each parameter a bool mask, or what `support_of` makes of it, which two optimizers may share. Places
            are no part of the state: whoever restores it brings the mask.
        lr, betas, eps: as in AdamW.
        foreach: step all tensors at once; by default on a GPU, as AdamW does.
        fused: step in one kernel.

    Raises:
        ValueError: if there is not one support a parameter.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        masks: Sequence[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        foreach: bool | None = None,
        fused: bool = False,
    ) -> None:
        parameters = list(params)
        if len(parameters) != len(masks):
            raise ValueError(f"{len(masks)} masks were given for {len(parameters)} parameters")
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "foreach": foreach, "fused": fused})
        supports = [support_of(mask) if mask.dtype == torch.bool else mask for mask in masks]
        self._supports = dict(zip(parameters, supports, strict=True))

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step on the present gradients, of which only those under the mask are read."""
        for group in self.param_groups:
            for part in self._parts([p for p in group["params"] if p.grad is not None and len(self._supports[p])]):
                self._step(part, group)

    def _parts(self, parameters: list[Tensor]) -> Iterator[list[Tensor]]:
        """The parameters in order, about `AT_ONCE` weights under the mask at a time, which are copied for the step."""
        part: list[Tensor] = []
        gathered = 0
        for p in parameters:
            count = len(self._supports[p])  # type: ignore[index]
            if part and gathered + count > AT_ONCE:
                yield part
                part, gathered = [], 0
            part.append(p)
            gathered += count
        if part:
            yield part

    def _step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        places = [self._supports[p] for p in parameters]  # type: ignore[index]
        weights = [p.view(-1).index_select(0, at) for p, at in zip(parameters, places, strict=True)]
        grads = [p.grad.reshape(-1).index_select(0, at) for p, at in zip(parameters, places, strict=True)]  # type: ignore[union-attr]
        states = [self._state_of(p, w, group["fused"]) for p, w in zip(parameters, weights, strict=True)]
        adamw(
            weights,
            grads,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            foreach=not group["fused"] and (parameters[0].is_cuda if group["foreach"] is None else group["foreach"]),
            fused=group["fused"],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=0.0,
            eps=group["eps"],
            maximize=False,
        )
        for p, at, new in zip(parameters, places, weights, strict=True):
            p.view(-1).scatter_(0, at.long(), new)

    def _state_of(self, parameter: Tensor, weights: Tensor, fused: bool) -> dict[str, Any]:
        state: dict[str, Any] = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), device=weights.device if fused else None)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weights), torch.zeros_like(weights)
        return state
