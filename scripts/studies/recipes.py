"""What does each recipe of the digits reach, and what does the audit say of it? Forgets one class with every recipe of
a family of networks, audits the results beside two retrained models, and writes digits_recipes.json and .md, of the DiT
digits_dit_recipes. Finished runs are kept.

    python scripts/studies/recipes.py --class three
    python scripts/studies/recipes.py --class three --family dit
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
import tables
import toy
from command import command_line, dualoptim, parse, parser
from tables import read_json

RECIPES = {
    "ddpm": (
        "digits_sfron_dual", "digits_sfron_shared", "digits_salun_joint", "digits_salun_dual", "digits_sa",
        "digits_null_matching", "digits_gradient_ascent", "digits_finetune", "digits_retrain",
    ),
    "dit": (
        "digits_dit_sfron_dual", "digits_dit_sfron_shared", "digits_dit_salun_joint", "digits_dit_salun_dual",
        "digits_dit_null_matching",
    ),
}  # fmt: skip
NAMES = {"ddpm": "digits_recipes", "dit": "digits_dit_recipes"}  # of the files of results
DECISIONS = {"left": "something is left", "gone": "gone", "cannot tell": "cannot tell"}


def make(
    recipe: str, class_name: str, runs: Path, overrides: Sequence[str], audit: Sequence[str] | None, here: bool
) -> Any:
    """Results and audit of one recipe's run; retrained models are controls themselves and are not audited.

    Args:
        audit: words of the audit's command; None does not audit.
    """
    folder = runs / recipe
    work = []
    if not (folder / "results.json").is_file():
        work.append(("forget", recipe, *overrides, "--class", class_name, "--out", str(folder), "--resume"))
    if audit is not None and recipe != "digits_retrain":
        work.append(("audit", str(folder), *audit))
    for words in work:
        if code := dualoptim(*words, here=here):
            sys.exit(f"dualoptim {' '.join(words)} ended with {code}.")
    results, audited = read_json(folder / "results.json"), folder / "audit.json"
    return {
        "results": {key: results[key] for key in ("original", "unlearned", "changes", "protocol_hash", "seconds")},
        "base_model_sha256": read_json(folder / "provenance.json")["base_model_sha256"],
        "headline": read_json(audited)["headline"] if audited.is_file() else None,
        "budget": read_json(audited)["budget"] if audited.is_file() else None,
    }


def reached(results: dict[str, Any]) -> str:
    """The figures in one line, as the recipe's head gives them."""
    after, change = results["unlearned"], results["changes"]["kid"]
    low, high = (1000 * side for side in change["difference_ci95"])
    fa = after["FA"]
    return (
        f"FA {fa['value']:.1%} ({fa['hits']}/{fa['n']}), RA {after['RA']['value']:.1%}, KID x 1000 "
        f"{1000 * after['kid']['value']:.2f} (change {1000 * change['difference']:+.2f}, 95% {low:+.2f} to {high:+.2f})"
    )


def said(recipe: str, headline: dict[str, Any] | None) -> str:
    """The audit's decision with its surest excess."""
    if headline is None:
        return "control" if recipe == "digits_retrain" else "not audited"
    low, high = (100 * side for side in headline["interval"])
    return (
        f"{DECISIONS[headline['decision']]}: {100 * headline['difference']:+.0f} pp ({low:+.0f} to {high:+.0f}), "
        f"{headline['probe']}"
    )


def tabulate(found: dict[str, Any], class_name: str, command: str) -> str:
    body = [
        [recipe, reached(part["results"]), draws(part["results"], class_name), said(recipe, part["headline"])]
        for recipe, part in found.items()
    ]
    audited = any(part["headline"] for part in found.values())
    audits = " Audits: budget quick, two controls." if audited else ""
    first = next(iter(found.values()))["results"]
    before = first["original"]
    kid = before["kid"]
    low, high = (1000 * side for side in kid["ci95"])
    lines = [
        f"# What the recipes of the digits reach for “{class_name}”", "", f"`{command}`", "",
        *tables.table(["recipe", "reached, seed 0", "the label draws now", "audit, surest excess"], body), "",
        f"One run each. Original: FA {before['FA']['value']:.1%}, RA {before['RA']['value']:.1%}, {kid['name']} x 1000 "
        f"{1000 * kid['value']:.2f} ({low:.2f} to {high:.2f}), of {kid['n_generated']} generated against "
        f"{kid['n_reference']} held-out images. FA with a classifier that must name a class.{audits}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def draws(results: dict[str, Any], class_name: str) -> str:
    counts = results["unlearned"]["drawn"][class_name]
    most = sorted(counts.items(), key=lambda item: -item[1])[:3]
    return ", ".join(f"{name} {n / sum(counts.values()):.0%}" for name, n in most)


def main(words: Sequence[str] | None = None) -> None:
    options = parser(__file__, __doc__)
    options.add_argument("overrides", nargs="*", help="section.key=value for every run")
    options.add_argument("--class", dest="class_name", default="three", help="[default: %(default)s]")
    options.add_argument("--family", choices=list(RECIPES), default="ddpm", help="[default: %(default)s]")
    options.add_argument("--no-audit", action="store_true", help="only forget and score")
    options.add_argument("--runs", type=Path, default=Path("runs/recipes"), help="[default: %(default)s]")
    arguments = parse(options, words)
    recipes, runs, overrides, audit = RECIPES[arguments.family], arguments.runs, arguments.overrides, ["--retrain"]
    if arguments.toy:
        recipes, runs, audit = ("digits_sfron_dual", "digits_salun_dual"), arguments.out / "runs", [*toy.AUDIT, *audit]
        overrides = [*toy.overrides(arguments.out / "recipes"), *toy.MASK]
    found: dict[str, Any] = {}
    command = command_line(__file__, words)
    for recipe in recipes:
        words_of_audit = None if arguments.no_audit else audit
        found[recipe] = make(recipe, arguments.class_name, runs, overrides, words_of_audit, arguments.toy)
        print(recipe, reached(found[recipe]["results"]), said(recipe, found[recipe]["headline"]), flush=True)
        text = tabulate(found, arguments.class_name, command)
        tables.write(arguments.out / NAMES[arguments.family], {"command": command, "recipes": found}, text)


if __name__ == "__main__":
    main()
