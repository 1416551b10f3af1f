"""Frechet distance from streamed features: n, sum x and sum x x^T in float64, then torch-fidelity's formula."""

import torch
from torch import Tensor

from dualoptim_diffusion.core.errors import InputError


class FeatureStatistics:
    """Mean and covariance of features seen in any number of batches."""

    def __init__(self) -> None:
        self.count = 0
        self._sum: Tensor | None = None
        self._outer: Tensor | None = None

    def add(self, features: Tensor) -> "FeatureStatistics":
        """Takes in features [N, D]."""
        x = features.double()
        total, outer = x.sum(0), x.T @ x
        self._sum = total if self._sum is None else self._sum + total
        self._outer = outer if self._outer is None else self._outer + outer
        self.count += len(x)
        return self

    def mean_and_covariance(self) -> tuple[Tensor, Tensor]:
        """mu [D] and the unbiased sigma [D, D], float64.

        Raises:
            InputError: with fewer than two samples.
        """
        if self._sum is None or self._outer is None or self.count < 2:
            raise InputError(f"A Frechet distance needs at least 2 images on either side, there are {self.count}.")
        mu = self._sum / self.count
        sigma = (self._outer - self.count * torch.outer(mu, mu)) / (self.count - 1)
        return mu, sigma

    def state_dict(self) -> dict[str, Tensor]:
        """Count, sum and sum of outer products."""
        if self._sum is None or self._outer is None:
            return {"count": torch.tensor(0)}
        return {"count": torch.tensor(self.count), "sum": self._sum, "outer": self._outer}

    @classmethod
    def from_state_dict(cls, state: dict[str, Tensor]) -> "FeatureStatistics":
        """What `state_dict` was taken from."""
        statistics = cls()
        statistics.count = int(state["count"])
        statistics._sum, statistics._outer = state.get("sum"), state.get("outer")
        return statistics


def frechet_distance(generated: FeatureStatistics, reference: FeatureStatistics) -> float:
    """|mu_1 - mu_2|^2 + tr(sigma_1 + sigma_2 - 2 (sigma_1 sigma_2)^(1/2)) (Heusel et al., 2017)."""
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    sides = []
    for statistics in (generated, reference):
        mu, sigma = statistics.mean_and_covariance()
        sides.append({"mu": mu.numpy(), "sigma": sigma.numpy()})
    return float(fid_statistics_to_metric(*sides, verbose=False)["frechet_inception_distance"])
