"""Scoring: the original and the unlearned model under equal seeds, then figures, grid and report."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from dualoptim_diffusion.assets import load_model, obtain_classifier, obtain_model
from dualoptim_diffusion.checkpoint import write_json
from dualoptim_diffusion.data import split
from dualoptim_diffusion.errors import InputError
from dualoptim_diffusion.evaluation import evaluate
from dualoptim_diffusion.evaluation.protocol import protocol_of, protocol_sha256
from dualoptim_diffusion.experiment import Experiment
from dualoptim_diffusion.grids import draw_grid
from dualoptim_diffusion.models import weights_sha256
from dualoptim_diffusion.provenance import cache_entry, timed
from dualoptim_diffusion.report import write_report
from dualoptim_diffusion.samples import describe, draw_samples

Results = dict[str, Any]


def sample_both(
    experiment: Experiment, out: Path, seconds: dict[str, float] | None = None
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """uint8 images by class id of the original and of the unlearned model under equal seeds.

    The original's are kept in the cache for every run that starts from it, the unlearned model's in the run folder.
    """
    accelerator, settings = experiment.accelerator, experiment.recipe.sampling
    original = obtain_model(experiment.recipe.model, experiment.recipe_path, accelerator)
    _check_origin(out, "base_model_sha256", weights_sha256(original.network.state_dict()), "base model")
    unlearned = load_model(out / "model", accelerator.device)
    class_ids = list(experiment.train_set.id2label)
    drawn = []
    for name, model in (("original", original), ("unlearned", unlearned)):
        sha = weights_sha256(model.network.state_dict())
        key = repr(describe(sha, class_ids, settings, accelerator))
        folder = cache_entry("samples", key) if name == "original" else out / "samples"
        model.prepare(accelerator)
        with timed({} if seconds is None else seconds, title := f"sampling, {name}"):
            drawn.append(draw_samples(folder, model, sha, class_ids, settings, accelerator, title))
    return drawn[0], drawn[1]


def _check_origin(out: Path, key: str, sha256: str, name: str) -> None:
    recorded = json.loads((out / "provenance.json").read_text(encoding="utf-8")).get(key)
    if recorded != sha256:
        raise InputError(f"The {name} is not the one that the run {out} was made with; restore it or forget anew.")


def evaluate_run(experiment: Experiment, out: Path, seconds: dict[str, float] | None = None) -> Results:
    """Scores the original and the unlearned model under equal seeds; writes results, grid and report into `out`."""
    accelerator, recipe = experiment.accelerator, experiment.recipe
    seconds = {} if seconds is None else seconds
    classifier = obtain_classifier(recipe.evaluation.classifier, experiment.recipe_path, accelerator)
    _check_origin(out, "classifier_sha256", classifier.sha256, "classifier")
    before, after = sample_both(experiment, out, seconds)
    results: Results = {}
    if accelerator.is_main_process:
        id2label, forgotten = experiment.train_set.id2label, experiment.forget_classes
        _, retain_set = split(experiment.train_set, forgotten)
        with timed(seconds, "metrics"):
            for name, images in (("original", before), ("unlearned", after)):
                results[name] = evaluate(images, classifier, id2label, forgotten, retain_set.images)
        protocol = protocol_of(recipe.sampling, classifier, experiment.train_set)
        results |= {
            "forgotten": experiment.forget_names,
            "protocol": protocol,
            "protocol_hash": protocol_sha256(protocol),
            "classifier": {"accuracy": classifier.info.accuracy, "n_held_out": classifier.info.n_held_out},
            "seconds": {part: round(value, 1) for part, value in seconds.items()},
        }
        write_json(out / "results.json", results)
        draw_grid(out / "grid.png", before, after, id2label, forgotten)
        write_report(out)
    accelerator.wait_for_everyone()
    return results
