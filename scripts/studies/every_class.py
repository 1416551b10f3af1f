"""Forgets every class of a recipe's data in turn, and any groups asked for, and tabulates what each run reached. Every
run has a folder below --runs. Finished runs are only scored again and interrupted ones continue, so the command can
be stopped and run again. Writes every_class_RECIPE.json and .md.

    python scripts/studies/every_class.py digits_sfron_dual --group three,eight
"""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
import tables
import toy
from command import command_line, dualoptim, parse, parser

HEAD = (
    "forgotten", "original FA", "FA (95% interval)", "FA (none)", "original RA", "RA", "KID x 1000 (95%)",
    "change x 1000 (95%)", "the label draws now",
)  # fmt: skip


def line(names: str, results: dict[str, Any]) -> list[str]:
    before, after, change = results["original"], results["unlearned"], results["changes"]["kid"]
    return [
        ", ".join(names.split(",")),
        f"{before['FA']['value']:.1%}",
        tables.rate(after["FA"]),
        f"{after['FA_none']['value']:.1%}" if "FA_none" in after else "",
        f"{before['RA']['value']:.1%}",
        f"{after['RA']['value']:.1%}",
        thousandths(after["kid"]["value"], after["kid"]["ci95"]),
        thousandths(change["difference"], change["difference_ci95"]),
        draws(results),
    ]


def thousandths(value: float, interval: Sequence[float]) -> str:
    low, high = (f"{1000 * side:.2f}" for side in interval)
    return f"{1000 * value:.2f} ({low} to {high})"


def draws(results: dict) -> str:
    """What the classifier calls most of the images of the forgotten labels."""
    counts: Counter[str] = Counter()
    for name in results["forgotten"]:
        counts.update(results["unlearned"]["drawn"][name])
    return ", ".join(f"{name} {n / counts.total():.0%}" for name, n in counts.most_common(2))


def tabulate(found: dict[str, dict[str, Any]], recipe: str, command: str) -> str:
    body = tables.table(HEAD, [line(names, results) for names, results in found.items()], rule="---")
    return "\n".join([f"# {recipe}: every class", "", f"`{command}`", "", *body]) + "\n"


def main(words: Sequence[str] | None = None) -> None:
    options = parser(__file__, __doc__)
    options.add_argument("recipe", nargs="?", default="digits_sfron_dual", help="[default: %(default)s]")
    options.add_argument("overrides", nargs="*", help="section.key=value")
    options.add_argument("--group", action="append", default=[], help="classes to forget together, such as three,eight")
    options.add_argument("--runs", type=Path, default=Path("runs/every_class"), help="[default: %(default)s]")
    arguments = parse(options, words)
    from dualoptim_diffusion.core.config import ForgetRecipe
    from dualoptim_diffusion.core.recipes import find_recipe, load_recipe
    from dualoptim_diffusion.data import data_facts

    stem, overrides, runs = find_recipe(arguments.recipe).stem, arguments.overrides, arguments.runs
    recipe = load_recipe(ForgetRecipe, arguments.recipe, overrides)
    cells = [*data_facts(recipe.data).id2label.values(), *arguments.group]
    if arguments.toy:
        overrides, runs, cells = toy.overrides(arguments.out / "recipes"), arguments.out / "runs", ["one,two"]
    found: dict[str, dict[str, Any]] = {}
    for cell in cells:
        folder = runs / stem / cell.replace(",", "-")
        classes = [word for name in cell.split(",") for word in ("--class", name)]
        forget = ("forget", arguments.recipe, *overrides, *classes, "--out", str(folder), "--resume")
        if code := dualoptim(*forget, here=arguments.toy):
            sys.exit(f"Forgetting {cell} ended with {code}.")
        found[cell] = tables.read_json(folder / "results.json")
        print(tables.row(line(cell, found[cell])), flush=True)
        text = tabulate(found, stem, command_line(__file__, words))
        tables.write(arguments.out / f"every_class_{stem}", found, text)


if __name__ == "__main__":
    main()
