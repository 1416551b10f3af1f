"""AdamW with moments for the weights under a mask alone: what makes two optimizers cost little more than one."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from dualoptim_diffusion.optim.mask_indices import MaskIndices, chunks, few_kernels, indices_of


class MaskedAdamW(Optimizer):
    """AdamW over the weights under a mask; the others have no state and never move.

    With weight decay 0 every weight's step depends on its own gradients alone, so the steps are those of AdamW (and of
    Adam) fed gradients that are zero off the mask, bit for bit between equal implementations.

    Args:
        params: the weights.
        masks: for each parameter a bool mask, or the indices that `indices_of` gives, which two optimizers may share.
            They are not part of the state: build the optimizer with the mask before loading a state.
        lr, betas, eps: as in AdamW.
        foreach: gather and step all tensors together, in few kernels; by default on a GPU, as AdamW does.
        fused: step in one kernel.

    Raises:
        ValueError: if there is not one mask per parameter.
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
        indices = [indices_of(mask) if mask.dtype == torch.bool else mask for mask in masks]
        self._indices = dict(zip(parameters, indices, strict=True))

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step on the present gradients, of which only those under the mask are read."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None and len(self._indices[p])]
            for part in chunks(parameters):
                self._step(parameters[part], group)

    def _step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        foreach = few_kernels(parameters, group["foreach"])
        at = MaskIndices(parameters, [self._indices[p] for p in parameters], foreach)  # type: ignore[index]
        weights, grads = at.gather(parameters), at.gather([p.grad for p in parameters])  # type: ignore[misc]
        states = [self._state_of(p, w, group["fused"]) for p, w in zip(parameters, weights, strict=True)]
        adamw(
            weights,
            grads,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            foreach=foreach and not group["fused"],
            fused=group["fused"],
            found_inf=getattr(self, "found_inf", None),
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=0.0,
            eps=group["eps"],
            maximize=False,
        )
        at.scatter(weights, parameters)

    def _state_of(self, parameter: Tensor, weights: Tensor, fused: bool) -> dict[str, Any]:
        state: dict[str, Any] = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), device=weights.device if fused else None)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weights), torch.zeros_like(weights)
        return state
