"""Forgets every class of a recipe's data in turn, and any groups asked for, and tabulates what each run reached. Every
run has a folder below --runs. Finished runs are only scored again and interrupted ones continue, so the command can
be stopped and run again. Writes every_class_RECIPE.json and .md, named after overrides too. With --table it runs
nothing, and writes every_class.md: a line for each recipe whose results are there.

    python scripts/studies/every_class.py digits_sfron_dual --group three,eight --jobs 2
    python scripts/studies/every_class.py --table
"""

import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
import tables
import toy
from command import command_line, dualoptim, parse, parser
from dualoptim_diffusion.core.classes import NONE_OF_THESE

HEAD = (
    "forgotten", "original FA", "FA (95% interval)", "FA (none)", "original RA", "RA", "KID x 1000 (95%)",
    "change x 1000 (95%)", "the label draws now",
)  # fmt: skip

BOUND = 0.05  # FA that a recipe shall stay below for every class


def line(names: str, results: dict[str, Any]) -> list[str]:
    before, after, change = results["original"], results["unlearned"], results["changes"]["kid"]
    return [
        spaced(names),
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


SUMMARY = (
    "recipe", "largest FA of one class (95% interval)", "classes above 5%", "FA of groups",
    "largest loss of RA, points", "farther from real images", "label draws mostly no class",
)  # fmt: skip

PAIRS = (("digits_sfron_dual", "digits_sfron_shared"), ("digits_salun_dual", "digits_salun_joint"))  # and their rates
DIFFERENCE = ("two optimizers less one", "classes", "FA, points", "RA, points", "KID x 1000")


def summary_line(recipe: str, found: dict[str, dict[str, Any]]) -> list[str]:
    """What the recipe reaches at worst; classes are left out where nothing is to be said of them."""
    one = {name: results for name, results in found.items() if "," not in name}
    rates = {name: results["unlearned"]["FA"] for name, results in found.items()}
    worst = max(one, key=lambda name: rates[name]["value"], default=None)
    lost = {name: r["original"]["RA"]["value"] - r["unlearned"]["RA"]["value"] for name, r in found.items()}
    most = max(lost, key=lost.__getitem__)
    farther = [name for name, r in found.items() if r["changes"]["kid"]["difference_ci95"][0] > 0]
    empty = [name for name, r in found.items() if mostly_none(r)]
    return [
        recipe,
        f"{worst}, {tables.rate(rates[worst])}" if worst else "",
        ", ".join(f"{name} {rates[name]['value']:.1%}" for name in one if rates[name]["value"] > BOUND),
        ", ".join(f"{spaced(name)}: {rate['value']:.1%}" for name, rate in rates.items() if name not in one),
        f"{spaced(most)} {100 * lost[most]:.1f}",
        "; ".join(map(spaced, farther)),
        "; ".join(map(spaced, empty)),
    ]


def mostly_none(results: dict[str, Any]) -> bool:
    """Whether the classifier calls half of the images of the forgotten labels "none of these" or more."""
    counts = [results["unlearned"]["drawn"][name] for name in results["forgotten"]]
    return 2 * sum(c.get(NONE_OF_THESE, 0) for c in counts) >= sum(sum(c.values()) for c in counts)


def spaced(names: str) -> str:
    return ", ".join(names.split(","))


def summary(folder: Path) -> str:
    """A line for each recipe whose results are in the folder, and one for each two that differ in their optimizers."""
    found = {path.stem: tables.read_json(path) for path in sorted(folder.glob("every_class_*.json"))}
    found = {stem.removeprefix("every_class_"): results for stem, results in found.items()}
    body = [summary_line(recipe, results) for recipe, results in found.items()]
    lines = ["# Every class, at worst", "", *tables.table(SUMMARY, body, rule="---")]
    if pairs := [(two, one) for two, one in PAIRS if {two, one} <= found.keys()]:
        body = [difference_line(two, one, found) for two, one in pairs]
        lines += ["", "Means over single classes, with 95% intervals by Student's t:", ""]
        lines += tables.table(DIFFERENCE, body, rule="---")
    return "\n".join(lines) + "\n"


def difference_line(two: str, one: str, found: dict[str, dict[str, Any]]) -> list[str]:
    """Mean paired differences over the classes that both forgot alone."""
    names = [name for name in found[two] if "," not in name and name in found[one]]

    def difference(key: str, scale: float) -> str:
        values = [[found[recipe][name]["unlearned"][key]["value"] for name in names] for recipe in (two, one)]
        return tables.mean_with_interval([scale * (a - b) for a, b in zip(*values, strict=True)], ".2f")

    return [f"{two} less {one}", str(len(names)), difference("FA", 100), difference("RA", 100), difference("kid", 1000)]


def main(words: Sequence[str] | None = None) -> None:
    options = parser(__file__, __doc__)
    options.add_argument("recipe", nargs="?", default="digits_sfron_dual", help="[default: %(default)s]")
    options.add_argument("overrides", nargs="*", help="section.key=value")
    options.add_argument("--group", action="append", default=[], help="classes to forget together, such as three,eight")
    options.add_argument("--groups-only", action="store_true", help="no class alone")
    options.add_argument("--jobs", type=int, default=1, help="runs side by side [default: %(default)s]")
    options.add_argument("--runs", type=Path, default=Path("runs/every_class"), help="[default: %(default)s]")
    options.add_argument("--table", action="store_true", help="run nothing")
    arguments = parse(options, words)
    if arguments.table:
        (arguments.out / "every_class.md").write_text(summary(arguments.out), encoding="utf-8")
        return
    from dualoptim_diffusion.core.config import ForgetRecipe
    from dualoptim_diffusion.core.recipes import find_recipe, load_recipe
    from dualoptim_diffusion.data import data_facts

    stem, overrides, runs = find_recipe(arguments.recipe).stem, arguments.overrides, arguments.runs
    recipe = load_recipe(ForgetRecipe, arguments.recipe, overrides)
    cells = [*([] if arguments.groups_only else data_facts(recipe.data).id2label.values()), *arguments.group]
    stem = "_".join([stem, *(change.rpartition(".")[2] for change in overrides)])  # other settings, other results
    if arguments.toy:
        overrides, runs, cells = toy.overrides(arguments.out / "recipes"), arguments.out / "runs", ["one,two"]

    def forgotten(cell: str) -> dict[str, Any]:
        folder = runs / stem / cell.replace(",", "-")
        classes = [word for name in cell.split(",") for word in ("--class", name)]
        words = ("forget", arguments.recipe, *overrides, *classes, "--out", str(folder), "--resume")
        if code := dualoptim(*words, here=arguments.toy, threads=1):
            sys.exit(f"Forgetting {cell} ended with {code}.")
        return tables.read_json(folder / "results.json")

    found: dict[str, dict[str, Any]] = {}
    with ThreadPoolExecutor(arguments.jobs) as pool:
        # the toy runs in this process, whose signals only its main thread can handle
        made = map(forgotten, cells) if arguments.jobs == 1 else pool.map(forgotten, cells)
        for cell, results in zip(cells, made, strict=True):
            found[cell] = results
            print(tables.row(line(cell, results)), flush=True)
            text = tabulate(found, stem, command_line(__file__, words))
            tables.write(arguments.out / f"every_class_{stem}", found, text)


if __name__ == "__main__":
    main()
