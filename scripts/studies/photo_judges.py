"""What drawn photographs show, and how far they are from real ones, by two networks that are trained on the spot."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dualoptim_diffusion.core.rates import Rate, rate
from dualoptim_diffusion.data import ImageSet
from dualoptim_diffusion.evaluation.accuracy import LabelScore, SeedRate, score_label
from dualoptim_diffusion.evaluation.estimate import Estimate
from dualoptim_diffusion.evaluation.fd_infinity import frechet_infinity
from dualoptim_diffusion.evaluation.features import classifier_features
from dualoptim_diffusion.evaluation.frechet import FeatureStatistics, frechet_distance
from dualoptim_diffusion.evaluation.kid import kernel_distance
from dualoptim_diffusion.judge.classifier import Classifier
from studies.small_judges import train_judge, untrained

NETWORKS = {"judge": "resnet18", "features": "dla34"}  # by what they are for; seeds 0 and 1
Samples = Mapping[int, Tensor]  # uint8 images [N, C, H, W] by label


class Judges:
    """The judge of FA, of all classes, and the network of features, trained once and kept.

    Args:
        train, held_out: real images; distances are to the held-out ones.
        folder: where the networks are kept.
        epochs: over the training images.
        dimensions: first features that distances are taken on; None for all.
    """

    def __init__(
        self,
        train: ImageSet,
        held_out: ImageSet,
        folder: Path,
        *,
        epochs: int,
        dimensions: int | None,
        device: torch.device,
    ) -> None:
        self.id2label, self.held_out = train.id2label, held_out
        self._dimensions, self._device = dimensions, device
        self.networks: dict[str, Classifier] = {}
        for seed, (role, architecture) in enumerate(NETWORKS.items()):
            path = folder / f"judge_{role}.safetensors"
            if path.is_file():
                judge = untrained(architecture, self.id2label, *train.images.shape[1:3])
                judge.network.load_state_dict(load_file(path))
                judge.network.to(device)
            else:
                judge = train_judge(architecture, train, held_out, seed=seed, epochs=epochs, device=device)
                save_file({k: v.contiguous() for k, v in judge.network.state_dict().items()}, path)
            self.networks[role] = judge
        features = self.networks["features"]
        self._held_out_features = {
            label: self._first(features(held_out.of_classes([label]).images[:])[0]) for label in self.id2label
        }

    def accuracies(self) -> dict[str, float]:
        """Of each judge, on all held-out images."""
        found = {}
        for role, judge in self.networks.items():
            predicted = torch.cat([judge(part)[1].argmax(1) for part in self.held_out.batches(1000)])
            found[role] = float((predicted == self.held_out.class_labels).double().mean())
        return found

    def score(self, samples: Samples, forgotten: Sequence[int] = ()) -> dict[str, Any]:
        """What every label draws, by the judge, and how far the retained ones are from held-out images.

        Returns:
            `FA`: share of the images of forgotten labels that the judge calls a forgotten class, where there are any;
            `RA`: of the other labels, called by their own; `drawn`: what it calls the images of each label;
            `flat`: share of images of one flat colour; `spread`: variance of each label's features, of that of the
            class's held-out images; `kid` and `fd_infinity`: of the retained labels.
        """
        extractor = classifier_features(self.networks["features"])
        scores = [
            score_label(label, images, self.networks["judge"], extractor, None) for label, images in samples.items()
        ]
        gone = [s for s in scores if s.label in forgotten]
        kept = [s for s in scores if s.label not in forgotten]
        return {
            "FA": _rate([torch.isin(s.forced, torch.tensor(forgotten)) for s in gone]) if gone else None,
            "RA": _rate([s.forced == s.label for s in kept]),
            "drawn": {self.id2label[s.label]: self._called(s) for s in scores},
            "flat": sum(s.flat for s in scores) / sum(s.n for s in scores),
            "spread": {self.id2label[s.label]: self._spread(s) for s in scores},
        } | _distances([self._first(s.features) for s in kept], [self._held_out_features[s.label] for s in kept])

    def distance_to(self, images: Sequence[Tensor], samples: Samples) -> dict[str, Any]:
        """Distances of drawn images to other real ones, uint8 [N, C, H, W] of each class."""
        features = self.networks["features"]
        real = [torch.cat([features(part)[0] for part in of_class.split(2000)]) for of_class in images]
        drawn = [features(part)[0] for part in samples.values()]
        return _distances(*([self._first(part) for part in side] for side in (drawn, real)))

    def _called(self, score: LabelScore) -> dict[str, int]:
        return {self.id2label[i]: n for i, n in enumerate(score.forced.bincount().tolist()) if n}

    def _spread(self, score: LabelScore) -> float:
        real = self._held_out_features[score.label]
        drawn = score.features[:, : self._dimensions]
        return float(drawn.double().var(0).sum() / real.double().var(0).sum().cpu())

    def _first(self, features: Tensor) -> Tensor:
        return features.to(self._device)[:, : self._dimensions]


def _rate(hits: Sequence[Tensor]) -> Rate:
    """Of bool [N] of each label, in the order of the seeds."""
    found = SeedRate.of(hits)
    return rate(found.hits, found.n, found.worth)


def _distances(drawn: Sequence[Tensor], real: Sequence[Tensor]) -> dict[str, Any]:
    """KID and the Frechet distance of infinitely many samples of features [N, D] and [M, D] by class; their numbers."""
    generated, reference = torch.cat(list(drawn)), torch.cat(list(real))
    seeds = torch.cat([torch.arange(len(part)) for part in drawn])  # every label is drawn with the same
    labels = torch.cat([torch.full((len(part),), i) for i, part in enumerate(real)])

    def plain(estimate: Estimate) -> dict[str, Any]:
        return {"value": estimate.value, "ci95": estimate.ci95}

    statistics = (FeatureStatistics().add(side.cpu()) for side in (generated, reference))
    return {
        "kid": plain(kernel_distance(generated, reference, seeds, labels)),
        "fd_infinity": plain(frechet_infinity(generated, reference, seeds, labels))
        | {"at_n": frechet_distance(*statistics)},
        "n_reference": len(reference),
        "n_generated": len(generated),
    }
