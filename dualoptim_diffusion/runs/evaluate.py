"""`dualoptim evaluate`: the original and the unlearned model under equal seeds, then figures, grid and report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from dualoptim_diffusion.core.config import ForgetRecipe, SamplingConfig
from dualoptim_diffusion.core.errors import InputError, reason
from dualoptim_diffusion.core.hashes import digest
from dualoptim_diffusion.core.recipes import load_recipe
from dualoptim_diffusion.core.terminal import say
from dualoptim_diffusion.core.timing import timed, timings
from dualoptim_diffusion.data import ImageSet, load_image_folder
from dualoptim_diffusion.drawing.grids import draw_grid
from dualoptim_diffusion.drawing.samples import Samples, describe, draw_samples
from dualoptim_diffusion.evaluation import Measured, compare, match_classes, measure
from dualoptim_diffusion.evaluation.accuracy import nearest_classes
from dualoptim_diffusion.evaluation.estimate import LEAST_SAMPLES
from dualoptim_diffusion.evaluation.features import Extractor
from dualoptim_diffusion.evaluation.protocol import (
    Protocol,
    find_protocol,
    plan_seeds,
    protocol_of,
    protocol_sha256,
)
from dualoptim_diffusion.evaluation.reference import Reference, cached_reference
from dualoptim_diffusion.files.atomic import together
from dualoptim_diffusion.files.cache import cache_entry, place_for
from dualoptim_diffusion.files.json_files import write_json
from dualoptim_diffusion.files.locks import locked_run
from dualoptim_diffusion.files.results_file import Results
from dualoptim_diffusion.files.run_folder import RunFolder
from dualoptim_diffusion.judge.classifier import Classifier
from dualoptim_diffusion.judge.training import with_accuracy
from dualoptim_diffusion.models import DenoisingModel
from dualoptim_diffusion.report import write_report
from dualoptim_diffusion.report.notes import collapses
from dualoptim_diffusion.runs.experiment import Experiment
from dualoptim_diffusion.runs.models import open_both_models
from dualoptim_diffusion.runs.obtain import obtain_classifier, obtain_extractor

JUDGE, FEATURES = "evaluation.classifier=FOLDER", "evaluation.features=FOLDER"  # where they lie now


@dataclass(frozen=True)
class EvaluationSetup:
    """What figures are measured with, besides the images.

    Attributes:
        settings: the sampling section under the protocol.
        verified: the classifier's accuracy on real images of every forgotten class is known.
        real_images: the real images that drawn ones are compared with, in words.
        reference: those images.
        training: the training images, where the reference is none of them.
        nearest: retained labels, those whose real images the classifier takes for a forgotten class most.
    """

    protocol: Protocol
    settings: SamplingConfig
    classifier: Classifier
    verified: bool
    extractor: Extractor
    real_images: str
    reference: ImageSet
    training: ImageSet | None
    nearest: tuple[int, ...]

    @cached_property
    def real_features(self) -> Reference:
        """What drawn images are compared with; every model of a command with the same."""
        with timed("features, real images"):
            return cached_reference(self.reference, self.extractor, self.training)

    def measure(self, experiment: Experiment, samples: Mapping[int, Tensor]) -> Measured:
        """Scores one model's images."""
        return measure(
            samples,
            self.classifier,
            experiment.labels,
            experiment.forget_classes,
            self.real_features,
            extractor=self.extractor,
            accelerator=experiment.accelerator,
            nearest=self.nearest,
        )


def open_classifier(experiment: Experiment) -> Classifier:
    """The classifier that judges.

    Raises:
        InputError: if it cannot be had.
    """
    source = experiment.classifier_recipe or experiment.recipe.evaluation.classifier
    return obtain_classifier(source, "evaluation.classifier", experiment.accelerator)


def open_evaluation(experiment: Experiment, real_images: Path | None = None) -> EvaluationSetup:
    """Loads the classifier and the extractor and checks that they can serve.

    Args:
        real_images: a folder `CLASS/*.png` to measure the classifier's accuracy on.

    Raises:
        InputError: if the classifier is too often wrong on real images of a forgotten class, or weights are missing.
    """
    config = experiment.recipe.evaluation
    classifier = open_classifier(experiment)
    if real_images is not None:
        shape = experiment.facts.shape
        classifier = with_accuracy(classifier, load_image_folder(real_images, experiment.facts.id2label, shape))
    verified = check_judge(classifier, experiment.forget_names, config.min_accuracy)
    protocol = experiment.protocol
    extractor = obtain_extractor(config, protocol, classifier, experiment.features_recipe, experiment.accelerator)
    training, held_out = experiment.sets[1], experiment.held_out
    reference = protocol.reference_of(training, held_out)
    check_features(extractor, reference)
    beside = training if reference is held_out else None
    if len(reference) < LEAST_SAMPLES:
        raise InputError(
            f"There are {len(reference)} real images of the classes to retain; distances need {LEAST_SAMPLES} at least."
        )
    name = "training images" if reference is training else protocol.reference
    ids, gone = match_classes(classifier, experiment.labels), experiment.forget_classes
    near = nearest_classes(classifier, reference, experiment.retained_classes, [ids[label] for label in gone])
    return EvaluationSetup(
        protocol, experiment.sampling, classifier, verified, extractor, name, reference, beside, near
    )


def check_features(extractor: Extractor, images: ImageSet) -> None:
    """Takes the features of one image.

    Raises:
        InputError: if the network does not take such images.
    """
    try:
        extractor.extract(images.images[:1])
    except RuntimeError as error:
        raise InputError(
            f"The network behind {extractor.name} does not take images of shape {tuple(images.images.shape[1:])} "
            f"({reason(error)}); set evaluation.features to another."
        ) from None


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


def plan_sampling(experiment: Experiment, model: DenoisingModel, protocol: Protocol) -> dict[int, list[int]]:
    """The seeds of every label that a protocol asks for."""
    return plan_seeds(
        protocol,
        protocol.settings(experiment.recipe.sampling),
        list(experiment.labels),
        model.null_class,
        experiment.forget_classes,
        experiment.facts.count(experiment.retained_classes),
    )


class SamplePair(NamedTuple):
    """Images of every label, the null label included, drawn by both models under equal seeds."""

    original: Samples
    unlearned: Samples


def sample_both(experiment: Experiment, folder: RunFolder) -> SamplePair:
    """Draws from the original and the unlearned model what the protocol asks for.

    The original's images are cached for every run that starts from it; the others lie in the run folder.
    """
    models, settings = open_both_models(experiment, folder), experiment.sampling
    seeds = plan_sampling(experiment, models["original"].model, experiment.protocol)
    found = {}
    for role, (model, sha256) in models.items():
        key = repr(describe(model, sha256, settings))
        kept = role == "original"
        place = place_for(cache_entry("samples", key)) if kept else _samples_folder(folder, settings)
        with timed(title := f"sampling, {role}"):
            found[role] = draw_samples(place, model, sha256, seeds, settings, experiment.accelerator, title)
    return SamplePair(found["original"], found["unlearned"])


def _samples_folder(folder: RunFolder, settings: SamplingConfig) -> Path:
    """`samples` for the settings the run was made with; another folder for an evaluation under others."""
    stored = load_recipe(ForgetRecipe, str(folder.recipe))
    own = find_protocol(stored.evaluation.protocol).settings(stored.sampling)
    ignored = {"seeds"}
    if own.model_dump(exclude=ignored) == settings.model_dump(exclude=ignored):
        return folder.samples
    suffix = digest(repr(settings.model_dump(exclude=ignored)))[:8]
    return folder.samples.with_name(f"{folder.samples.name}-{suffix}")


def evaluate_run(experiment: Experiment, folder: RunFolder, setup: EvaluationSetup, own: bool = True) -> Results:
    """Scores the original and the unlearned model under equal seeds; writes results, grid and report.

    Args:
        own: as the run's recipe says; otherwise the figures stand beside those, in a file of their own.
    """
    folder.read_metrics()  # damaged files are refused before anything is rewritten
    folder.read_audit()
    folder.read_evaluations()
    selection = folder.read_selection()
    if own:
        folder.check_origin("classifier_sha256", setup.classifier.sha256, "classifier", JUDGE)
        if "features_sha256" in folder.read_provenance():
            folder.check_origin("features_sha256", setup.extractor.sha256, "network for features", FEATURES)
    labels, accelerator = experiment.labels, experiment.accelerator
    with timings() as seconds:
        samples = sample_both(experiment, folder)
        original, unlearned = (setup.measure(experiment, drawn) for drawn in samples)
    results = _results(experiment, setup, original, unlearned, seconds)
    own = own or folder.protocol_hash == results["protocol_hash"]
    if selection is not None:
        results["selection"] = selection
    if accelerator.is_main_process:
        results["model_files"] = folder.model_files_sha256()
        with together():
            write_json(folder.results if own else folder.evaluation(results["protocol_hash"]), results)
            if own:
                before, after = (drawn.of(list(labels)) for drawn in samples)
                draw_grid(folder.grid, before, after, labels, experiment.forget_classes)
            if own or folder.results.is_file():
                write_report(folder.path)
        for sentence in collapses(unlearned.figures, original.figures):
            say(f"Warning: {sentence} Open {folder.place / folder.grid.name} before believing FA.")
    accelerator.wait_for_everyone()
    return results


def _results(
    experiment: Experiment, setup: EvaluationSetup, original: Measured, unlearned: Measured, seconds: dict[str, float]
) -> Results:
    info = setup.classifier.info
    protocol = protocol_of(
        setup.protocol, setup.settings, setup.classifier, setup.extractor, experiment.data, setup.real_images
    )
    return Results(
        original=original.figures,
        unlearned=unlearned.figures,
        changes=compare(original, unlearned),
        forgotten=experiment.forget_names,
        data=experiment.recipe.data.name,
        forgotten_before=[experiment.facts.id2label[i] for i in experiment.left_out],
        protocol=protocol,
        protocol_hash=protocol_sha256(protocol),
        classifier={"verified": setup.verified, "accuracy": info.accuracy, "n_held_out": info.n_held_out},
        seconds={part: round(value, 1) for part, value in seconds.items()},
    )


def evaluate_again(experiment: Experiment, run: Path, real_images: Path | None = None) -> Results:
    """Evaluates a finished run; arguments as in `open_evaluation`."""
    folder, recipe = RunFolder(run), experiment.recipe
    stored = load_recipe(ForgetRecipe, str(folder.recipe))
    own = (recipe.sampling, recipe.evaluation) == (stored.sampling, stored.evaluation)
    with locked_run(run, experiment.accelerator):
        return evaluate_run(experiment, folder, open_evaluation(experiment, real_images), own)
