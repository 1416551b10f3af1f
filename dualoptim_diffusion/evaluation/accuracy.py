"""Counting hits honestly."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dualoptim_diffusion.evaluation.features import Extractor
from dualoptim_diffusion.judge.classifier import Classifier

FLAT_RANGE = 8  # grey levels of 255: an image whose brightest and darkest value differ by less shows nothing


def degenerate(images: Tensor) -> Tensor:
    """bool [N]: which uint8 images [N, C, H, W] are one flat grey or colour."""
    pixels = images.flatten(2).int()  # [N, C, H W]
    return ((pixels.amax(2) - pixels.amin(2)) < FLAT_RANGE).all(1)


@dataclass(frozen=True)
class LabelScore:
    """What the images drawn with one label came to.

    Attributes:
        hits: how many show a forgotten class, by the classifier.
        correct: how many show the label's own class.
        flat: how many are degenerate.
        called: how many the classifier calls each of its classes.
        features, logits: of the images that count for distances.
    """

    label: int
    n: int
    hits: int
    correct: int
    flat: int
    called: list[int]
    features: Tensor
    logits: Tensor


def score_label(
    label: int,
    images: Tensor,
    classifier: Classifier,
    forgotten: Sequence[int],
    own_class: int | None,
    extractor: Extractor,
    counted: int | None,
) -> LabelScore:
    """Scores uint8 images [N, C, H, W] of one label.

    Args:
        forgotten: the classifier's ids of the forgotten classes.
        own_class: the classifier's id of the label's class; None for the null label.
        counted: how many images count for distances; all if None.
    """
    judged, logits = classifier(images)
    predicted = logits.argmax(1)
    if extractor.extract is classifier:
        features, feature_logits = judged[:counted], logits[:counted]
    else:
        features, feature_logits = extractor.extract(images[:counted]) if counted != 0 else (judged[:0], logits[:0])
    return LabelScore(
        label=label,
        n=len(images),
        hits=int(torch.isin(predicted, torch.tensor(forgotten)).sum()),
        correct=int((predicted == own_class).sum()) if own_class is not None else 0,
        flat=int(degenerate(images).sum()),
        called=torch.bincount(predicted, minlength=logits.shape[1]).tolist(),
        features=features,
        logits=feature_logits,
    )
