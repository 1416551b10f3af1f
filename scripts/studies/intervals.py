"""How often do the intervals of distances hold the truth? One model draws pairs of disjoint sets of seeds: the ratio of
their distances is 1 in truth, and the difference 0. Writes intervals.json and .md.

    python scripts/studies/intervals.py digits_sfron_dual --class three
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
import tables
import toy
from command import command_line, parse, parser

DISTANCES = {"kid": "KID", "kid_training": "KID to training images", "frechet_infinity": "FD-infinity"}


def measure_pairs(recipe: str, class_name: str, overrides: Sequence[str], pairs: int, images: int) -> list[Any]:
    """What `compare` finds between two sets of seeds of the base model, and the figures of either."""
    from dualoptim_diffusion.drawing.samples import LazySamples
    from dualoptim_diffusion.evaluation import compare
    from dualoptim_diffusion.runs.evaluate import open_evaluation
    from dualoptim_diffusion.runs.experiment import open_experiment
    from dualoptim_diffusion.runs.models import open_base_model

    experiment = open_experiment(recipe, [class_name], overrides)
    model, sha256 = open_base_model(experiment)
    experiment.prepare(model)
    setup = open_evaluation(experiment)
    found = []
    for pair in range(pairs):
        first, second = (
            setup.measure(
                experiment,
                LazySamples(
                    model,
                    dict.fromkeys(experiment.labels, range(start, start + images)),
                    setup.settings,
                    experiment.accelerator,
                ),
            )
            for start in (2 * pair * images, (2 * pair + 1) * images)
        )
        found.append({"changes": compare(first, second), "kid": first.figures["kid"], "base_sha256": sha256})
        print(f"pair {pair + 1}: {found[-1]['changes']['kid']}", flush=True)
    return found


def covered(interval: Sequence[float], truth: float) -> bool:
    return interval[0] <= truth <= interval[1]


def tabulate(found: Sequence[dict[str, Any]], images: int, command: str) -> str:
    body = []
    for key, name in DISTANCES.items():
        changes = [pair["changes"][key] for pair in found if key in pair["changes"]]
        if not changes:
            continue
        ratios = [change for change in changes if "ratio" in change]
        halves = [(change["ratio_ci95"][1] - change["ratio_ci95"][0]) / 2 for change in ratios]
        body.append(
            [
                name,
                f"{sum(covered(c['ratio_ci95'], 1) for c in ratios)} of {len(ratios)}",
                f"{sum(covered(c['difference_ci95'], 0) for c in changes)} of {len(changes)}",
                tables.spread([c["ratio"] for c in ratios], ".3f") if ratios else "",
                f"± {sum(halves) / len(halves):.3f}" if halves else "",
            ]
        )
    head = ["distance", "ratio's interval holds 1", "difference's holds 0", "ratio", "its interval, mean half-width"]
    kid = found[0]["kid"]
    lines = [
        "# Intervals of distances between two sets of seeds of one model", "", f"`{command}`", "",
        *tables.table(head, body), "",
        f"{len(found)} pairs of disjoint sets of {images} seeds a label; {kid['n_generated']} images against "
        f"{kid['n_reference']} held-out real ones; base model {found[0]['base_sha256'][:12]}. Of 95% intervals 19 in "
        "20 are expected to hold the truth.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main(words: Sequence[str] | None = None) -> None:
    options = parser(__file__, __doc__)
    options.add_argument("recipe", nargs="?", default="digits_sfron_dual", help="[default: %(default)s]")
    options.add_argument("overrides", nargs="*", help="section.key=value")
    options.add_argument("--class", dest="class_name", default="three", help="that is left out [default: %(default)s]")
    options.add_argument("--pairs", type=int, default=20, help="[default: %(default)s]")
    options.add_argument("--images", type=int, default=100, help="of each label in a set [default: %(default)s]")
    arguments = parse(options, words)
    overrides, pairs, images = arguments.overrides, arguments.pairs, arguments.images
    if arguments.toy:
        overrides, pairs, images = toy.overrides(arguments.out / "recipes"), 2, 4
    command = command_line(__file__, words)
    found = measure_pairs(arguments.recipe, arguments.class_name, overrides, pairs, images)
    text = tabulate(found, images, command)
    tables.write(arguments.out / "intervals", {"command": command, "images": images, "pairs": found}, text)
    print(text)


if __name__ == "__main__":
    main()
