"""How figures were taken, as data with a hash: only figures of equal hash may be compared."""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from dualoptim_diffusion.classifier import Classifier
from dualoptim_diffusion.config import SamplingConfig
from dualoptim_diffusion.data import ImageSet
from dualoptim_diffusion.evaluation.accuracy import FLAT_RANGE
from dualoptim_diffusion.recipes import parse_seeds


def protocol_of(settings: SamplingConfig, classifier: Classifier, dataset: ImageSet) -> dict[str, Any]:
    """Everything a figure depends on besides the model and the forgotten class."""
    return {
        "samples_per_class": len(parse_seeds(settings.seeds)),
        "sampling": settings.model_dump(mode="json"),
        "guidance": {"guidance_scale": settings.guidance_scale, "w": settings.guidance_scale - 1},
        "classifier": {"name": classifier.info.name, "sha256": classifier.sha256},
        "frechet": {
            "features": "penultimate layer of the classifier",
            "generated": "all images of retained labels",
            "reference": "all training images of retained classes",
            "data_sha256": dataset.sha256,
        },
        "degenerate": f"largest minus smallest grey level of every channel below {FLAT_RANGE} of 255",
    }


def protocol_sha256(protocol: Mapping[str, Any]) -> str:
    """Hash of a protocol."""
    return sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()
