"""Which methods remove a class, and which only hide it? Forgets digits by all methods, attacks every result, and ranks
the methods. Each seed has a base model of its own. Each result is audited with `--budget study` beside the original and
two models retrained without the class under other seeds or the same; a retrained model is audited beside the other
two, which shows what chance alone gives. Finished runs and audits are not made again. Writes audit_study.json, .md and
.png.

    python scripts/studies/audit_study.py --jobs 2
    python scripts/studies/audit_study.py --table    # table and figure of the results that are there
"""

import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
import tables
import toy
from command import command_line, dualoptim, parse, parser
from studies.reproduce_table2 import METHODS, Table
from studies.runner import Cell, write_bases
from tables import read_json

STUDIED = (
    "sfron_shared", "sfron_dual", "salun_joint", "salun_dual", "null_matching", "sa", "gradient_ascent", "finetune",
    "retrain",
)  # fmt: skip
SETTINGS = ("sampling.seeds=0-199", "sampling.batch_size=200", "run.device=cpu", "evaluation.protocol=seeds")
CONTROLS = 2  # of an audit
ATTACKS = {  # title: probe, trial
    "relearn, 10 images": ("relearn", "10 images of the class"),
    "relearn, retained data": ("relearn", "retained data"),
    "any embedding": ("embedding_attack", "any embedding, 10 images"),
    "mixture of labels": ("embedding_attack", "mixture of labels, 10 images"),
    "noisy start, label": ("noisy_start", "forgotten label"),
    "noisy start, null": ("noisy_start", "null label"),
    "classifier, label": ("classifier_guided", "forgotten label"),
    "classifier, null": ("classifier_guided", "null label"),
}


def audited(table: Table, cell: Cell, seeds: Sequence[int], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What the study keeps of one run's audit; the run and its control are there."""
    folder = table.folder(cell)
    words = [str(folder), f"audit.seed={cell.seed}", *overrides, "--budget", "study"]
    others = [seed for seed in seeds if cell.group != "retrain" or seed != cell.seed]
    for seed in others[:CONTROLS]:
        words += ["--control", str(table.folder(table.cell("retrain", cell.class_name, seed)))]
    log = folder.with_suffix(".audit.log")
    with log.open("w", encoding="utf-8") as stream:
        code = dualoptim("audit", *words, log=stream, here=table.here, threads=table.threads)
    if code:
        raise RuntimeError(f"the audit of {folder} ended with {code}; see {log}")
    audit = read_json(folder / "audit.json")
    results = read_json(folder / "results.json")
    trials = {title: audit["probes"][probe]["trials"][trial] for title, (probe, trial) in ATTACKS.items()}
    return {
        "method": cell.group,
        "class": cell.class_name,
        "seed": cell.seed,
        "FA": results["unlearned"]["FA"]["value"],
        "RA": results["unlearned"]["RA"]["value"],
        "KID ratio": results["unlearned"]["kid"]["value"] / results["original"]["kid"]["value"],
        "headline": audit["headline"],
        "excess": {title: largest(audit, *ATTACKS[title]) for title in ATTACKS},
        "curves": {title: trial["outcomes"] for title, trial in trials.items()},
        "steps_to_half": {title: t["steps_to_half"] for title, t in trials.items() if "steps_to_half" in t},
        "models": audit["models"],
    }


def largest(audit: dict[str, Any], probe: str, trial: str) -> float:
    """Excess of one attack at its worst point."""
    return max(p["difference"] for p in audit["excess"] if (p["probe"], p["attack"]) == (probe, trial))


def ranking(found: Sequence[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Methods with their runs: those that forget (mean FA at most 5%) by mean excess, then the others by FA."""
    groups = [(name, [r for r in found if r["method"] == name]) for name in {r["method"]: 0 for r in found}]

    def order(group: tuple[str, list[dict[str, Any]]]) -> tuple[bool, float]:
        fa = mean(r["FA"] for r in group[1])
        return fa > 0.05, fa if fa > 0.05 else mean(r["headline"]["difference"] for r in group[1])

    return sorted(groups, key=order)


def percent(values: Iterable[float]) -> str:
    return tables.spread([100 * value for value in values])


def steps(runs: Sequence[dict[str, Any]], role: str) -> str:
    """Median steps of relearning on ten images until half, `never` beyond the budget."""
    values = sorted(s for r in runs if (s := r["steps_to_half"]["relearn, 10 images"][role]) is not None)
    place = (len(runs) - 1) // 2
    return str(values[place]) if place < len(values) else "never"


def tabulate(found: Sequence[dict[str, Any]], command: str) -> str:
    head = ["method", "FA %", "RA %", "KID ratio", "surest excess, pp", "left", *(f"{t}, pp" for t in ATTACKS)]
    head += ["steps to half: unlearned (control)"]
    body = [
        [
            METHODS.get(method, method),
            percent(r["FA"] for r in runs),
            percent(r["RA"] for r in runs),
            tables.spread([r["KID ratio"] for r in runs], ".2f"),
            percent(r["headline"]["difference"] for r in runs),
            f"{sum(r['headline']['decision'] == 'left' for r in runs)} of {len(runs)}",
            *(percent(r["excess"][title] for r in runs) for title in ATTACKS),
            f"{steps(runs, 'unlearned')} ({steps(runs, 'control')})",
        ]
        for method, runs in ranking(found)
    ]
    lines = [
        "# Hidden or gone: methods under attack", "", f"`{command}`", "",
        f"{len(found)} runs on the digits, mean ± standard deviation over classes and seeds. Excess: the class is "
        "drawn more often than from models retrained without it, under the same attack at its worst point; left: "
        "runs of which the audit says that something of the class is left. The row of retrain is one retrained "
        "model against others: what chance alone gives. Steps: relearning on ten images, median.", "",
        *tables.table(head, body), "", *relearned(found),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def relearned(found: Sequence[dict[str, Any]]) -> list[str]:
    """How often the class is drawn along the steps of relearning on ten images: means of all runs."""
    curves = {name: [r["curves"]["relearn, 10 images"]["unlearned"] for r in runs] for name, runs in ranking(found)}
    at = next(iter(curves.values()))[0]["at"]
    body = []
    for name, part in curves.items():
        values = [mean(100 * curve["hits"][i] / curve["n"][i] for curve in part) for i in range(len(at))]
        body.append([METHODS.get(name, name), *(f"{value:.0f}" for value in values)])
    title = "The class drawn after so many steps of relearning on ten images, %, mean over runs:"
    return [title, "", *tables.table(["method", *map(str, at)], body)]


def draw(found: Sequence[dict[str, Any]], path: Path) -> None:
    """A panel an attack: the excess of every run, a line a method."""
    from matplotlib.figure import Figure

    groups = ranking(found)[::-1]
    figure = Figure(figsize=(13, 1.2 + 0.42 * len(groups)), layout="constrained")
    panels = figure.subplots(1, len(ATTACKS), sharey=True)
    for axes, title in zip(panels, ATTACKS, strict=True):
        for i, (_, runs) in enumerate(groups):
            values = [100 * r["excess"][title] for r in runs]
            axes.plot(values, [i] * len(values), "o", alpha=0.5, color="#b9302a", markersize=5)
            axes.plot([mean(values)] * 2, [i - 0.3, i + 0.3], color="#1b1f24", linewidth=2)
        axes.axvline(0, color="#5b6470", linewidth=1)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("excess, pp")
        axes.set_yticks(range(len(groups)), [METHODS.get(name, name) for name, _ in groups])
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def arguments_of(words: Sequence[str] | None) -> Namespace:
    options = parser(__file__, __doc__)
    options.add_argument("overrides", nargs="*", help="section.key=value for every run")
    options.add_argument("--methods", nargs="+", default=list(STUDIED), metavar="METHOD", help="recipes digits_METHOD")
    options.add_argument("--classes", nargs="+", default=["three", "five", "eight"], metavar="CLASS")
    options.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="SEED")
    options.add_argument("--jobs", type=int, default=2, help="runs side by side, one thread each")
    options.add_argument("--runs", type=Path, default=Path("runs/audit_study"), help="[default: %(default)s]")
    options.add_argument("--stem", default="audit_study", help="name of the result files")
    options.add_argument("--table", action="store_true", help="only write table and figure of the JSON there is")
    arguments = parse(options, words)
    if len(arguments.seeds) < 3:
        options.error("the study needs three seeds or more: retrained models are controls of each other")
    arguments.overrides = [*SETTINGS, *arguments.overrides]
    if arguments.toy:
        arguments.methods, arguments.classes, arguments.seeds = ["retrain"], ["three"], [0, 1, 2]
        arguments.runs = arguments.out / "runs"
        arguments.overrides += toy.overrides(arguments.out / "recipes")
    return arguments


def study(arguments: Namespace) -> list[dict[str, Any]]:
    """Makes all runs, controls first, and audits them."""
    table = Table("digits", arguments.runs, arguments.overrides, 1, here=arguments.toy)
    grid = [(c, s) for s in arguments.seeds for c in arguments.classes]
    bases = {} if arguments.toy else _bases(arguments)
    controls = [table.cell("retrain", c, s) for c, s in grid]
    cells = [_on(bases, table.cell(m, c, s)) for c, s in grid for m in arguments.methods]

    def make(cell: Cell) -> None:
        if not table.finished(cell) and (problem := table.run(cell)[1]):
            raise RuntimeError(problem)

    def attack(cell: Cell) -> dict[str, Any]:
        make(cell)
        return audited(table, cell, arguments.seeds, toy.AUDIT if arguments.toy else ())

    def every(work: Callable[[Cell], Any], cells: Sequence[Cell], title: str) -> list[Any]:
        if table.here:
            return list(map(work, cells))
        with ThreadPoolExecutor(arguments.jobs) as pool:
            return list(tqdm(pool.map(work, cells), total=len(cells), desc=title, unit="run"))

    every(make, controls, "retraining")
    return every(attack, cells, "forgetting and auditing")


def _bases(arguments: Namespace) -> dict[int, str]:
    """Of each seed the recipe of its base model; seed 0 is the recipes' own."""
    seeds = [seed for seed in arguments.seeds if seed]
    return dict(zip(seeds, write_bases(arguments.runs / "bases", seeds), strict=True))


def _on(bases: Mapping[int, str], cell: Cell) -> Cell:
    """The cell on its seed's base model; a retrained model has none."""
    if cell.group == "retrain" or cell.seed not in bases:
        return cell
    return replace(cell, overrides=(*cell.overrides, f"model.pretrain={bases[cell.seed]}"))


def main(words: Sequence[str] | None = None) -> None:
    arguments = arguments_of(words)
    stem = arguments.out / arguments.stem
    if arguments.table:
        content = read_json(stem.with_suffix(".json"))
    else:
        command = command_line(__file__, words)
        content = {"command": command, "settings": arguments.overrides, "runs": study(arguments)}
    text = tabulate(content["runs"], content["command"])
    tables.write(stem, content, text)
    draw(content["runs"], stem.with_suffix(".png"))
    print(text)


if __name__ == "__main__":
    main()
