"""What happens when requests come one after another? Forgets nine of the ten digits in turn with each of several
recipes, each request on the model that the one before it left, and counts after every request how often each label that
was forgotten so far still draws its own class, and how often the labels that are left draw theirs. 100 images a label.
After the third request the model is audited for all three digits, beside two models retrained without them. Finished
requests and audits are kept, so the command can be stopped and run again. Writes sequences.json, .md and .png, in which
recipes that are not named stay as they are.

    python scripts/studies/sequences.py
    python scripts/studies/sequences.py digits_sfron_dual
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
import tables
import toy
from command import command_line, dualoptim, parse, parser

RECIPES = (
    "digits_sfron_dual", "digits_sfron_shared", "digits_salun_dual", "digits_salun_joint", "digits_null_matching",
)  # fmt: skip
DIGITS = ("three", "eight", "zero", "five", "one", "seven", "nine", "two", "six")  # four is left
SETTING = ("evaluation.protocol=seeds", "sampling.seeds=0-99", "sampling.batch_size=100")
Found = dict[str, Any]


def run(recipe: str, digits: Sequence[str], overrides: Sequence[str], out: Path, here: bool) -> Found:
    """All requests of a recipe, or what is left of them; the content of sequence.json."""
    requests = [word for digit in digits[1:] for word in ("--then", digit)]
    words = ("forget", recipe, *overrides, "--class", digits[0], *requests, "--out", str(out), "--resume")
    if code := dualoptim(*words, here=here):
        sys.exit(f"dualoptim {' '.join(words)} ended with {code}.")
    found: Found = tables.read_json(out / "sequence.json")
    return found


def attack(found: Found, requests: Sequence[int], settings: Sequence[str], out: Path, here: bool) -> None:
    """Audits the models after the requests of these numbers, and adds what was decided."""
    for number in requests:
        request = found["requests"][number - 1]
        folder = out / request["run"]
        words = ("audit", str(folder), *settings, "--retrain")
        if code := dualoptim(*words, here=here):
            sys.exit(f"dualoptim {' '.join(words)} ended with {code}.")
        audit = tables.read_json(folder / "audit.json")
        request["audit"] = {key: audit[key] for key in ("plain", "headline", "budget")}


def row(recipe: str, number: int, request: Found) -> list[object]:
    """Of one request."""
    from dualoptim_diffusion.report.sequence import decided

    rates = [part["value"] for part in request["own"].values()]
    kid = "" if request["kid"] is None else f"{1000 * request['kid']['value']:.2f}"
    return [
        recipe, f"{number}: {', '.join(request['forgotten'])}", f"{mean(rates):.1%}", f"{max(rates):.1%}",
        f"{request['RA']['value']:.1%}", kid, ", ".join(request["revived"]) or "–",
        decided(request) if "audit" in request else "",
    ]  # fmt: skip


def tabulate(found: dict[str, Found]) -> str:
    body = [row(name, i, part) for name, of in found.items() for i, part in enumerate(of["requests"], start=1)]
    head = ["recipe", "request", "drawn, mean so far", "drawn, most", "RA of the others", "KID x 1000", "revived"]
    lines = [
        "# One request after another", "", ", ".join(f"`{c}`" for c in {of["command"]: 0 for of in found.values()}), "",
        "Digits, one sequence each; four is left. Drawn: how often a label that was forgotten so far draws its own "
        "digit, by a classifier that must name one. Revived: surely more often than after the digit's own request. "
        "Audit: surest excess over two models retrained without all digits so far, budget quick.", "",
        *tables.table([*head, "audit"], body),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def draw(found: dict[str, Found], path: Path) -> None:
    """How often forgotten digits are drawn, mean and most, and RA, over the requests; a line a recipe."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    for name, of in found.items():
        rates = [[part["value"] for part in request["own"].values()] for request in of["requests"]]
        lines = [map(mean, rates), map(max, rates), (request["RA"]["value"] for request in of["requests"])]
        for axis, line, title in zip(
            axes, lines, ("forgotten digits drawn, mean", "most", "RA of the others"), strict=True
        ):
            values = [100 * value for value in line]
            axis.plot(range(1, len(values) + 1), values, "o-", markersize=3, label=name)
            axis.set(title=title, xlabel="requests")
            axis.grid(alpha=0.25)
    axes[0].set_ylabel("%")
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main(words: Sequence[str] | None = None) -> None:
    options = parser(__file__, __doc__)
    options.add_argument("recipes", nargs="*", default=list(RECIPES), help=f"[default: {' '.join(RECIPES)}]")
    options.add_argument("--runs", type=Path, default=Path("runs/sequences"), help="[default: %(default)s]")
    options.add_argument("--audit", type=int, nargs="*", default=[3], metavar="N", help="requests [default: 3]")
    arguments = parse(options, words)
    if not all(1 <= number <= len(DIGITS) for number in arguments.audit):
        options.error(f"--audit: {arguments.audit}, expected numbers of requests from 1 to {len(DIGITS)}")
    recipes, digits, overrides, settings = arguments.recipes, DIGITS, SETTING, ()
    if arguments.toy:
        recipes, digits, arguments.runs = [str(toy.write_recipes(arguments.out / "recipes"))], DIGITS[:2], arguments.out
        overrides, settings, arguments.audit = (), toy.AUDIT, [2]
    path = arguments.out / "sequences.json"
    found = tables.read_json(path)["recipes"] if path.is_file() else {}
    for recipe in recipes:
        name = Path(recipe).stem
        found[name] = run(recipe, digits, overrides, arguments.runs / name, arguments.toy)
        found[name]["command"] = command_line(__file__, words)
        attack(found[name], arguments.audit, settings, arguments.runs / name, arguments.toy)
        tables.write(path.with_suffix(""), {"recipes": found}, tabulate(found))
        draw(found, path.with_suffix(".png"))
    print(tabulate(found))


if __name__ == "__main__":
    main()
