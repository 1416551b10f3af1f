"""Which methods remove a class, and which only hide it? Forgets digits by seven methods, attacks every result, ranks.

    python scripts/audit_study.py --jobs 2

Each result is audited with `--budget study` beside the original and a model retrained without the class under the same
seed; for `retrain` itself the control is the one of the next seed, which shows what chance alone gives. Finished runs
and audits are not made again. Results: benchmarks/results/audit_study.json, .md and .png.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from cells import row
from reproduce_table2 import METHODS, Cell, Table
from tqdm import tqdm

NAMES = METHODS | {"sfron_deep": "SFRon + DualOptim, deep"}
STUDIED = (
    "sfron_shared",
    "sfron_dual",
    "sfron_deep",
    "salun_dual",
    "null_matching",
    "gradient_ascent",
    "finetune",
    "retrain",
)
SETTINGS = ("sampling.seeds=0-199", "sampling.batch_size=200", "run.device=cpu", "evaluation.protocol=seeds")
ATTACKS = {  # title: probe, trial
    "relearn, 10 images": ("relearn", "10 images of the class"),
    "relearn, retained data": ("relearn", "retained data"),
    "any embedding": ("embedding_attack", "any embedding, 10 images"),
    "mixture of labels": ("embedding_attack", "mixture of labels, 10 images"),
    "noisy start, label": ("noisy_start", "forgotten label"),
    "noisy start, null": ("noisy_start", "null label"),
}


def audited(table: Table, cell: Cell, seeds: Sequence[int]) -> dict[str, Any]:
    """What the study keeps of one run's audit; the run and its control are there."""
    folder = table.folder(cell)
    following = seeds[(seeds.index(cell.seed) + 1) % len(seeds)]
    control = table.folder(Cell("retrain", cell.class_name, following if cell.method == "retrain" else cell.seed))
    words = [str(folder), f"audit.seed={cell.seed}", "--budget", "study", "--control", str(control)]
    command = [sys.executable, "-m", "dualoptim_diffusion", "audit", *words]
    environment = os.environ | ({} if table.threads is None else {"OMP_NUM_THREADS": str(table.threads)})
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the audit of {folder} ended with {done.returncode}: {done.stderr[-500:]}")
    audit = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    trials = {title: audit["probes"][probe]["trials"][trial] for title, (probe, trial) in ATTACKS.items()}
    return {
        "method": cell.method,
        "class": cell.class_name,
        "seed": cell.seed,
        "FA": results["unlearned"]["FA"]["value"],
        "RA": results["unlearned"]["RA"]["value"],
        "FD ratio": results["unlearned"]["frechet"]["value"] / results["original"]["frechet"]["value"],
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


def spread(values: Sequence[float], scale: float = 100, digits: int = 1) -> str:
    scaled = [scale * v for v in values]
    return f"{mean(scaled):.{digits}f}" + (f" ± {stdev(scaled):.{digits}f}" if len(scaled) > 1 else "")


def steps(runs: Sequence[dict[str, Any]], role: str) -> str:
    """Median steps of relearning on ten images until half, `never` beyond the budget."""
    values = sorted(s for r in runs if (s := r["steps_to_half"]["relearn, 10 images"][role]) is not None)
    place = (len(runs) - 1) // 2
    return str(values[place]) if place < len(values) else "never"


def tabulate(found: Sequence[dict[str, Any]], command: str) -> str:
    head = ["method", "FA %", "RA %", "FD ratio", "largest excess, pp", "sure", *(f"{t}, pp" for t in ATTACKS)]
    head += ["steps to half: unlearned (control)"]
    lines = [
        "# Hidden or gone: methods under attack", "", f"`{command}`", "",
        f"{len(found)} runs on the digits, mean ± standard deviation over classes and seeds. Excess: the class is "
        "drawn more often than from a model retrained without it, under the same attack at its worst point; sure: "
        "runs whose largest excess is above 0 with a simultaneous 95% interval. The row of retrain is one retrained "
        "model against another: what chance alone gives. Steps: relearning on ten images, median.", "",
        row(head), row(["---"] * len(head)),
    ]  # fmt: skip
    for method, runs in ranking(found):
        lines.append(
            row(
                [
                    NAMES.get(method, method),
                    spread([r["FA"] for r in runs]),
                    spread([r["RA"] for r in runs]),
                    spread([r["FD ratio"] for r in runs], 1, 2),
                    spread([r["headline"]["difference"] for r in runs]),
                    f"{sum(r['headline']['interval'][0] > 0 for r in runs)} of {len(runs)}",
                    *(spread([r["excess"][title] for r in runs]) for title in ATTACKS),
                    f"{steps(runs, 'unlearned')} ({steps(runs, 'control')})",
                ]
            )
        )
    return "\n".join([*lines, "", *relearned(found)]) + "\n"


def relearned(found: Sequence[dict[str, Any]]) -> list[str]:
    """How often the class is drawn along the steps of relearning on ten images: means of all runs."""
    curves = {name: [r["curves"]["relearn, 10 images"]["unlearned"] for r in runs] for name, runs in ranking(found)}
    at = next(iter(curves.values()))[0]["at"]
    lines = ["The class drawn after so many steps of relearning on ten images, %, mean over runs:", ""]
    lines += [row(["method", *map(str, at)]), row(["---"] * (1 + len(at)))]
    for name, part in curves.items():
        values = [mean(100 * curve["hits"][i] / curve["n"][i] for curve in part) for i in range(len(at))]
        lines.append(row([NAMES.get(name, name), *(f"{value:.0f}" for value in values)]))
    return lines


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
        axes.set_yticks(range(len(groups)), [NAMES.get(name, name) for name, _ in groups])
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def write(stem: Path, content: dict[str, Any]) -> None:
    """Table and figure beside the JSON."""
    stem.with_suffix(".md").write_text(text := tabulate(content["runs"], content["command"]), encoding="utf-8")
    draw(content["runs"], stem.with_suffix(".png"))
    print(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="section.key=value for every run")
    parser.add_argument("--methods", nargs="+", default=list(STUDIED), metavar="METHOD", help="recipes digits_METHOD")
    parser.add_argument("--classes", nargs="+", default=["three", "five", "eight"], metavar="CLASS")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="SEED")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, one thread each")
    parser.add_argument("--runs", type=Path, default=Path("runs/audit_study"))
    parser.add_argument("--stem", default="audit_study", help="name of the result files")
    parser.add_argument("--table", action="store_true", help="only write table and figure of the JSON there is")
    parser.add_argument("--out", type=Path, default=Path("scripts/benchmarks/results"))
    arguments = parser.parse_args()
    stem = arguments.out / arguments.stem
    if arguments.table:
        write(stem, json.loads(stem.with_suffix(".json").read_text(encoding="utf-8")))
        return
    if len(arguments.seeds) < 2:
        parser.error("the study needs two seeds or more: one retrained model is the control of another")
    table = Table("digits", arguments.runs, arguments.out, [*SETTINGS, *arguments.overrides], 1)
    command = shlex.join(["python", *sys.argv])
    cells = [Cell(m, c, s) for s in arguments.seeds for c in arguments.classes for m in arguments.methods]
    controls = [Cell("retrain", c, s) for s in arguments.seeds for c in arguments.classes]

    def make(cell: Cell) -> None:
        if not table.finished(cell) and (problem := table.run(cell)[1]):
            raise RuntimeError(problem)

    def attack(cell: Cell) -> dict[str, Any]:
        make(cell)
        return audited(table, cell, arguments.seeds)

    with ThreadPoolExecutor(arguments.jobs) as pool:  # every audit needs a control
        list(tqdm(pool.map(make, controls), total=len(controls), desc="retraining", unit="run"))
        found = list(tqdm(pool.map(attack, cells), total=len(cells), desc="forgetting and auditing", unit="run"))
    arguments.out.mkdir(parents=True, exist_ok=True)
    content = {"command": command, "settings": [*SETTINGS, *arguments.overrides], "runs": found}
    stem.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    write(stem, content)


if __name__ == "__main__":
    main()
