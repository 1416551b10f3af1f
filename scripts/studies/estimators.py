"""How far do the estimators of the Fisher information agree, and what do they cost? Makes the mask of every class by
each estimator, as a run would make it, from an empty cache of masks: `class_pure` passes over the training images
once for all classes and the others once a class. Agreement is the share of weights under both masks among those
under either. Writes estimators_RECIPE_DEVICE.json and .md.

    python scripts/studies/estimators.py digits_sfron_dual
"""

import os
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any
from unittest.mock import patch

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
import tables
import toy
from command import command_line, parse, parser
from machine import kind, where

ESTIMATORS = ("published", "plain", "class_pure")


def flat(mask: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([part.flatten() for part in mask.values()])


def measure(recipe: str, overrides: Sequence[str] = (), num_classes: int | None = None) -> dict[str, Any]:
    """Density, agreement and seconds of the masks of all classes, or of the first so many."""
    from dualoptim_diffusion.runs.experiment import open_experiment
    from dualoptim_diffusion.runs.mask import saliency
    from dualoptim_diffusion.runs.models import obtain_base

    opened = open_experiment(recipe, ["0"], overrides)
    model = obtain_base(opened)
    opened.prepare(model)
    names, masks, seconds = dict(list(opened.facts.id2label.items())[:num_classes]), {}, {}
    with TemporaryDirectory() as empty, patch.dict(os.environ, {"DUALOPTIM_CACHE": empty}):
        for estimator in ESTIMATORS:
            start = perf_counter()
            for label in tqdm(names, desc=estimator, unit="class"):
                words = [*overrides, f"method.mask.estimator={estimator}"]
                masks[estimator, label] = flat(saliency(open_experiment(recipe, [str(label)], words), model))
            seconds[estimator] = perf_counter() - start
    density = {e: {names[i]: float(masks[e, i].float().mean()) for i in names} for e in ESTIMATORS}

    def agreement(a: str, b: str) -> dict[str, float]:
        return {
            n: float((masks[a, i] & masks[b, i]).sum() / (masks[a, i] | masks[b, i]).sum()) for i, n in names.items()
        }

    pairs = {f"{a}, {b}": agreement(a, b) for a, b in combinations(ESTIMATORS, 2)}
    return {"classes": len(names), "density": density, "agreement": pairs, "seconds": seconds}


def tabulate(content: dict[str, Any]) -> str:
    densities = {estimator: list(content["density"][estimator].values()) for estimator in ESTIMATORS}
    chance = {estimator: sum(found) / len(found) for estimator, found in densities.items()}
    costs = [[e, tables.span(densities[e], ".1%"), f"{content['seconds'][e]:.1f}"] for e in ESTIMATORS]
    pairs = []
    for pair, found in content["agreement"].items():
        a, b = (chance[name] for name in pair.split(", "))
        pairs.append([pair, tables.span(list(found.values()), ".0%"), f"{a * b / (a + b - a * b):.0%}"])
    lines = [
        "# Masks by estimator", "", f"`{content['command']}`", "",
        f"{content['device']}, torch {content['torch']}; masks of all {content['classes']} classes.", "",
        *tables.table(["estimator", "weights under the mask (mean; range)", "seconds for all classes"], costs), "",
        *tables.table(
            ["masks of", "weights under both of those under either (mean; range)", "of two random masks"], pairs
        ),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main(words: Sequence[str] | None = None) -> None:
    options = parser(__file__, __doc__)
    options.add_argument("recipe", nargs="?", default="digits_sfron_dual", help="[default: %(default)s]")
    arguments = parse(options, words)
    tiny = ([*toy.overrides(arguments.out / "recipes"), *toy.MASK], 2) if arguments.toy else ()
    command = command_line(__file__, [arguments.recipe])
    content = {"command": command, **where(), **measure(arguments.recipe, *tiny)}
    text = tabulate(content)
    tables.write(arguments.out / f"estimators_{arguments.recipe}_{kind()}", content, text)
    print(text)


if __name__ == "__main__":
    main()
