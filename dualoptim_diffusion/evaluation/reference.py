"""Features of the real images that generated ones are compared with, cached under everything they depend on."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from dualoptim_diffusion.data import ImageSet
from dualoptim_diffusion.evaluation.features import Extractor
from dualoptim_diffusion.evaluation.frechet import FeatureStatistics
from dualoptim_diffusion.evaluation.neighbours import radii
from dualoptim_diffusion.files.cache import cache_entry, get_or_make_tensors


@dataclass(frozen=True)
class Reference:
    """Features [M, D] float32 of real images, the radii [M] of their k-NN balls, and their statistics."""

    features: Tensor
    radii: Tensor
    statistics: FeatureStatistics

    @classmethod
    def of(cls, features: Tensor) -> "Reference":
        """The reference of real images with these features."""
        return cls(features, radii(features), FeatureStatistics().add(features))


def measure_reference(images: Tensor, extractor: Extractor) -> Reference:
    """Features of uint8 images [M, C, H, W]."""
    return _measure([images], extractor)


def cached_reference(images: ImageSet, extractor: Extractor) -> Reference:
    """Features of all images, computed once for these very pixels, extractor weights and way of resizing."""
    key = (images.pixels_sha256, repr(tuple(images.images.shape)), extractor.sha256, extractor.resize, extractor.edit)
    path = cache_entry("references", "with radii", *key).with_suffix(".safetensors")

    def make() -> dict[str, Tensor]:
        measured = _measure(images.batches(), extractor)
        return {"features": measured.features, "radii": measured.radii} | measured.statistics.state_dict()

    tensors = dict(get_or_make_tensors(path, make))
    return Reference(tensors.pop("features"), tensors.pop("radii"), FeatureStatistics.from_state_dict(tensors))


def _measure(parts: Iterable[Tensor], extractor: Extractor) -> Reference:
    return Reference.of(torch.cat([extractor.extract(part)[0] for part in parts]))
