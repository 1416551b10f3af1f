"""Relatives of the Frechet distance on the same features, by torch-fidelity's formulas and defaults."""

from torch import Tensor

from dualoptim_diffusion.evaluation.neighbours import radii, share_inside
from dualoptim_diffusion.evaluation.reference import Reference
from dualoptim_diffusion.files.results_file import Score

INCEPTION_SPLITS = 10
RNG_SEED = 2020  # torch-fidelity's default, for shuffles


def precision_and_recall(generated: Tensor, reference: Reference) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al., 2019): shares of either set inside the other's k-NN balls.

    Args:
        generated: features [N, D].
        reference: of the real images, with their balls.
    """
    precision = share_inside(generated, reference.features, reference.radii)
    return precision, share_inside(reference.features, generated, radii(generated))


def inception_score(logits: Tensor, features: str) -> Score:
    """Inception Score (Salimans et al., 2016) of logits [N, K]: mean and deviation over splits."""
    from torch_fidelity.metric_isc import isc_features_to_metric

    metric = isc_features_to_metric(logits, splits=INCEPTION_SPLITS, shuffle=True, rng_seed=RNG_SEED)
    value, deviation = metric["inception_score_mean"], metric["inception_score_std"]
    return {"name": f"IS[{features}]", "value": value, "std": deviation}
