"""What fewer sampling steps cost in quality, and save in time: FID or FD and images a second for one model.

    python scripts/fid_benchmark.py configs/digits_sfron_dual.yaml
    python scripts/fid_benchmark.py configs/digits_sfron_dual.yaml --model runs/digits_sfron_dual-three/model

Draws the recipe's base model, or the pipeline folder given, with every sampler and number of steps: as many images as
the data set holds, equally many of each class, with fresh seeds in every repeat. Writes table, JSON and plot to --out
after each cell; cells that are there already are not drawn again, so the command can be stopped and given again. Cells
of 500 steps and more are drawn once.
"""

import argparse
import json
from pathlib import Path
from statistics import mean, stdev
from time import perf_counter
from typing import Any

from tqdm import tqdm

from dualoptim_diffusion.core.config import SamplingConfig
from dualoptim_diffusion.core.hashes import digest
from dualoptim_diffusion.drawing.samples import Draws
from dualoptim_diffusion.evaluation.features import Extractor
from dualoptim_diffusion.evaluation.frechet import FeatureStatistics, frechet_distance
from dualoptim_diffusion.evaluation.protocol import find_protocol
from dualoptim_diffusion.evaluation.reference import Reference, cached_reference
from dualoptim_diffusion.files.json_files import write_json
from dualoptim_diffusion.models import DenoisingModel, model_sha256
from dualoptim_diffusion.models.loading import load_model
from dualoptim_diffusion.runs.experiment import Experiment, open_experiment
from dualoptim_diffusion.runs.obtain import obtain_classifier, obtain_extractor, obtain_model
from dualoptim_diffusion.runs.provenance import describe_origin

GRID = {"ddim": (5, 10, 20, 50, 100), "dpmsolver++": (5, 10, 20), "ddpm": (20, 100, 1000)}
LONG = 500  # steps of a cell that is drawn once
COLOURS = {"ddim": "#c8402f", "dpmsolver++": "#3a7ca5", "ddpm": "#6b7280"}


def draw_cell(
    experiment: Experiment, model: DenoisingModel, sampler: str, steps: int, repeats: int, per_class: int,
    extractor: Extractor, reference: Reference,
) -> dict[str, Any]:  # fmt: skip
    """Distance and images a second of one sampler with one number of steps, once for each repeat."""
    recipe = experiment.recipe.sampling
    batch_size = min(recipe.batch_size, per_class)  # no padding: it would be counted as time
    changes = {"scheduler": sampler, "num_inference_steps": steps, "batch_size": batch_size}
    settings = SamplingConfig.model_validate(recipe.model_dump() | changes)
    distances, speeds = [], []
    for repeat in range(repeats if steps < LONG else 1):
        seeds = range(repeat * per_class, (repeat + 1) * per_class)
        samples = Draws(model, dict.fromkeys(model.id2label, seeds), settings, experiment.accelerator)
        statistics, seconds = FeatureStatistics(), 0.0
        for label in tqdm(samples, desc=f"{sampler}, {steps} steps"):
            start = perf_counter()
            images = samples[label]
            seconds += perf_counter() - start
            statistics.add(extractor.extract(images)[0])
        speeds.append(per_class * len(model.id2label) / seconds)
        distances.append(frechet_distance(statistics, reference.statistics))
    return {"sampler": sampler, "steps": steps, "distance": distances, "images_per_second": speeds}


def table(cells: list[dict[str, Any]], name: str) -> str:
    """Markdown; the least distance any sampler reached is the yardstick."""
    best = min(mean(cell["distance"]) for cell in cells)
    lines = [f"| sampler | steps | {name} | against the best | images a second |", "|---|---|---|---|---|"]
    for cell in cells:
        value = mean(cell["distance"])
        spread = f" ± {stdev(cell['distance']):.3f}" if len(cell["distance"]) > 1 else ""
        speed = mean(cell["images_per_second"])
        lines.append(
            f"| {cell['sampler']} | {cell['steps']} | {value:.3f}{spread} | {value / best:.2f}x | {speed:.1f} |"
        )
    return "\n".join(lines)


def plot(path: Path, cells: list[dict[str, Any]], name: str, title: str) -> None:
    """Distance against steps and against time."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

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
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=150)


def write_results(out: Path, result: dict[str, Any]) -> None:
    """JSON, plot and markdown table."""
    out.mkdir(parents=True, exist_ok=True)
    title = f"{result['n_generated']} images against {result['n_reference']} real ones"
    write_json(out / "fid_benchmark.json", result)
    plot(out / "fid_benchmark.png", result["cells"], result["distance"], title)
    text = f"{title}\n\n{table(result['cells'], result['distance'])}\n"
    (out / "fid_benchmark.md").write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", help="section.key=value")
    parser.add_argument("--model", type=Path, help="a pipeline folder instead of the recipe's base model")
    parser.add_argument("--sampler", action="append", choices=GRID, help="repeat for several [all]")
    parser.add_argument("--steps", type=int, action="append", help="repeat for several [each sampler's usual ones]")
    parser.add_argument("--repeats", type=int, default=2, help="draws of each cell, with fresh seeds")
    parser.add_argument("--out", type=Path, default=Path("scripts/benchmarks/results"))
    arguments = parser.parse_args()
    experiment = open_experiment(arguments.recipe, ["0"], arguments.overrides)
    accelerator, evaluation = experiment.accelerator, experiment.recipe.evaluation
    if arguments.model is not None:
        model = load_model(arguments.model, accelerator.device)
    else:
        model = obtain_model(experiment.recipe.model, experiment.recipe_path, accelerator)
    sha256 = model_sha256(model)
    experiment.prepare(model)
    classifier = obtain_classifier(evaluation.classifier, experiment.recipe_path, accelerator)
    protocol = find_protocol(evaluation.protocol)
    extractor = obtain_extractor(evaluation, protocol, classifier, accelerator.device)
    reference = cached_reference(protocol.reference_of(experiment.train_set), extractor)
    per_class = -(-reference.statistics.count // len(model.id2label))

    guidance = f"guidance_scale {experiment.recipe.sampling.guidance_scale}"
    inputs = (sha256, extractor.sha256, str(arguments.repeats), experiment.train_set.sha256)
    identity = digest(*inputs, guidance, model.passes)
    path = arguments.out / "fid_benchmark.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    cells = stored["cells"] if stored.get("identity") == identity else []
    finished = {(cell["sampler"], cell["steps"]) for cell in cells}
    for sampler in arguments.sampler or GRID:
        for steps in arguments.steps or GRID[sampler]:
            if (sampler, steps) in finished:
                continue
            cell = draw_cell(
                experiment, model, sampler, steps, arguments.repeats, per_class, extractor, reference
            )  # fmt: skip
            cells.append(cell)
            origin = describe_origin(accelerator.device) | {"model_sha256": sha256, "extractor": extractor.sha256}
            counts = {"n_generated": per_class * len(model.id2label), "n_reference": reference.statistics.count}
            stored = {"distance": extractor.name, **counts, "cells": cells, "origin": origin, "identity": identity}
            write_results(arguments.out, stored)
    write_results(arguments.out, stored)
    print(table(cells, extractor.name))


if __name__ == "__main__":
    main()
