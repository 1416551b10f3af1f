"""Features of the real images that generated ones are compared with, cached under everything they depend on."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from dualoptim_diffusion.data import ImageSet
from dualoptim_diffusion.evaluation.features import Extractor
from dualoptim_diffusion.evaluation.frechet import FeatureStatistics
from dualoptim_diffusion.evaluation.neighbours import radii
from dualoptim_diffusion.files.cache import cache_entry, get_or_make_tensors

MOST_TRAINING = 10_000  # training images that a distance is taken to: evenly chosen of more


@dataclass(frozen=True)
class Reference:
    """What drawn images are compared with.

    Attributes:
        features: [M, D] float32, of real images.
        radii: [M], of their k-NN balls.
        statistics: mean and covariance of the features.
        labels: [M], their classes, where they are known.
        training, training_labels: features [L, D] of training images, where the others are held out, and their classes.
    """

    features: Tensor
    radii: Tensor
    statistics: FeatureStatistics
    labels: Tensor | None = None
    training: Tensor | None = None
    training_labels: Tensor | None = None

    @classmethod
    def of(cls, features: Tensor) -> "Reference":
        """The reference of real images with these features."""
        return cls(features, radii(features), FeatureStatistics().add(features))


def measure_reference(images: Tensor, extractor: Extractor) -> Reference:
    """Features of uint8 images [M, C, H, W]."""
    return _measure([images], extractor)


def cached_reference(images: ImageSet, extractor: Extractor, training: ImageSet | None = None) -> Reference:
    """Features of all images, computed once for these very pixels, extractor weights and way of resizing.

    Args:
        training: training images, where `images` are others.
    """
    path = _entry("references", images, extractor)

    def make() -> dict[str, Tensor]:
        measured = _measure(images.batches(), extractor)
        return {"features": measured.features, "radii": measured.radii} | measured.statistics.state_dict()

    tensors = dict(get_or_make_tensors(path, make))
    features, nearest = tensors.pop("features"), tensors.pop("radii")
    reference = Reference(features, nearest, FeatureStatistics.from_state_dict(tensors), images.class_labels)
    if training is None:
        return reference
    if len(training) > MOST_TRAINING:
        training = training.at(torch.linspace(0, len(training) - 1, MOST_TRAINING).long())
    beside = _cached_features(training, extractor)
    return replace(reference, training=beside, training_labels=training.class_labels)


def _cached_features(images: ImageSet, extractor: Extractor) -> Tensor:
    """Features [M, D] alone."""
    path = _entry("features", images, extractor)
    return get_or_make_tensors(path, lambda: {"features": _features(images.batches(), extractor)})["features"]


def _entry(kind: str, images: ImageSet, extractor: Extractor) -> Path:
    key = (images.pixels_sha256, repr(tuple(images.images.shape)), extractor.sha256, extractor.resize, extractor.edit)
    return cache_entry(kind, *key).with_suffix(".safetensors")


def _features(parts: Iterable[Tensor], extractor: Extractor) -> Tensor:
    return torch.cat([extractor.extract(part)[0] for part in parts])


def _measure(parts: Iterable[Tensor], extractor: Extractor) -> Reference:
    return Reference.of(_features(parts, extractor))
