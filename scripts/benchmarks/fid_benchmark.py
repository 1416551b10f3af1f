"""What do fewer sampling steps cost in quality, and save in time? Draws the recipe's base model, or the pipeline folder
given, with every sampler and number of steps: as many images as the data set holds, equally many of each class, with
fresh seeds in every repeat. Measures FID or FD and images a second. Writes fid_benchmark.json, .md and .png after
each cell. Cells that are there already are not drawn again, so the command can be stopped and run again. Cells of
500 steps and more are drawn once.

    python scripts/benchmarks/fid_benchmark.py digits_sfron_dual
    python scripts/benchmarks/fid_benchmark.py digits_sfron_dual --model runs/digits_sfron_dual-three/model
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from time import perf_counter
from typing import Any

from tqdm import tqdm

from dualoptim_diffusion.core.config import SamplingConfig
from dualoptim_diffusion.core.hashes import digest
from dualoptim_diffusion.drawing.samples import LazySamples
from dualoptim_diffusion.evaluation.frechet import FeatureStatistics, frechet_distance
from dualoptim_diffusion.evaluation.protocol import find_protocol
from dualoptim_diffusion.evaluation.reference import cached_reference
from dualoptim_diffusion.models import model_sha256
from dualoptim_diffusion.models.loading import load_model
from dualoptim_diffusion.runs.evaluate import open_classifier
from dualoptim_diffusion.runs.experiment import open_experiment
from dualoptim_diffusion.runs.models import obtain_base
from dualoptim_diffusion.runs.obtain import obtain_extractor
from dualoptim_diffusion.runs.provenance import describe_origin

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
import tables
import toy
from command import parse, parser

GRID = {"ddim": (5, 10, 20, 50, 100), "dpmsolver++": (5, 10, 20), "ddpm": (20, 100, 1000)}
LONG = 500  # steps of a cell that is drawn once
COLOURS = {"ddim": "#c8402f", "dpmsolver++": "#3a7ca5", "ddpm": "#6b7280"}


class Subject:
    """A model, the images that it is compared with, and the features that the distance is taken on."""

    def __init__(self, recipe: str, overrides: Sequence[str], folder: Path | None) -> None:
        experiment = open_experiment(recipe, ["0"], overrides)
        accelerator, evaluation = experiment.accelerator, experiment.recipe.evaluation
        if folder is not None:
            self.model = load_model(folder, accelerator.device)
        else:
            self.model = obtain_base(experiment)
        self.sha256 = model_sha256(self.model)
        experiment.prepare(self.model)
        classifier = open_classifier(experiment)
        protocol = find_protocol(evaluation.protocol)
        self.extractor = obtain_extractor(evaluation, protocol, classifier, experiment.features_recipe, accelerator)
        every = experiment.train_set  # FID is to training images
        self.reference = cached_reference(protocol.reference_of(every, every), self.extractor).statistics
        self.per_class = -(-self.reference.count // len(self.model.id2label))
        self.experiment, self.accelerator = experiment, accelerator

    def identity(self, repeats: int) -> str:
        """A hash of all that the figures depend on."""
        guidance = f"guidance_scale {self.experiment.recipe.sampling.guidance_scale}"
        inputs = (self.sha256, self.extractor.sha256, str(repeats), self.experiment.train_set.sha256)
        return digest(*inputs, guidance, self.model.passes)

    def about(self) -> dict[str, Any]:
        origin = describe_origin(self.accelerator.device)
        return {
            "n_generated": self.per_class * len(self.model.id2label),
            "n_reference": self.reference.count,
            "origin": origin | {"model_sha256": self.sha256, "extractor": self.extractor.sha256},
        }

    def cell(self, sampler: str, steps: int, repeats: int) -> dict[str, Any]:
        """Distance and images a second of one sampler with one number of steps, once for each repeat."""
        recipe = self.experiment.recipe.sampling
        batch_size = min(recipe.batch_size, self.per_class)  # no padding: it would be counted as time
        changes = {"scheduler": sampler, "num_inference_steps": steps, "batch_size": batch_size}
        settings = SamplingConfig.model_validate(recipe.model_dump() | changes)
        distances, speeds = [], []
        for repeat in range(repeats if steps < LONG else 1):
            seeds = range(repeat * self.per_class, (repeat + 1) * self.per_class)
            samples = LazySamples(self.model, dict.fromkeys(self.model.id2label, seeds), settings, self.accelerator)
            statistics, seconds = FeatureStatistics(), 0.0
            for label in tqdm(samples, desc=f"{sampler}, {steps} steps"):
                start = perf_counter()
                images = samples[label]
                seconds += perf_counter() - start
                statistics.add(self.extractor.extract(images)[0])
            speeds.append(self.per_class * len(self.model.id2label) / seconds)
            distances.append(frechet_distance(statistics, self.reference))
        return {"sampler": sampler, "steps": steps, "distance": distances, "images_per_second": speeds}


def tabulate(result: dict[str, Any]) -> str:
    """The least distance any sampler reached is the yardstick."""
    cells = result["cells"]
    best = min(mean(cell["distance"]) for cell in cells)
    body = [
        [
            cell["sampler"],
            cell["steps"],
            tables.spread(cell["distance"], ".3f"),
            f"{mean(cell['distance']) / best:.2f}x",
            f"{mean(cell['images_per_second']):.1f}",
        ]
        for cell in cells
    ]
    head = ["sampler", "steps", result["distance"], "against the best", "images a second"]
    return "\n".join([title(result), "", *tables.table(head, body, rule="---")]) + "\n"


def title(result: dict[str, Any]) -> str:
    return f"{result['n_generated']} images against {result['n_reference']} real ones"


def plot(path: Path, result: dict[str, Any]) -> None:
    """Distance against steps and against time."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    cells, name = result["cells"], result["distance"]
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for sampler, colour in COLOURS.items():
        own = sorted((cell for cell in cells if cell["sampler"] == sampler), key=lambda cell: cell["steps"])
        if not own:
            continue
        values = [mean(cell["distance"]) for cell in own]
        errors = [stdev(cell["distance"]) if len(cell["distance"]) > 1 else 0.0 for cell in own]
        seconds = [1000 / mean(cell["images_per_second"]) for cell in own]
        for axes, x in ((left, [cell["steps"] for cell in own]), (right, seconds)):
            axes.errorbar(x, values, errors, color=colour, marker="o", markersize=4, capsize=2, label=sampler)
    left.set(xscale="log", yscale="log", xlabel="sampling steps", ylabel=f"{name} (lower is better)")
    right.set(xscale="log", xlabel="seconds for 1000 images")
    left.legend(frameon=False)
    for axis in (left.xaxis, left.yaxis, right.xaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    for axes in (left, right):
        axes.grid(alpha=0.25, which="both")
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title(result), fontsize=11)
    figure.savefig(path, dpi=150)


def main(words: Sequence[str] | None = None) -> None:
    options = parser(__file__, __doc__)
    options.add_argument("recipe", nargs="?", default="digits_sfron_dual", help="[default: %(default)s]")
    options.add_argument("overrides", nargs="*", help="section.key=value")
    options.add_argument("--model", type=Path, help="a pipeline folder instead of the recipe's base model")
    options.add_argument("--sampler", action="append", choices=GRID, help="repeat for several [all]")
    options.add_argument("--steps", type=int, action="append", help="repeat for several [each sampler's usual ones]")
    options.add_argument("--repeats", type=int, default=2, help="draws of each cell, with fresh seeds [default: 2]")
    arguments = parse(options, words)
    out, overrides, repeats = arguments.out, arguments.overrides, arguments.repeats
    samplers, steps = arguments.sampler or list(GRID), arguments.steps
    if arguments.toy:
        overrides, repeats, samplers, steps = toy.overrides(out / "recipes"), 1, ["ddim"], [2]
    subject = Subject(arguments.recipe, overrides, arguments.model)
    path, identity = out / "fid_benchmark.json", subject.identity(repeats)
    stored = tables.read_json(path) if path.is_file() else {}
    cells = stored["cells"] if stored.get("identity") == identity else []
    finished = {(cell["sampler"], cell["steps"]) for cell in cells}

    def save(result: dict[str, Any]) -> None:
        tables.write(out / "fid_benchmark", result, tabulate(result))
        plot(out / "fid_benchmark.png", result)

    for sampler in samplers:
        for number in steps or GRID[sampler]:
            if (sampler, number) not in finished:
                cells.append(subject.cell(sampler, number, repeats))
                stored = {"distance": subject.extractor.name, **subject.about(), "cells": cells, "identity": identity}
                save(stored)
    save(stored)
    print(tabulate(stored))


if __name__ == "__main__":
    main()
