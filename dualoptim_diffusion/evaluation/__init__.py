"""Is the class gone, are the others intact: FA, RA, degenerate images and the Frechet distance of retained classes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dualoptim_diffusion.classifier import Classifier
from dualoptim_diffusion.errors import InputError
from dualoptim_diffusion.evaluation.accuracy import degenerate, wilson_interval
from dualoptim_diffusion.evaluation.frechet import FeatureStatistics, frechet_distance

__all__ = ["evaluate", "frechet_distance", "match_classes", "wilson_interval"]


def evaluate(
    samples: Mapping[int, Tensor],
    classifier: Classifier,
    id2label: Mapping[int, str],
    forget_classes: Sequence[int],
    reference: Tensor,
) -> dict[str, Any]:
    """Scores generated images.

    Args:
        samples: uint8 images [N, C, H, W] by the class id they were drawn with, every class of the model.
        classifier: judges them; its classes are matched to the model's by name.
        id2label: names of the model's classes.
        forget_classes: ids that should be gone.
        reference: real uint8 images of the retained classes.

    Returns:
        `FA`: a hit is an image drawn with a forgotten label that the classifier calls any forgotten class; lower is
        better. `RA`: share of images of retained labels it calls by their label; higher is better. `degenerate_rate`:
        share of all images that show one flat colour; beside FA, because a collapsed model also has FA 0.
        `drawn`: what the classifier calls the images of each label, as counts.
        `frechet`: distance of generated to real retained images on the classifier's penultimate features. All rates
        are fractions in [0, 1].

    Raises:
        InputError: if a class is unknown to the classifier.
    """
    ids = match_classes(classifier, id2label)
    forgotten = torch.tensor([ids[c] for c in forget_classes])
    called = classifier.info.id2label
    drawn: dict[str, dict[str, int]] = {}
    hits: dict[str, tuple[int, int]] = {}
    correct: dict[str, tuple[int, int]] = {}
    generated = FeatureStatistics()
    flat = total = 0
    for class_id, images in samples.items():
        features, logits = classifier(images)
        predicted = logits.argmax(1)
        flat, total = flat + int(degenerate(images).sum()), total + len(images)
        counts = torch.bincount(predicted, minlength=len(called)).tolist()
        drawn[id2label[class_id]] = {called[i]: counts[i] for i in called if counts[i]}
        if class_id in forget_classes:
            hits[id2label[class_id]] = (int(torch.isin(predicted, forgotten).sum()), len(images))
        else:
            correct[id2label[class_id]] = (int((predicted == ids[class_id]).sum()), len(images))
            generated.add(features)
    real = FeatureStatistics()
    real.add(classifier(reference)[0])
    return {
        "FA": _rate(hits) | {"hits": sum(k for k, _ in hits.values())},
        "RA": _rate(correct),
        "drawn": drawn,
        "degenerate_rate": flat / total,
        "frechet": {
            "name": "FD[classifier]",
            "value": frechet_distance(generated, real),
            "n_generated": generated.count,
            "n_reference": real.count,
        },
    }


def _rate(counts: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    hits, n = (sum(part) for part in zip(*counts.values(), strict=True))
    return {
        "value": hits / n,
        "n": n,
        "ci95": list(wilson_interval(hits, n)),
        "per_class": {name: k / m for name, (k, m) in counts.items()},
    }


def match_classes(classifier: Classifier, id2label: Mapping[int, str]) -> dict[int, int]:
    """The classifier's id of each of the model's classes, matched by name.

    Raises:
        InputError: if the classifier does not know one.
    """
    by_name = {name: i for i, name in classifier.info.id2label.items()}
    if missing := [name for name in id2label.values() if name not in by_name]:
        raise InputError(
            f"The classifier does not know the class {missing[0]!r}; its classes are {', '.join(by_name)}. "
            "Use one trained on the model's classes."
        )
    return {i: by_name[name] for i, name in id2label.items()}
