"""Does decoupling the moments make forgetting stable? One shared Adam against two, over rates, seeds and classes.

    python scripts/stability.py --jobs 2

Every run forgets one class of the digits with SFRon (K = 150, one retain step a forget step, both phases at the same
constant rate, gamma 3) and differs in the optimizers alone; further groups of runs change one more thing each. FA of 200
images, RA and FD of 450, 25 DDIM steps, equal seeds everywhere. Finished runs are kept in stability.json, so the command can
be stopped and given again; at the end it writes stability.png and stability.md beside it.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from cells import Cell, run_study

RECIPE = "digits_sfron_dual"
CLASSES = ("three", "five", "eight")
RATES = ("1e-4", "1.8e-4", "3.2e-4", "5.6e-4", "1e-3")
SETTING = (
    "data.batch_size=64",
    "method.num_steps=150",
    "method.num_steps_per=run",
    "method.retain_steps=1",
    "method.forget_schedule=constant",
    "method.retain_schedule=constant",
)
COSINE = ("method.forget_schedule=cosine", "method.retain_schedule=cosine")

GROUPS: dict[str, tuple[str, ...]] = {
    "shared, alpha 1": ("optimizers.mode=shared", "method.forget_weight=1"),
    "shared, alpha 10": ("optimizers.mode=shared", "method.forget_weight=10"),
    "dual": ("optimizers.mode=dual",),
    "dual_plus": ("optimizers.mode=dual_plus",),
}
FIRST_CLASS_ONLY = ("dual_plus",)


def cells(num_seeds: int) -> list[Cell]:
    """Seeds outermost: stopped early, every group has been run equally often."""
    return [
        Cell(group, RECIPE, name, seed, (*SETTING, *words, f"method.forget_lr={rate}", f"method.retain_lr={rate}"))
        for seed in range(num_seeds)
        for name in CLASSES
        for rate in RATES
        for group, words in GROUPS.items()
        if group not in FIRST_CLASS_ONLY or name == CLASSES[0]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, one thread each")
    parser.add_argument("--out", type=Path, default=Path("scripts/benchmarks/results"))
    arguments = parser.parse_args()
    about = {"command": "python scripts/stability.py", "setting": SETTING, "groups": GROUPS, "rates": RATES}
    run_study(cells(arguments.seeds), arguments.out / "stability.json", about, arguments.jobs)


if __name__ == "__main__":
    main()
