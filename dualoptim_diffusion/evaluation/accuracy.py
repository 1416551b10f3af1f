"""What the images of one label show, by the classifier: forced to name a class, and free to say "none of these"."""

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


def variety(images: Tensor) -> float:
    """Mean variance of a pixel over uint8 images [N, C, H, W], of values in [0, 1]: 0 where all are one image."""
    return (images.double() / 255).var(0, correction=0).mean().item()


@dataclass(frozen=True)
class LabelScore:
    """What the images drawn with one label came to.

    Attributes:
        flat: how many are degenerate.
        variety: see above.
        forced: how many the classifier calls each of its classes when it must name one.
        called: the same when it may answer "none of these", the last count; None if it knows no such answer.
        features, logits: of the images that count for distances.
    """

    label: int
    n: int
    flat: int
    variety: float
    forced: list[int]
    called: list[int] | None
    features: Tensor
    logits: Tensor


def score_label(
    label: int, images: Tensor, classifier: Classifier, extractor: Extractor, counted: int | None
) -> LabelScore:
    """Scores uint8 images [N, C, H, W] of one label.

    Args:
        counted: how many images count for distances; all if None.
    """
    judged, logits = classifier(images)
    if extractor.extract is classifier:
        features, feature_logits = judged[:counted], logits[:counted]
    else:
        features, feature_logits = extractor.extract(images[:counted]) if counted != 0 else (judged[:0], logits[:0])
    classes = logits[:, : classifier.num_classes]
    return LabelScore(
        label=label,
        n=len(images),
        flat=int(degenerate(images).sum()),
        variety=variety(images),
        forced=_counts(classes),
        called=_counts(logits) if classifier.may_answer_none else None,
        features=features,
        logits=feature_logits,
    )


def _counts(logits: Tensor) -> list[int]:
    """How many of logits [N, K] have their largest value in each column."""
    return torch.bincount(logits.argmax(1), minlength=logits.shape[1]).tolist()
