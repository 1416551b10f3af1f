"""How far two computations of one value may be apart, from the number format alone.

Two orders of computation are compared in float64, where rounding is far below every error that could be made. The bound
here is for what is float32 by its nature: recorded outputs, files, fused kernels, networks built elsewhere.
"""

from collections.abc import Iterable
from math import sqrt

import torch
from torch import Tensor, nn

RECORDED = 1e-5  # how near outputs recorded in float32 are to ours in float64, which vary with no machine
SURE = 8  # deviations: one comparison in exp(SURE^2 / 2) = 10^14 is farther apart by chance


def rounding(steps: int, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> float:
    """A bound on the difference of two results that each took `steps` roundings, of values up to `scale`.

    One operation is off by at most eps / 2 of its result. After n of them in a row a result is off by at most
    n eps / 2 x scale, so two are apart by n eps x scale. Roundings go up and down, so of many of them no more than
    SURE sqrt(n) add up (Higham and Mary, SIAM J. Sci. Comput. 41, 2019). A sum of n terms takes n steps at the scale of
    the sum of their magnitudes; a network takes `steps_of` its weights.
    """
    return min(steps, SURE * sqrt(steps)) * torch.finfo(dtype).eps * scale


def steps_of(weights: Iterable[Tensor]) -> int:
    """Terms of the inner products in all layers: no way from the input to the output has more."""
    return sum(weight[0].numel() for weight in weights if weight.ndim > 1)


def widen(network: nn.Module) -> None:
    """From now on the network computes in float64, whatever it is given."""

    def wide(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(part.double() if part.is_floating_point() else part for part in inputs)

    network.double().register_forward_pre_hook(wide)
