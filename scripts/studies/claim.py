"""Shall one forget with two optimizers, and with which? Tests the paper's claim with SFRon on the digits. Every arm has
150 steps, one retain step a forget step, constant rates, no ceiling and raw weights; an arm is one Adam or two, a wide
or a narrow mask, and a weight of the forget loss. The rate of each arm is chosen on one base model and class: the
lowest that ends with FA of at most 5%. Every arm is then tested at every rate that was chosen, on three other base
models and five other classes, beside finetuning at the same rate and with the same seeds, which is what a distance is
compared with. Then one factor is changed at a time, and the optimizer of the forget phase at a rate chosen in the same
way. FA is forced and measured on 200 images, RA and KID on 450, drawn in 25 DDIM steps. Finished runs are kept in
claim.json, so the command can be stopped and run again; seeds are outermost, so a stopped study is balanced. It writes
claim.md and claim.png beside it.

    python scripts/studies/claim.py --jobs 2
    python scripts/studies/claim.py --jobs 0    # tables and figure of the finished runs
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
import toy
from command import command_line, parse, parser
from studies.claim_tables import FINETUNING, Found, draw, tabulate
from studies.runner import Cell, run_study, write_bases

RECIPE, FINETUNE = "digits_sfron_dual", "digits_finetune"
CHOSEN_ON = "three"
TESTED_ON = ("zero", "one", "five", "seven", "eight")
BASES = 3  # that arms are tested on; the recipe's own is the one that rates are chosen on
RATES = ("3e-5", "1e-4", "3e-4", "1e-3")
ENOUGH = 0.05  # FA of a chosen rate
CHOOSING_SEEDS, FACTOR_SEEDS = 2, 2
SETTING = (
    "data.batch_size=64", "method.num_steps=150", "method.num_steps_per=run", "method.retain_steps=1",
    "method.retain_schedule=constant",
)  # fmt: skip
FORGET = ("method.forget_schedule=constant", "method.forget_ceiling=null")
NARROW = ("method.mask.threshold=3", "method.forget_weight=1")
WIDE = ("method.mask.threshold=1", "method.forget_weight=10")
ARMS: dict[str, tuple[str, ...]] = {  # as the paper sets its own method, and as it sets SFRon
    "one Adam, γ 3, α 1": ("optimizers.mode=shared", *NARROW),
    "two Adams, γ 3, α 1": ("optimizers.mode=dual", *NARROW),
    "one Adam, γ 1, α 10": ("optimizers.mode=shared", *WIDE),
    "two Adams, γ 1, α 10": ("optimizers.mode=dual", *WIDE),
}
ONE, TWO = list(ARMS)[:2]
COSINE = ("method.forget_schedule=cosine", "method.retain_schedule=cosine")
FACTORS: dict[str, tuple[str, ...]] = {
    "cosine rates": COSINE,
    "ceiling 1": ("method.forget_ceiling=1",),
    "400 steps": ("method.num_steps=400",),
    "averaged weights": ("method.ema_decay=0.97",),
    "all four": (*COSINE, "method.forget_ceiling=1", "method.num_steps=400", "method.ema_decay=0.97"),
}
MOMENTS = {  # that the two phases have apart; in place of the mode of the arm with two Adams
    "first moments apart": ("optimizers.mode=dual_m",),
    "second moments apart": ("optimizers.mode=dual_v",),
    "DualOptim+": ("optimizers.mode=dual_plus",),
}
OPTIMIZERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # of the forget phase, and the rates it is tried at
    "Lion": (("optimizers.forget=lion",), ("1e-5", "3e-5", "1e-4", "3e-4")),
    "sign": (("optimizers.forget=lion", "optimizers.forget_momentum=0"), ("1e-5", "3e-5", "1e-4", "3e-4")),
    "SGD": (("optimizers.forget=sgd",), ("3e-3", "1e-2", "3e-2", "1e-1")),
}
Rates = Mapping[str, str]


class Plan:
    """Which runs there are.

    Args:
        bases: paths of the recipes of the base models that arms are tested on.
        tiny: overrides of the toy scale, which has one rate, class and seed of everything.
    """

    def __init__(self, bases: Sequence[str], seeds: int, tiny: Sequence[str] = ()) -> None:
        self.bases, self.seeds, self.tiny = bases, range(1 if tiny else seeds), tuple(tiny)
        self.rates = RATES[2:3] if tiny else RATES
        self.classes = TESTED_ON[:1] if tiny else TESTED_ON
        self.factor_seeds = range(1 if tiny else FACTOR_SEEDS)

    def cell(self, arm: str, rate: str, name: str, seed: int, words: Iterable[str] = (), base: str = "") -> Cell:
        """One run; without a base it starts from the recipe's own."""
        of_base = (f"model.pretrain={base}",) if base else ()
        if arm == FINETUNING:
            words = [word for word in words if not word.startswith(("method.forget", "optimizers."))]
            own = (*SETTING, f"method.retain_lr={rate}")
            return Cell(arm, FINETUNE, name, seed, (*own, *words, *self.tiny, *of_base))
        own = (*SETTING, *FORGET, *ARMS[arm], f"method.forget_lr={rate}", f"method.retain_lr={rate}")
        return Cell(arm, RECIPE, name, seed, (*own, *words, *self.tiny, *(toy.MASK if self.tiny else ()), *of_base))

    def choosing(self) -> dict[tuple[str, str], list[Cell]]:
        """By arm and rate."""
        seeds = range(1 if self.tiny else CHOOSING_SEEDS)
        return {
            (arm, rate): [self.cell(arm, rate, CHOSEN_ON, seed) for seed in seeds]
            for rate in self.rates
            for arm in (*ARMS, FINETUNING)
        }

    def choosing_optimizers(self, rates: Rates) -> dict[tuple[str, str], list[Cell]]:
        """By optimizer and rate of the forget phase; the retain phase keeps the rate of the arm with two Adams."""
        seeds = range(1 if self.tiny else CHOOSING_SEEDS)
        return {
            (name, rate): [
                self.cell(TWO, rates[TWO], CHOSEN_ON, seed, (*words, f"method.forget_lr={rate}")) for seed in seeds
            ]
            for name, (words, tried) in list(OPTIMIZERS.items())[: 1 if self.tiny else None]
            for rate in (tried[:1] if self.tiny else tried)
        }

    def tested(self, rates: Rates) -> list[Cell]:
        """Every arm, and finetuning, at every rate that was chosen for any; seeds outermost."""
        return [
            self.cell(arm, rate, name, seed, base=base)
            for seed in self.seeds
            for base in self.bases
            for name in self.classes
            for rate in dict.fromkeys(rates.values())
            for arm in (*ARMS, FINETUNING)
        ]

    def factors(self, rates: Rates) -> dict[tuple[str, str], list[Cell]]:
        """By what is changed and arm, on the first base model; finetuning at the rate of each arm."""
        arms = {arm: (arm, rates[arm]) for arm in (ONE, TWO)}
        arms |= {f"{FINETUNING}, {rate}": (FINETUNING, rate) for _, rate in arms.values()}
        changes = {"": ()} | (dict(list(FACTORS.items())[:1]) if self.tiny else FACTORS)
        rows = {
            (change, name): self.row(arm, rate, words)
            for change, words in changes.items()
            for name, (arm, rate) in arms.items()
        }
        if self.tiny:
            return rows
        return rows | {(change, TWO): self.row(TWO, rates[TWO], words) for change, words in MOMENTS.items()}

    def optimizers(self, rates: Rates, chosen: Rates) -> dict[tuple[str, str], list[Cell]]:
        """By optimizer of the forget phase and its rate, on the first base model."""
        return {
            (name, rate): self.row(TWO, rates[TWO], (*OPTIMIZERS[name][0], f"method.forget_lr={rate}"))
            for name, rate in chosen.items()
        }

    def row(self, arm: str, rate: str, words: Iterable[str]) -> list[Cell]:
        return [
            self.cell(arm, rate, name, seed, words, self.bases[0])
            for seed in self.factor_seeds
            for name in self.classes
        ]


def chosen_rates(found: Mapping[tuple[str, str], Sequence[Found]], names: Iterable[str]) -> dict[str, str]:
    """Of each name the lowest rate with mean FA of at most `ENOUGH`; where none has, the one with the least."""
    chosen = {}
    for name in names:
        fa = {
            rate: mean(1.0 if run["after"] is None else run["after"]["FA"] for run in runs)
            for (of, rate), runs in found.items()
            if of == name and runs
        }
        enough = [rate for rate, value in fa.items() if value <= ENOUGH]
        if fa:
            chosen[name] = min(enough, key=float) if enough else min(fa, key=lambda rate: fa[rate])
    return chosen


def main(words: Sequence[str] | None = None) -> None:
    options = parser(__file__, __doc__)
    options.add_argument("--seeds", type=int, default=5, help="runs of each arm, base model and class [default: 5]")
    options.add_argument("--jobs", type=int, default=2, help="runs side by side, one thread each; 0: run nothing")
    options.add_argument("--work", type=Path, default=Path("runs/claim"), help="for recipes [default: %(default)s]")
    arguments = parse(options, words)
    out: Path = arguments.out
    if arguments.toy:
        tiny = toy.overrides(out / "recipes")
        plan = Plan([str(out / "recipes" / "pretrain.yaml")], 1, tiny)
    else:
        plan = Plan(write_bases(arguments.work, range(1, BASES + 1)), arguments.seeds)
    about = {"command": command_line(__file__, words), "setting": [*SETTING, *FORGET], "arms": ARMS}
    jobs = min(arguments.jobs, 1) if arguments.toy else arguments.jobs
    run = partial(run_study, out=out / "claim.json", about=about, jobs=jobs)

    def run_rows(rows: Mapping[Any, Sequence[Cell]]) -> dict[Any, list[Found]]:
        """Of cells by row; the first cell of every row comes before the second of any."""
        longest = max(map(len, rows.values()))
        by_key = {Cell.of(r).key: r for r in run([row[i] for i in range(longest) for row in rows.values()])}
        return {key: [by_key[cell.key] for cell in row if cell.key in by_key] for key, row in rows.items()}

    choosing = run_rows(plan.choosing())
    rates = chosen_rates(choosing, ARMS)
    found: dict[str, Any] = {"choosing": choosing, "rates": rates}
    if len(rates) == len(ARMS):
        found["tested"] = run(plan.tested(rates))
        found["factors"] = run_rows(plan.factors(rates))
        found["choosing_optimizers"] = run_rows(plan.choosing_optimizers(rates))
        chosen = chosen_rates(found["choosing_optimizers"], OPTIMIZERS)
        found["optimizers"] = run_rows(plan.optimizers(rates, chosen)) if chosen else {}
    text = tabulate(found, about["command"])
    (out / "claim.md").write_text(text, encoding="utf-8")
    draw(found, out / "claim.png")
    print(text)


if __name__ == "__main__":
    main()
