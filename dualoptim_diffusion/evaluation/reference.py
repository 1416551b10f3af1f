"""Features of the real images that generated ones are compared with, kept under everything they depend on."""

from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dualoptim_diffusion.checkpoint import atomic_path
from dualoptim_diffusion.evaluation.features import Extractor
from dualoptim_diffusion.evaluation.frechet import FeatureStatistics
from dualoptim_diffusion.provenance import cache_entry


@dataclass(frozen=True)
class Reference:
    """Features [M, D] float32 of real images, and their statistics."""

    features: Tensor
    statistics: FeatureStatistics


def measure_reference(images: Tensor, extractor: Extractor) -> Reference:
    """Features of uint8 images [M, C, H, W]."""
    features, _ = extractor.extract(images)
    return Reference(features, FeatureStatistics().add(features))


def cached_reference(images: Tensor, extractor: Extractor) -> Reference:
    """The same, computed once for these very pixels, extractor weights and way of resizing."""
    content = sha256(images.contiguous().numpy().tobytes()).hexdigest()
    key = (content, repr(tuple(images.shape)), extractor.sha256, extractor.resize, extractor.edit)
    path = cache_entry("references", *key).with_suffix(".safetensors")
    with suppress(OSError, KeyError, SafetensorError):  # absent or damaged: made below
        stored = load_file(path)
        return Reference(stored.pop("features"), FeatureStatistics.from_state_dict(stored))
    reference = measure_reference(images, extractor)
    with atomic_path(path) as beside:
        save_file({"features": reference.features.contiguous()} | reference.statistics.state_dict(), beside)
    return reference
