"""Is the class gone, are the others intact: FA, RA, what labels draw, degenerate images, distances of retained ones."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, cat

from dualoptim_diffusion.core.classes import same_classes
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.rates import rate, wilson_interval
from dualoptim_diffusion.core.timing import timed
from dualoptim_diffusion.evaluation.accuracy import LabelScore, score_label
from dualoptim_diffusion.evaluation.features import Extractor, classifier_features
from dualoptim_diffusion.evaluation.frechet import FeatureStatistics, frechet_distance
from dualoptim_diffusion.evaluation.neighbours import NEIGHBOURHOOD
from dualoptim_diffusion.evaluation.reference import Reference, measure_reference
from dualoptim_diffusion.evaluation.relatives import (
    INCEPTION_SPLITS,
    inception_score,
    kernel_distance,
    precision_and_recall,
)
from dualoptim_diffusion.files.results_file import Distances, Figures, RateOfClasses
from dualoptim_diffusion.judge.classifier import Classifier

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["NULL_LABEL", "evaluate", "frechet_distance", "match_classes", "wilson_interval"]

NULL_LABEL = "null label"  # how reports name the class of no class


def evaluate(
    samples: Mapping[int, Tensor],
    classifier: Classifier,
    id2label: Mapping[int, str],
    forget_classes: Sequence[int],
    reference: Tensor | Reference,
    *,
    extractor: Extractor | None = None,
    per_class: int | None = None,
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
        per_class: how many images of each retained label count for distances; all if None.

    Returns:
        `FA`: a hit is an image drawn with a forgotten label that the classifier calls any forgotten class; lower is
        better. `RA`: share of images of retained labels it calls by their label; higher is better. `leak`: how often
        each other label, the null label included, draws a forgotten class. `drawn`: what the classifier calls the
        images of each label, as counts. `degenerate_rate`: share of all images that show one flat colour; beside FA,
        because a collapsed model also has FA 0. `frechet`, `kid`, `inception_score`, `precision`, `recall`: generated
        against real retained images, named after the features; None where there are too few images. All rates are
        fractions in [0, 1].

    Raises:
        InputError: if a class is unknown to the classifier.
    """
    ids = match_classes(classifier, id2label)
    extractor = extractor or classifier_features(classifier)
    with timed("features, generated"):
        scores = _score_labels(samples, classifier, ids, forget_classes, extractor, per_class, accelerator)
    if isinstance(reference, Tensor):
        reference = measure_reference(reference, extractor)
    by_name = {id2label.get(score.label, NULL_LABEL): score for score in scores}
    forgotten_scores = {name: score for name, score in by_name.items() if score.label in forget_classes}
    others = {name: score for name, score in by_name.items() if score.label not in forget_classes}
    retained = {name: score for name, score in others.items() if score.label in id2label}
    called = classifier.info.id2label
    with timed("metrics"):
        distances = _distances(list(retained.values()), reference, extractor)
    return Figures(
        FA=_rate({name: (s.hits, s.n) for name, s in forgotten_scores.items()}),
        RA=_rate({name: (s.correct, s.n) for name, s in retained.items()}),
        leak={name: rate(s.hits, s.n) for name, s in others.items()},
        drawn={name: {called[i]: n for i, n in enumerate(s.called) if n} for name, s in by_name.items()},
        degenerate_rate=sum(s.flat for s in scores) / sum(s.n for s in scores),
        **distances,
    )


def _score_labels(
    samples: Mapping[int, Tensor],
    classifier: Classifier,
    ids: Mapping[int, int],
    forget_classes: Sequence[int],
    extractor: Extractor,
    per_class: int | None,
    accelerator: "Accelerator | None",
) -> list[LabelScore]:
    """The score of every label, in the order of the samples; `ids` are the classifier's by the model's."""
    labels, forgotten = list(samples), [ids[c] for c in forget_classes]
    index, count = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    scores = []
    for label in labels[index::count]:
        counted = per_class if label in ids and label not in forget_classes else 0
        scores.append(score_label(label, samples[label], classifier, forgotten, ids.get(label), extractor, counted))
    if count == 1:
        return scores
    from accelerate.utils import gather_object

    return sorted(gather_object(scores), key=lambda score: labels.index(score.label))


def _distances(scores: Sequence[LabelScore], reference: Reference, extractor: Extractor) -> Distances:
    """Generated against real images of retained classes; sums run in label order on any number of processes."""
    statistics = FeatureStatistics()
    for score in scores:
        statistics.add(score.features)
    features, logits = cat([s.features for s in scores]), cat([s.logits for s in scores])
    few = min(len(features), len(reference.features)) <= NEIGHBOURHOOD
    precision, recall = (None, None) if few else precision_and_recall(features, reference)
    on, splittable = extractor.label, len(logits) >= INCEPTION_SPLITS
    return {
        "frechet": {
            "name": extractor.name,
            "value": frechet_distance(statistics, reference.statistics),
            "n_generated": statistics.count,
            "n_reference": reference.statistics.count,
        },
        "kid": None if few else kernel_distance(features, reference.features, on),
        "inception_score": inception_score(logits, on) if splittable else None,
        "precision": {"name": f"precision[{on}]", "value": precision},
        "recall": {"name": f"recall[{on}]", "value": recall},
    }


def _rate(counts: Mapping[str, tuple[int, int]]) -> RateOfClasses:
    hits, n = (sum(part) for part in zip(*counts.values(), strict=True))
    return RateOfClasses(**rate(hits, n), per_class={name: k / m for name, (k, m) in counts.items()})


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
