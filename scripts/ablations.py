"""What each choice in DualOptim does, one at a time: optimizers, decoupled moments, momentum, steps, mask, savings.

    python scripts/ablations.py --jobs 2

SFRon on the digits at the setting of scripts/stability.py and the rate 3.2e-4, three seeds and two classes a row.
Finished runs are kept in ablations.json; the table goes to ablations.md beside it.
"""

import argparse
from pathlib import Path

from cells import AIM_FA, AIM_FD, Cell, origin, row, run_study, summarise, summary_row
from stability import RECIPE, SETTING

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, one thread each")
    parser.add_argument("--out", type=Path, default=Path("scripts/benchmarks/results"))
    arguments = parser.parse_args()
    command = "python scripts/ablations.py" + ("" if arguments.seeds == 3 else f" --seeds {arguments.seeds}")
    rows = [(title, name, words) for title, table in TABLES.items() for name, words in table.items()]
    cells = {
        (title, name): [
            Cell(name, RECIPE, class_name, seed, (*SETTING, *words.split()))
            for seed in range(arguments.seeds)
            for class_name in CLASSES
        ]
        for title, name, words in rows
    }
    by_seed = [part[i] for i in range(arguments.seeds * len(CLASSES)) for part in cells.values()]
    about = {"command": command, "setting": SETTING, "tables": TABLES}
    results = run_study(by_seed, arguments.out / "ablations.json", about, arguments.jobs)
    found = dict(zip(by_seed, results, strict=True))
    lines = [
        "# Ablations", "", f"`{command}`", "",
        f"SFRon on the digits, classes {' and '.join(CLASSES)}, {arguments.seeds} seeds, mean ± standard deviation; "
        f"aim: FA at most {AIM_FA:.0%} and FD at most {AIM_FD} times the original's. A stopped run met a loss or "
        "a gradient that was not finite.",
    ]  # fmt: skip
    for title, table in TABLES.items():
        lines += ["", f"## {title}", "", row(["", "FA", "RA", "FD / original's", "aim met", "stopped"])]
        lines.append(row(["---"] * 6))
        for name in table:
            summary = summarise(found[cell] for cell in cells[title, name])
            lines.append(row([name, *summary_row(summary), str(summary["stopped"])]))
    text = "\n".join([*lines, "", origin(results)]) + "\n"
    (arguments.out / "ablations.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
