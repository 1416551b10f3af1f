"""Masks of every class by each estimator of the Fisher information: how far they agree, and what they cost.

    python scripts/benchmarks/estimators.py digits_sfron_dual

For every class the mask is made as a run would make it, from an empty cache of masks, so `class_pure` passes over the
training images once for all classes and the others once a class. Agreement is the share of weights under both masks
among those under either. Results: estimators_RECIPE_DEVICE.json and .md.
"""

import argparse
import os
from itertools import combinations
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from measuring import row, where, write_results
from tqdm import tqdm

ESTIMATORS = ("published", "plain", "class_pure")


def flat(mask: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([part.flatten() for part in mask.values()])


def measure(recipe: str) -> dict[str, Any]:
    """Density, agreement and seconds of the masks of all classes."""
    from dualoptim_diffusion.runs.experiment import open_experiment
    from dualoptim_diffusion.runs.mask import saliency
    from dualoptim_diffusion.runs.obtain import obtain_model

    opened = open_experiment(recipe, ["0"])
    model = obtain_model(opened.recipe.model, opened.recipe_path, opened.accelerator, opened.facts.id2label)
    opened.prepare(model)
    names, masks, seconds = opened.facts.id2label, {}, {}
    with TemporaryDirectory() as empty:
        os.environ["DUALOPTIM_CACHE"] = empty
        for estimator in ESTIMATORS:
            start = perf_counter()
            for label in tqdm(names, desc=estimator, unit="class"):
                experiment = open_experiment(recipe, [str(label)], [f"method.mask.estimator={estimator}"])
                masks[estimator, label] = flat(saliency(experiment, model))
            seconds[estimator] = perf_counter() - start
    density = {e: {names[i]: float(masks[e, i].float().mean()) for i in names} for e in ESTIMATORS}

    def agreement(a: str, b: str) -> dict[str, float]:
        return {
            n: float((masks[a, i] & masks[b, i]).sum() / (masks[a, i] | masks[b, i]).sum()) for i, n in names.items()
        }

    pairs = {f"{a}, {b}": agreement(a, b) for a, b in combinations(ESTIMATORS, 2)}
    return {"classes": len(names), "density": density, "agreement": pairs, "seconds": seconds}


def tabulate(content: dict[str, Any]) -> str:
    chance = {e: mean(content["density"][e].values()) for e in ESTIMATORS}
    lines = [
        "# Masks by estimator", "", f"`{content['command']}`", "",
        f"{content['device']}, torch {content['torch']}; masks of all {content['classes']} classes.", "",
        row(["estimator", "weights under the mask (mean; range)", "seconds for all classes"]), row(["---"] * 3),
    ]  # fmt: skip
    for estimator in ESTIMATORS:
        found = content["density"][estimator].values()
        span = f"{mean(found):.1%} ({min(found):.1%} to {max(found):.1%})"
        lines.append(row([estimator, span, f"{content['seconds'][estimator]:.1f}"]))
    lines += [
        "",
        row(["masks of", "weights under both of those under either (mean; range)", "of two random masks"]),
        row(["---"] * 3),
    ]
    for pair, found in content["agreement"].items():
        a, b = (chance[name] for name in pair.split(", "))
        span = f"{mean(found.values()):.0%} ({min(found.values()):.0%} to {max(found.values()):.0%})"
        lines.append(row([pair, span, f"{a * b / (a + b - a * b):.0%}"]))
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="digits_sfron_dual")
    parser.add_argument("--out", type=Path, default=Path("scripts/benchmarks/results"))
    arguments = parser.parse_args()
    content = {
        "command": f"python scripts/benchmarks/estimators.py {arguments.recipe}",
        **where(),
        **measure(arguments.recipe),
    }
    write_results(arguments.out, f"estimators_{arguments.recipe}", content, tabulate)


if __name__ == "__main__":
    main()
