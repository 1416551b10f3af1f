"""Relatives of the Frechet distance on the same features, by torch-fidelity's own formulas and defaults."""

from typing import Any

from torch import Tensor

KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000
NEIGHBOURHOOD = 3  # k of the k-nearest-neighbour balls
INCEPTION_SPLITS = 10
RNG_SEED = 2020  # torch-fidelity's default, for subsets and shuffles


def kernel_distance(generated: Tensor, reference: Tensor) -> dict[str, Any]:
    """KID (Binkowski et al., 2018): mean and deviation of the polynomial MMD^2 over random subsets.

    Args:
        generated, reference: features [N, D] and [M, D].
    """
    from torch_fidelity.metric_kid import kid_features_to_metric

    size = min(KID_SUBSET_SIZE, len(generated), len(reference))
    metric = kid_features_to_metric(
        generated, reference, kid_subsets=KID_SUBSETS, kid_subset_size=size, rng_seed=RNG_SEED, verbose=False
    )
    mean, deviation = metric["kernel_inception_distance_mean"], metric["kernel_inception_distance_std"]
    return {"value": mean, "std": deviation, "subsets": KID_SUBSETS, "subset_size": size}


def precision_and_recall(generated: Tensor, reference: Tensor) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al., 2019): shares of either set inside the other's k-NN balls."""
    from torch_fidelity.metric_prc import prc_features_to_metric

    metric = prc_features_to_metric(
        generated, reference, prc_neighborhood=NEIGHBOURHOOD, save_cpu_ram=True, verbose=False
    )
    return float(metric["precision"]), float(metric["recall"])


def inception_score(logits: Tensor) -> dict[str, float]:
    """Inception Score (Salimans et al., 2016) of logits [N, K]: mean and deviation over splits."""
    from torch_fidelity.metric_isc import isc_features_to_metric

    metric = isc_features_to_metric(logits, splits=INCEPTION_SPLITS, shuffle=True, rng_seed=RNG_SEED)
    return {"value": metric["inception_score_mean"], "std": metric["inception_score_std"]}
