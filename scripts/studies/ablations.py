"""What does each choice in DualOptim do? Changes one at a time: the optimizers, which moments are separate, momentum,
the numbers of steps, the mask, and what saves memory or time. Every row is SFRon on the digits at the setting of
stability.py and the rate 3.2e-4, over three seeds and two classes. Finished runs are kept in ablations.json, so the
command can be stopped and run again. The table is written to ablations.md beside it.

    python scripts/studies/ablations.py --jobs 2
    python scripts/studies/ablations.py --seeds 1 --jobs 0    # the table of the finished runs
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
import toy
from command import parse, parser
from studies.runner import AIM_FA, AIM_KID, Cell, origin, run_study, summarise, summary_row
from studies.stability import RECIPE, SETTING
from tables import table

CLASSES = ("three", "eight")
RATE = "3.2e-4"
# One rate an optimizer, such that a clipped step moves the weights about as far as Adam's does.
RATES = {"adam": RATE, "sgd": "2e-2", "lion": "1e-4", "muon": "2e-3"}
DUAL = f"optimizers.mode=dual method.forget_lr={RATE} method.retain_lr={RATE}"
SHARED = f"optimizers.mode=shared method.forget_lr={RATE} method.retain_lr={RATE}"


def pair(forget: str, retain: str) -> str:
    return (
        f"optimizers.mode=dual optimizers.forget={forget} optimizers.retain={retain} "
        f"method.forget_lr={RATES[forget]} method.retain_lr={RATES[retain]}"
    )


PAIRS = (
    *("adam / sgd", "sgd / adam", "sgd / sgd", "lion / adam", "adam / lion", "lion / lion"),
    *("muon / adam", "adam / muon"),
)
STEPS = ("1 : 2", "1 : 4", "2 : 1")
TABLES: dict[str, dict[str, str]] = {
    "Optimizers of the forget / retain phase": {"adam / adam": DUAL}
    | {name: pair(*name.split(" / ")) for name in PAIRS},
    "Which moments each phase has to itself": {
        "none (shared)": SHARED,
        "first (dual_m)": DUAL.replace("dual", "dual_m", 1),
        "second (dual_v)": DUAL.replace("dual", "dual_v", 1),
        "both (dual)": DUAL,
        "what it adds to common ones (dual_plus)": DUAL.replace("dual", "dual_plus", 1),
    },
    "Momentum of the shared Adam": {"beta1 0.9": SHARED}
    | {f"beta1 {beta}": f"{SHARED} optimizers.retain_momentum={beta}" for beta in ("0", "0.95", "0.99")},
    "Forget steps : retain steps (dual)": {"1 : 1": DUAL}
    | {name: f"{DUAL} method.forget_steps={name[0]} method.retain_steps={name[-1]}" for name in STEPS},
    "Mask threshold gamma (dual)": {"gamma 3": DUAL}
    | {f"gamma {gamma}": f"{DUAL} method.mask.threshold={gamma}" for gamma in ("1", "10")},
    "Estimator of the Fisher information (dual)": {"plain": DUAL}
    | {name: f"{DUAL} method.mask.estimator={name}" for name in ("published", "class_pure")},
    "What saves memory or time (dual)": {
        "full states, fp32": DUAL,
        "forget state of 8 bits": f"{DUAL} optimizers.forget_state=8bit",
        "both states of 8 bits": f"{DUAL} optimizers.forget_state=8bit optimizers.retain_state=8bit",
        "fused steps": f"{DUAL} optimizers.fused=true",
        "bf16 passes": f"{DUAL} run.precision=bf16",
    },
}


def rows() -> Iterator[tuple[str, str, str]]:
    """Title of the table, name of the row, overrides."""
    yield from ((title, name, words) for title, parts in TABLES.items() for name, words in parts.items())


def cells(num_seeds: int) -> dict[tuple[str, str], list[Cell]]:
    """The runs of each row."""
    return {
        (title, name): [
            Cell(name, RECIPE, class_name, seed, (*SETTING, *words.split()))
            for seed in range(num_seeds)
            for class_name in CLASSES
        ]
        for title, name, words in rows()
    }


def toy_cells(folder: Path) -> dict[tuple[str, str], list[Cell]]:
    """One tiny run for the first row of the second table."""
    tiny = (*toy.overrides(folder), *toy.MASK)
    chosen = [row for row in rows() if row[0].startswith("Which moments")][:1]
    return {
        (title, name): [Cell(name, RECIPE, CLASSES[0], 0, (*SETTING, *words.split(), *tiny))]
        for title, name, words in chosen
    }


def tabulate(results: dict[Cell, dict[str, Any]], planned: dict[tuple[str, str], list[Cell]], about: str) -> str:
    """One table for each thing that is changed."""
    lines = ["# Ablations", "", *about.splitlines()]
    for title, parts in TABLES.items():
        found = {name: [results[cell] for cell in planned.get((title, name), ()) if cell in results] for name in parts}
        summaries = {name: summarise(part) for name, part in found.items() if part}
        if summaries:
            body = [[name, *summary_row(summary), summary["stopped"]] for name, summary in summaries.items()]
            lines += ["", f"## {title}", "", *table(["", "FA", "RA", "KID / original's", "aim met", "stopped"], body)]
    return "\n".join([*lines, "", origin(list(results.values()))]) + "\n"


def main(words: Sequence[str] | None = None) -> None:
    options = parser(__file__, __doc__)
    options.add_argument("--seeds", type=int, default=3, help="runs of each row and class [default: 3]")
    options.add_argument("--jobs", type=int, default=2, help="runs side by side, one thread each; 0: run nothing")
    arguments = parse(options, words)
    out, seeds = arguments.out, arguments.seeds
    command = "python scripts/studies/ablations.py" + ("" if seeds == 3 else f" --seeds {seeds}")
    planned = toy_cells(out / "recipes") if arguments.toy else cells(seeds)
    longest = max(map(len, planned.values()))
    by_seed = [part[i] for i in range(longest) for part in planned.values()]
    about = {"command": command, "setting": SETTING, "tables": TABLES}
    results = run_study(by_seed, out / "ablations.json", about, 1 if arguments.toy else arguments.jobs)
    by_cell = {Cell.of(result): result for result in results}
    head = (
        f"`{command}`\n\n"
        f"SFRon on the digits, classes {' and '.join(CLASSES)}, {seeds} seeds, mean ± standard deviation; "
        f"aim: FA at most {AIM_FA:.0%} and KID at most {AIM_KID} times the original's. A stopped run met a loss or "
        "a gradient that was not finite."
    )
    text = tabulate(by_cell, planned, head)
    (out / "ablations.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
