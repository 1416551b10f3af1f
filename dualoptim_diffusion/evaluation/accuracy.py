"""What the images of one label show, by the classifier: forced to name a class, and free to say "none of these"."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dualoptim_diffusion.data import ImageSet
from dualoptim_diffusion.evaluation.features import Extractor
from dualoptim_diffusion.judge.classifier import Classifier

MOST_NEAREST, MOST_CONFUSED = 3, 500  # classes; real images that tell which they are
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
        forced: [N], which of its classes the classifier calls each image when it must name one.
        called: the same when it may answer "none of these", the last number; None if it knows no such answer.
        features, logits: of the images that count for distances.
    """

    label: int
    n: int
    flat: int
    variety: float
    forced: Tensor
    called: Tensor | None
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
    return LabelScore(
        label=label,
        n=len(images),
        flat=int(degenerate(images).sum()),
        variety=variety(images),
        forced=logits[:, : classifier.num_classes].argmax(1).cpu(),
        called=logits.argmax(1).cpu() if classifier.may_answer_none else None,
        features=features,
        logits=feature_logits,
    )


def nearest_classes(
    classifier: Classifier, real: ImageSet, retained: Sequence[int], forgotten: Sequence[int]
) -> tuple[int, ...]:
    """The retained classes whose real images the classifier takes for a forgotten class most, by its mean probability.

    They are a third of all, at most `MOST_NEAREST`; classes without real images are left out.

    Args:
        forgotten: the classifier's ids.
    """
    each = max(1, MOST_CONFUSED // len(retained))
    chosen = real.at(torch.cat([(real.class_labels == label).nonzero()[:each, 0] for label in retained]))
    if not len(chosen):
        return ()
    probabilities = classifier(chosen.images[:])[1][:, : classifier.num_classes].double().softmax(1)
    taken = probabilities[:, list(forgotten)].sum(1)
    confused = {
        label: taken[chosen.class_labels == label].mean().item() for label in chosen.class_labels.unique().tolist()
    }
    order = sorted(confused, key=lambda label: -confused[label])
    return tuple(order[: min(MOST_NEAREST, len(retained) // 3)])


@dataclass(frozen=True)
class SeedRate:
    """How often images of several labels are hits, where those of one seed are not independent.

    Attributes:
        hits, n: images, over all labels.
        by_seed: hits [S] of each seed less what the rate expects of its images.
    """

    hits: int
    n: int
    by_seed: Tensor

    @classmethod
    def of(cls, hits: Sequence[Tensor]) -> "SeedRate":
        """Of bool [N] of each label, in the order of the seeds."""
        found, images = torch.zeros(2, max(map(len, hits)), dtype=torch.float64)
        for label in hits:
            found[: len(label)] += label
            images[: len(label)] += 1
        total, n = int(found.sum()), int(images.sum())
        return cls(total, n, found - images * (total / n))

    @property
    def worth(self) -> float:
        """How many independent images they are worth, at most n: the variance between seeds says it (Kish, 1965)."""
        seeds, value = len(self.by_seed), self.hits / self.n
        between = self.by_seed.square().sum().item() * seeds / max(1, seeds - 1)
        independent = self.n * value * (1 - value)  # the same sum, were they all independent
        return self.n * min(1.0, independent / between) if between > 0 else self.n

    def correlation(self, other: "SeedRate") -> float:
        """With the rate of another model whose images have the same seeds; 0 where it is not known."""
        if len(self.by_seed) != len(other.by_seed):
            return 0.0
        scale = (self.by_seed.square().sum() * other.by_seed.square().sum()).sqrt().item()
        return (self.by_seed @ other.by_seed).item() / scale if scale > 0 else 0.0
