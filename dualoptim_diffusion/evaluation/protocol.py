"""How figures are taken, by name, as data with a hash: only figures of equal hash may be compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from dualoptim_diffusion.core.config import SamplingConfig
from dualoptim_diffusion.core.errors import InputError, nearest
from dualoptim_diffusion.core.hashes import json_sha256
from dualoptim_diffusion.core.recipes import parse_seeds
from dualoptim_diffusion.data import ImageSet
from dualoptim_diffusion.diffusion.randomness import generator
from dualoptim_diffusion.evaluation.accuracy import FLAT_RANGE
from dualoptim_diffusion.evaluation.features import Extractor
from dualoptim_diffusion.files.results_file import PROTOCOL_VERSION, ProtocolUsed
from dualoptim_diffusion.judge.classifier import Classifier

MAX_GENERATED = 50_000
LEAST_HELD_OUT = 100  # real images; with fewer no distance says anything
PROSE = ("statement", "fixed_by_us")


@dataclass(frozen=True)
class Protocol:
    """What is drawn and what it is compared with.

    Attributes:
        statement: the protocol in one sentence.
        forget_count: images of each forgotten label; None = one for each of the recipe's seeds.
        retain_count: images of each retained label; `training` = together as many as there are training images of them
            but one for each of the recipe's seeds at least, and at most 50,000 together; `reference` = together as many
            as the reference has; `seeds` = one for each of the recipe's seeds.
        reference: which real images of retained classes: held-out ones, or of the training images the first or a random
            `reference_count` of them (of each class, or of all together).
        distance: the headline, by its key in results.json.
        sampling: settings that it fixes, whatever the recipe says.
        inception_only: measured on Inception's features, never on others.
        edit: what is done to every image before its features are taken.
        fixed_by_us: what the publications leave open.
    """

    name: str
    statement: str
    forget_count: int | None = None
    retain_count: int | Literal["training", "reference", "seeds"] = "training"
    reference: Literal["held-out", "first of each class", "random"] = "held-out"
    reference_count: int | None = None
    distance: Literal["kid", "frechet"] = "kid"
    sampling: Mapping[str, Any] = field(default_factory=dict)
    inception_only: bool = False
    edit: Literal["none", "stretched, BGR"] = "none"
    fixed_by_us: tuple[str, ...] = ()

    def settings(self, sampling: SamplingConfig) -> SamplingConfig:
        """The recipe's sampling section under this protocol."""
        return SamplingConfig(**{**sampling.model_dump(), **self.sampling})

    def reference_of(self, retain_set: ImageSet, held_out: ImageSet) -> ImageSet:
        """The real images that stand for the retained classes: training images too where few are held out."""
        if self.reference == "held-out":
            return held_out if len(held_out) >= LEAST_HELD_OUT else retain_set
        if self.reference == "random":
            order = torch.randperm(len(retain_set), generator=generator(0, "reference", 0))
            chosen = order[: self.reference_count].sort().values
        else:
            members = [(retain_set.class_labels == c).nonzero()[:, 0] for c in retain_set.class_labels.unique()]
            chosen = torch.cat([part[: self.reference_count] for part in members])
        return retain_set.at(chosen)


HELD_OUT = "distances to held-out real images of the retained classes (to training images where few are held out)"
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "standard",
            "One image of every forgotten label for each of the recipe's seeds, of the retained labels as many as "
            f"training images there are (at most 50,000), {HELD_OUT}, no edits.",
        ),
        Protocol(
            "seeds",
            f"One image of every label for each of the recipe's seeds, {HELD_OUT}, no edits.",
            retain_count="seeds",
        ),
        Protocol(
            "quick",
            f"100 images of each forgotten and 20 of each retained label, {HELD_OUT}: a first look.",
            forget_count=100,
            retain_count=20,
            sampling={"batch_size": 20},
        ),
        Protocol(
            "published-cifar10",
            "As the published CIFAR-10 figures: 500 images of the forgotten and 5,000 of each retained label, DDPM "
            "with 1000 steps at guidance w = 2, against the first 500 training images of each retained class, every "
            "image stretched to full contrast and read as BGR.",
            forget_count=500,
            retain_count=5000,
            reference="first of each class",
            reference_count=500,
            distance="frechet",
            sampling={"scheduler": "ddpm", "num_inference_steps": 1000, "guidance_scale": 3.0},
            inception_only=True,
            edit="stretched, BGR",
            fixed_by_us=("seeds", "both sides are stretched and read as BGR"),
        ),
        Protocol(
            "published-imagenet",
            "As the published ImageNet figures: DDPM with 250 steps at guidance_scale 1.5 on three of four channels, "
            "against 10,000 random retained training images.",
            forget_count=500,
            retain_count="reference",
            reference="random",
            reference_count=10_000,
            distance="frechet",
            sampling={
                "scheduler": "ddpm",
                "num_inference_steps": 250,
                "guidance_scale": 1.5,
                "guidance_channels": 3,
            },
            inception_only=True,
            fixed_by_us=("seeds", "500 images of the forgotten label", "as many generated as the reference has"),
        ),
    )
}


def find_protocol(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        InputError: if there is none.
    """
    if name not in PROTOCOLS:
        raise InputError(f"evaluation.protocol is {name!r}; {nearest(name, PROTOCOLS)}")
    return PROTOCOLS[name]


def plan_seeds(
    protocol: Protocol,
    settings: SamplingConfig,
    labels: Sequence[int],
    null_class: int | None,
    forget_classes: Sequence[int],
    n_training: int,
) -> dict[int, list[int]]:
    """Seeds of every label, a null label included; beyond the recipe's they count on from its largest.

    Args:
        n_training: training images of the retained classes.
    """
    seeds = parse_seeds(settings.seeds)

    def first(count: int) -> list[int]:
        return [*seeds[:count], *range(max(seeds) + 1, max(seeds) + 1 + count - len(seeds))]

    retained = [c for c in labels if c not in forget_classes]
    forget_count = protocol.forget_count or len(seeds)
    retain_count = _retain_count(protocol, len(seeds), n_training, len(retained))
    drawn = [*labels, *([] if null_class is None else [null_class])]
    return {c: first(retain_count if c in retained else forget_count) for c in drawn}


def _retain_count(protocol: Protocol, n_seeds: int, n_training: int, n_labels: int) -> int:
    """Images of each retained label."""
    if isinstance(protocol.retain_count, int):
        return protocol.retain_count
    if protocol.retain_count == "seeds":
        return n_seeds
    if protocol.retain_count == "reference":
        return -(-(protocol.reference_count or n_training) // n_labels)
    return min(max(n_seeds, -(-n_training // n_labels)), max(1, MAX_GENERATED // n_labels))


def protocol_of(
    protocol: Protocol,
    settings: SamplingConfig,
    classifier: Classifier,
    extractor: Extractor,
    data: Sequence[ImageSet],
    reference: str,
) -> ProtocolUsed:
    """Everything a figure depends on besides the model and the forgotten class.

    Args:
        data: training and held-out images of all classes.
        reference: what the real images are that drawn ones are compared with.
    """
    content: Any = {
        "name": protocol.name,
        "version": PROTOCOL_VERSION,
        "statement": protocol.statement,
        "fixed_by_us": list(protocol.fixed_by_us),
        "counts": {
            "seeds": len(parse_seeds(settings.seeds)),
            "forgotten label": protocol.forget_count or "seeds",
            "retained label": protocol.retain_count,
        },
        "sampling": settings.model_dump(mode="json"),
        "guidance": {"guidance_scale": settings.guidance_scale, "w": settings.guidance_scale - 1},
        "classifier": {"name": classifier.info.name, "sha256": classifier.sha256},
        "distance": {
            "name": extractor.name,
            "extractor_sha256": extractor.sha256,
            "resize": extractor.resize,
            "edit": extractor.edit,
            "headline": protocol.distance,
            "reference": reference,
            "data_sha256": [part.sha256 for part in data],
        },
        "degenerate": f"largest minus smallest grey level of every channel below {FLAT_RANGE} of 255",
    }
    used: ProtocolUsed = content
    return used


def protocol_sha256(protocol: Mapping[str, Any]) -> str:
    """Hash of a protocol; sentences about it do not count."""
    return json_sha256({key: value for key, value in protocol.items() if key not in PROSE})
