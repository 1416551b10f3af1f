"""Forgets every class of a recipe's data in turn, and any groups asked for, and tabulates what each run reached.

    python scripts/benchmarks/every_class.py digits_sfron_dual --group three,eight

Each cell is a run folder below --runs; finished cells are only scored again and interrupted ones go on, so the command
can be stopped and given again. The table goes to --out as JSON and markdown.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from dualoptim_diffusion.core.config import ForgetRecipe
from dualoptim_diffusion.core.recipes import find_recipe, load_recipe
from dualoptim_diffusion.data import data_facts

HEADER = (
    "| forgotten | original FA | FA (95% interval) | original RA | RA | FD[classifier] | FD ratio | degenerate "
    "| the label draws now |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def run_cell(recipe: str, names: list[str], folder: Path, overrides: list[str]) -> dict:
    """Results of one run; a finished one is only scored again, one of another recipe is refused."""
    classes = [word for name in names for word in ("--class", name)]
    command = ["forget", recipe, *overrides, *classes, "--out", str(folder), "--resume"]
    subprocess.run([sys.executable, "-m", "dualoptim_diffusion", *command], check=True, stdout=subprocess.DEVNULL)
    return json.loads((folder / "results.json").read_text())


def line(names: str, results: dict) -> str:
    before, after = results["original"], results["unlearned"]
    low, high = after["FA"]["ci95"]
    ratio = after["frechet"]["value"] / before["frechet"]["value"]
    return (
        f"| {names} | {before['FA']['value']:.1%} | {after['FA']['value']:.1%} ({low:.1%} to {high:.1%}, "
        f"n = {after['FA']['n']}) | {before['RA']['value']:.1%} | {after['RA']['value']:.1%} | "
        f"{after['frechet']['value']:.3f} | {ratio:.2f} | {after['degenerate_rate']:.1%} | "
        f"{draws(results)} |"
    )


def draws(results: dict) -> str:
    """What the classifier calls most of the images of the forgotten labels."""
    counts: Counter[str] = Counter()
    for name in results["forgotten"]:
        counts.update(results["unlearned"]["drawn"][name])
    return ", ".join(f"{name} {n / counts.total():.0%}" for name, n in counts.most_common(2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", help="section.key=value")
    parser.add_argument("--group", action="append", default=[], help="classes to forget together, such as three,eight")
    parser.add_argument("--runs", type=Path, default=Path("runs/every_class"))
    parser.add_argument("--out", type=Path, default=Path("scripts/benchmarks/results"))
    arguments = parser.parse_args()
    stem = find_recipe(arguments.recipe).stem
    recipe = load_recipe(ForgetRecipe, arguments.recipe, arguments.overrides)
    cells = [*data_facts(recipe.data).id2label.values(), *arguments.group]
    lines, table = [], {}
    for cell in cells:
        names = cell.split(",")
        results = run_cell(arguments.recipe, names, arguments.runs / stem / "-".join(names), arguments.overrides)
        table[cell] = results
        lines.append(line(", ".join(names), results))
        print(lines[-1], flush=True)
        text = f"# {stem}: every class\n\n`python {' '.join(sys.argv)}`\n\n{HEADER}\n" + "\n".join(lines)
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / f"every_class_{stem}.md").write_text(text + "\n")
        (arguments.out / f"every_class_{stem}.json").write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
