"""Scoring: the original and the unlearned model under equal seeds, then figures, grid and report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dualoptim_diffusion.core.config import ForgetRecipe, SamplingConfig
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.hashes import digest
from dualoptim_diffusion.core.recipes import load_recipe
from dualoptim_diffusion.core.terminal import say
from dualoptim_diffusion.core.timing import timed
from dualoptim_diffusion.data import ImageSet, load_image_folder
from dualoptim_diffusion.drawing.grids import draw_grid
from dualoptim_diffusion.drawing.samples import Samples, describe, draw_samples
from dualoptim_diffusion.evaluation import evaluate
from dualoptim_diffusion.evaluation.features import Extractor
from dualoptim_diffusion.evaluation.protocol import (
    Plan,
    Protocol,
    find_protocol,
    make_plan,
    protocol_of,
    protocol_sha256,
)
from dualoptim_diffusion.evaluation.reference import cached_reference
from dualoptim_diffusion.files.cache import cache_entry
from dualoptim_diffusion.files.json_files import read_json, write_json
from dualoptim_diffusion.files.metrics import read_metrics, read_selection
from dualoptim_diffusion.judge.classifier import Classifier
from dualoptim_diffusion.judge.training import measure
from dualoptim_diffusion.models import DenoisingModel, model_sha256
from dualoptim_diffusion.models.loading import load_model
from dualoptim_diffusion.report import write_report
from dualoptim_diffusion.report.audits import read_audit
from dualoptim_diffusion.report.notes import NOTICEABLE
from dualoptim_diffusion.runs.experiment import Experiment
from dualoptim_diffusion.runs.obtain import obtain_classifier, obtain_extractor, obtain_model

Results = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """Everything that figures are taken with, besides the images."""

    protocol: Protocol
    settings: SamplingConfig  # under the protocol
    classifier: Classifier
    verified: bool  # the classifier has seen real images of every forgotten class
    extractor: Extractor
    reference: ImageSet


def open_bench(experiment: Experiment, real_images: Path | None = None) -> Bench:
    """Loads the judge and the extractor and checks that they can serve.

    Args:
        real_images: a folder `CLASS/*.png` to measure the classifier's accuracy on anew.

    Raises:
        InputError: if the classifier is too often wrong on real images of a forgotten class, or weights are missing.
    """
    recipe, accelerator = experiment.recipe, experiment.accelerator
    classifier = obtain_classifier(recipe.evaluation.classifier, experiment.recipe_path, accelerator)
    if real_images is not None:
        shape = experiment.facts.shape
        classifier = measure(classifier, load_image_folder(real_images, experiment.facts.id2label, shape))
    verified = check_judge(classifier, experiment.forget_names, recipe.evaluation.min_accuracy)
    protocol = find_protocol(recipe.evaluation.protocol)
    extractor = obtain_extractor(recipe.evaluation, protocol, classifier, accelerator.device)
    _, retain_set = experiment.sets
    reference = protocol.reference_of(retain_set)
    return Bench(protocol, protocol.settings(recipe.sampling), classifier, verified, extractor, reference)


def check_judge(classifier: Classifier, forgotten: Sequence[str], floor: float) -> bool:
    """Whether the classifier's accuracy on real images is known for every forgotten class.

    Raises:
        InputError: if it is known and below `floor`: then FA would say nothing.
    """
    known = classifier.info.accuracy
    for name in forgotten:
        if name in known and known[name] < floor:
            raise InputError(
                f"The classifier calls only {known[name]:.1%} of {classifier.info.n_held_out[name]} real images of "
                f"{name!r} by their name, below evaluation.min_accuracy {floor:.0%}, so FA would say nothing; train it "
                "better or use another."
            )
    return all(name in known for name in forgotten)


def plan_sampling(experiment: Experiment, model: DenoisingModel) -> tuple[SamplingConfig, Plan]:
    """The sampling settings and the seeds of every label that the experiment's protocol asks for."""
    protocol = find_protocol(experiment.recipe.evaluation.protocol)
    settings = protocol.settings(experiment.recipe.sampling)
    n_reference = protocol.count_of_reference([experiment.facts.counts[i] for i in experiment.retained_classes])
    return settings, make_plan(
        protocol, settings, list(experiment.labels), model.null_class, experiment.forget_classes, n_reference
    )


class Drawn(NamedTuple):
    """Images of every label, the null label included, under equal seeds."""

    original: Samples
    unlearned: Samples
    per_class: int  # images of each retained label that count for distances


def open_models(experiment: Experiment, out: Path) -> dict[str, tuple[DenoisingModel, str]]:
    """The original and the unlearned model of a run with the hashes of their weights, ready to draw.

    Raises:
        InputError: if one cannot be had, or the original is not the one that the run was made with.
    """
    accelerator, names = experiment.accelerator, experiment.facts.id2label
    models = {
        "original": obtain_model(experiment.recipe.model, experiment.recipe_path, accelerator, names),
        "unlearned": load_model(out / "model", accelerator.device),
    }
    opened = {name: (model, model_sha256(model)) for name, model in models.items()}
    check_origin(out, "base_model_sha256", opened["original"][1], "base model")
    for model in models.values():
        experiment.prepare(model)
    return opened


def sample_both(experiment: Experiment, out: Path, seconds: dict[str, float] | None = None) -> Drawn:
    """Draws from the original and the unlearned model what the protocol asks for.

    The original's images are kept in the cache for every run that starts from it, the others in the run folder.
    """
    accelerator, models = experiment.accelerator, open_models(experiment, out)
    settings, plan = plan_sampling(experiment, models["original"][0])
    drawn = {}
    for name, (model, sha256) in models.items():
        key = repr(describe(model, sha256, settings))
        folder = cache_entry("samples", key) if name == "original" else out / _samples_folder(out, settings)
        with timed({} if seconds is None else seconds, title := f"sampling, {name}"):
            drawn[name] = draw_samples(folder, model, sha256, plan.seeds, settings, accelerator, title)
    return Drawn(drawn["original"], drawn["unlearned"], plan.per_class)


def _samples_folder(out: Path, settings: SamplingConfig) -> str:
    """`samples` for the settings the run was made with; another folder for an evaluation under others."""
    stored = load_recipe(ForgetRecipe, str(out / "recipe.yaml"))
    own = find_protocol(stored.evaluation.protocol).settings(stored.sampling)
    drop = {"seeds"}
    if own.model_dump(exclude=drop) == settings.model_dump(exclude=drop):
        return "samples"
    return f"samples-{digest(repr(settings.model_dump(exclude=drop)))[:8]}"


def check_origin(out: Path, key: str, sha256: str, name: str) -> None:
    """Checks that a run's provenance records this very input.

    Raises:
        InputError: if it records another, or is damaged.
    """
    try:
        recorded = read_json(out / "provenance.json")
        if not isinstance(recorded, dict):
            raise ValueError("it is of another kind")
    except (OSError, ValueError) as error:
        raise InputError(f"{out / 'provenance.json'} is damaged ({error}); restore it or forget anew.") from None
    if recorded.get(key) != sha256:
        raise InputError(f"The {name} is not the one that the run {out} was made with; restore it or forget anew.")


def evaluate_run(
    experiment: Experiment, out: Path, seconds: dict[str, float] | None = None, bench: Bench | None = None
) -> Results:
    """Scores the original and the unlearned model under equal seeds; writes results, grid and report into `out`."""
    accelerator = experiment.accelerator
    seconds = {} if seconds is None else seconds
    bench = bench or open_bench(experiment)
    read_metrics(out)  # damaged files are refused before anything is rewritten
    read_audit(out)
    selection = read_selection(out)
    check_origin(out, "classifier_sha256", bench.classifier.sha256, "classifier")
    drawn = sample_both(experiment, out, seconds)
    id2label, forgotten = experiment.labels, experiment.forget_classes
    with timed(seconds, "features, real images"):
        reference = cached_reference(bench.reference, bench.extractor)
    results: Results = {
        name: evaluate(
            samples,
            bench.classifier,
            id2label,
            forgotten,
            reference,
            extractor=bench.extractor,
            per_class=drawn.per_class,
            accelerator=accelerator,
            seconds=seconds,
        )
        for name, samples in (("original", drawn.original), ("unlearned", drawn.unlearned))
    }
    if accelerator.is_main_process:
        info, classes = bench.classifier.info, list(id2label)
        protocol = protocol_of(bench.protocol, bench.settings, bench.classifier, bench.extractor, experiment.train_set)
        results |= {
            "forgotten": experiment.forget_names,
            "data": experiment.recipe.data.name,
            "forgotten_before": [experiment.facts.id2label[i] for i in experiment.left_out],
            "protocol": protocol,
            "protocol_hash": protocol_sha256(protocol),
            "classifier": {
                "verified": bench.verified,
                "accuracy": info.accuracy,
                "n_held_out": info.n_held_out,
            },
            "seconds": {part: round(value, 1) for part, value in seconds.items()},
        }
        if selection is not None:
            results["selection"] = selection
        write_json(out / "results.json", results)
        draw_grid(out / "grid.png", drawn.original.of(classes), drawn.unlearned.of(classes), id2label, forgotten)
        write_report(out)
        if (flat := results["unlearned"]["degenerate_rate"]) >= NOTICEABLE:
            say(f"Warning: {flat:.1%} of the images are one flat colour; open {out / 'grid.png'} before believing FA.")
    accelerator.wait_for_everyone()
    return results
