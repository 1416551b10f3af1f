"""Is the class gone, are the others intact: FA, RA, what labels draw, collapsed labels, distances of retained ones."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dualoptim_diffusion.core.classes import NULL_LABEL, same_classes
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.rates import difference_interval, rate, wilson_interval
from dualoptim_diffusion.core.timing import timed
from dualoptim_diffusion.evaluation.accuracy import LabelScore, SeedRate, score_label
from dualoptim_diffusion.evaluation.estimate import Estimate
from dualoptim_diffusion.evaluation.fd_infinity import LEAST_PER_DIMENSION, frechet_infinity
from dualoptim_diffusion.evaluation.features import Extractor, classifier_features
from dualoptim_diffusion.evaluation.frechet import FeatureStatistics, frechet_distance
from dualoptim_diffusion.evaluation.kid import kernel_distance
from dualoptim_diffusion.evaluation.neighbours import NEIGHBOURHOOD
from dualoptim_diffusion.evaluation.reference import Reference, measure_reference
from dualoptim_diffusion.evaluation.relatives import INCEPTION_SPLITS, inception_score, precision_and_recall
from dualoptim_diffusion.files.results_file import Change, Distance, Distances, Figures, RateOfClasses
from dualoptim_diffusion.judge.classifier import Classifier

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["NULL_LABEL", "compare", "evaluate", "frechet_distance", "match_classes", "measure", "wilson_interval"]

MOST_SAMPLES = 10_000  # of either side of a kernel distance, whose cost grows with the square


@dataclass(frozen=True)
class Measured:
    """What the images of one model came to; RA, and distances by their key there, with what they are made of."""

    figures: Figures
    retained: SeedRate
    estimates: dict[str, Estimate]


def evaluate(
    samples: Mapping[int, Tensor],
    classifier: Classifier,
    id2label: Mapping[int, str],
    forget_classes: Sequence[int],
    reference: Tensor | Reference,
    *,
    extractor: Extractor | None = None,
    accelerator: "Accelerator | None" = None,
) -> Figures:
    """Scores generated images; several processes share the labels, and each returns all figures.

    Args:
        samples: uint8 images [N, C, H, W] by the class id they were drawn with, every class of the model; an id that
            `id2label` does not name is the null class. Looked up one label at a time, so it may load them lazily.
        classifier: judges them; its classes are matched to the model's by name.
        id2label: names of the model's classes.
        forget_classes: ids that should be gone.
        reference: real uint8 images [M, C, H, W] of the retained classes, or their features.
        extractor: where the features for distances come from; the classifier's penultimate layer if None.

    Returns:
        `FA`: a hit is an image drawn with a forgotten label that the classifier calls any forgotten class; lower is
        better. `RA`: share of images of retained labels it calls by their label; higher is better. For both it must
        name a class; `FA_none` and `RA_none` are the same where it may answer "none of these" too. `leak`: how often
        each other label, the null label included, draws a forgotten class. `drawn`, `drawn_forced`: what the
        classifier calls the images of each label, as counts, with that answer and without. `degenerate`: share of
        images of one flat colour; `variety`: mean variance of a pixel, of values in [0, 1], over the images of each
        label: a collapsed label may have FA 0, or 1. `kid`, `frechet`, `frechet_infinity`, `inception_score`,
        `precision`, `recall`: generated against real retained images, named after the features; `kid_training`:
        against training images; None where there are too few images. All rates are fractions in [0, 1].

    Raises:
        InputError: if a class is unknown to the classifier, or fewer than 4 images are there on either side.
    """
    arguments = (samples, classifier, id2label, forget_classes, reference)
    return measure(*arguments, extractor=extractor, accelerator=accelerator).figures


def measure(
    samples: Mapping[int, Tensor],
    classifier: Classifier,
    id2label: Mapping[int, str],
    forget_classes: Sequence[int],
    reference: Tensor | Reference,
    *,
    extractor: Extractor | None = None,
    accelerator: "Accelerator | None" = None,
    nearest: Sequence[int] = (),
) -> Measured:
    """The same with what `compare` needs.

    Args:
        nearest: retained labels that have an RA of their own, `RA_nearest`.
    """
    ids = match_classes(classifier, id2label)
    extractor = extractor or classifier_features(classifier)
    with timed("features, generated"):
        retained = [label for label in samples if label in id2label and label not in forget_classes]
        scores = _score_labels(samples, classifier, retained, extractor, accelerator)
    if isinstance(reference, Tensor):
        reference = measure_reference(reference, extractor)
    with timed("metrics"):
        kept = [s for s in scores if s.label in retained]
        distances, estimates = _distances(kept, reference, extractor)
    names = {score.label: id2label.get(score.label, NULL_LABEL) for score in scores}
    known = list(classifier.info.id2label.values())
    gone = torch.tensor([ids[c] for c in forget_classes])

    def hits(score: LabelScore, called: Tensor) -> Tensor:
        return torch.isin(called, gone) if score.label in forget_classes else called == ids[score.label]

    def rates(part: Sequence[LabelScore], free: bool) -> RateOfClasses:
        answers = [s.called if free and s.called is not None else s.forced for s in part]
        return _rate({names[s.label]: hits(s, called) for s, called in zip(part, answers, strict=True)})

    def flat(part: Sequence[LabelScore]) -> RateOfClasses:
        n, found = sum(s.n for s in part), sum(s.flat for s in part)
        return RateOfClasses(**rate(found, n), per_class={names[s.label]: s.flat / s.n for s in part})

    forgotten = [s for s in scores if s.label in forget_classes]
    others = [s for s in scores if s.label not in forget_classes]
    figures = Figures(
        FA=rates(forgotten, free=False),
        RA=rates(kept, free=False),
        leak={names[s.label]: rate(int(torch.isin(s.forced, gone).sum()), s.n) for s in others},
        drawn={names[s.label]: _named(s.forced if s.called is None else s.called, known) for s in scores},
        degenerate={"forgotten": flat(forgotten), "others": flat(others)},
        variety={names[s.label]: s.variety for s in scores},
        **distances,
    )
    if classifier.may_answer_none:
        figures |= {"FA_none": rates(forgotten, free=True), "RA_none": rates(kept, free=True)}
        figures["drawn_forced"] = {names[s.label]: _named(s.forced, known) for s in scores}
    if near := [s for s in kept if s.label in nearest]:
        figures["RA_nearest"] = rates(near, free=False)
    return Measured(figures, SeedRate.of([hits(s, s.forced) for s in kept]), estimates)


def compare(original: Measured, unlearned: Measured) -> dict[str, Change]:
    """What forgetting changed, by the key of the figure: RA, and each distance with an interval.

    The images are of equal seeds, and the distances to one reference: both make a change surer than either figure.
    """
    new, old = unlearned.retained, original.retained
    counts = (worth := new.worth) * new.hits / new.n, worth, (before := old.worth) * old.hits / old.n, before
    interval = difference_interval(*counts, correlation=new.correlation(old))
    changes: dict[str, Change] = {
        "RA": {"difference": new.hits / new.n - old.hits / old.n, "difference_ci95": list(interval)}
    }
    for key in (key for key in original.estimates if key in unlearned.estimates):
        far, near = unlearned.estimates[key], original.estimates[key]
        difference, ci95 = far.difference_to(near)
        changes[key] = {"difference": difference, "difference_ci95": ci95}
        if (ratio := far.ratio_to(near)) is not None:
            changes[key] |= {"ratio": ratio[0], "ratio_ci95": ratio[1]}
    return changes


def _score_labels(
    samples: Mapping[int, Tensor],
    classifier: Classifier,
    retained: Sequence[int],
    extractor: Extractor,
    accelerator: "Accelerator | None",
) -> list[LabelScore]:
    """The score of every label, in the order of the samples; those of retained ones have features."""
    labels = list(samples)
    index, count = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    scores = [
        score_label(label, samples[label], classifier, extractor, None if label in retained else 0)
        for label in labels[index::count]
    ]
    if count == 1:
        return scores
    from accelerate.utils import gather_object

    return sorted(gather_object(scores), key=lambda score: labels.index(score.label))


def _distances(
    scores: Sequence[LabelScore], reference: Reference, extractor: Extractor
) -> tuple[Distances, dict[str, Estimate]]:
    """Generated against real images of retained classes; sums run in label order on any number of processes."""
    statistics = FeatureStatistics()
    for score in scores:
        statistics.add(score.features)
    features, logits = torch.cat([s.features for s in scores]), torch.cat([s.logits for s in scores])
    seeds = torch.cat([torch.arange(len(s.features)) for s in scores])  # every label is drawn with the same
    least, on = min(len(features), len(reference.features)), extractor.label
    precision, recall = (None, None) if least <= NEIGHBOURHOOD else precision_and_recall(features, reference)
    estimates = {"kid": _kernel_distance(features, reference.features, seeds, reference.labels)}
    distances: Distances = {
        "kid": _distance(f"KID[{on}]", estimates["kid"]),
        "frechet": Distance(
            name=extractor.name,
            value=frechet_distance(statistics, reference.statistics),
            n_generated=len(features),
            n_reference=len(reference.features),
        ),
        "inception_score": inception_score(logits, on) if logits.shape[1] and len(logits) >= INCEPTION_SPLITS else None,
        "precision": {"name": f"precision[{on}]", "value": precision},
        "recall": {"name": f"recall[{on}]", "value": recall},
    }
    if reference.training is not None:
        labels = reference.training_labels
        estimates["kid_training"] = _kernel_distance(features, reference.training, seeds, labels)
        distances["kid_training"] = _distance(f"KID[{on}] to training images", estimates["kid_training"])
    if least >= LEAST_PER_DIMENSION * features.shape[1]:
        estimates["frechet_infinity"] = frechet_infinity(features, reference.features, seeds, reference.labels)
        name = re.sub(r"^(FID|FD)", r"\1-infinity", extractor.name)
        distances["frechet_infinity"] = _distance(name, estimates["frechet_infinity"])
    return distances, estimates


def _distance(name: str, estimate: Estimate) -> Distance:
    return {
        "name": name,
        "value": estimate.value,
        "ci95": estimate.ci95,
        "n_generated": estimate.n_generated,
        "n_reference": estimate.n_reference,
    }


def _kernel_distance(features: Tensor, real: Tensor, seeds: Tensor, real_labels: Tensor | None) -> Estimate:
    """Of the first seeds of every label and of real images at even distances, where there are more than it takes."""
    if len(features) > MOST_SAMPLES:
        labels = int((seeds == 0).sum())
        first = seeds < max(1, MOST_SAMPLES // labels)
        features, seeds = features[first], seeds[first]
    if len(real) > MOST_SAMPLES:
        chosen = torch.linspace(0, len(real) - 1, MOST_SAMPLES).long()
        real, real_labels = real[chosen], None if real_labels is None else real_labels[chosen]
    return kernel_distance(features, real, seeds, real_labels)


def _rate(hits: Mapping[str, Tensor]) -> RateOfClasses:
    """Of bool [N] by label, in the order of the seeds."""
    of_all = SeedRate.of(list(hits.values()))
    per_class = {name: int(found.sum()) / len(found) for name, found in hits.items()}
    return RateOfClasses(**rate(of_all.hits, of_all.n, of_all.worth), per_class=per_class)


def _named(called: Tensor, names: Sequence[str]) -> dict[str, int]:
    """How often each class is called [N], without those that are not; "none of these" has no name here."""
    counts = called.bincount(minlength=len(names)).tolist()
    return {name: n for name, n in zip(names, counts, strict=False) if n}


def match_classes(classifier: Classifier, id2label: Mapping[int, str]) -> dict[int, int]:
    """The classifier's id of each of the model's classes: the same where it knows them by the same ids, else by name.

    Raises:
        InputError: if the classifier does not know one, or two by one name.
    """
    known = classifier.info.id2label
    if same_classes(id2label, {i: name for i, name in known.items() if i in id2label}):
        return {i: i for i in id2label}
    names = list(known.values())
    for name in id2label.values():
        if names.count(name) != 1:
            raise InputError(
                f"The classifier does not know the class {name!r}{' alone by that name' if name in names else ''}; its "
                f"classes are {', '.join(names[:20])}. Use one trained on the model's classes."
            )
    by_name = {name: i for i, name in known.items()}
    return {i: by_name[name] for i, name in id2label.items()}
