"""Is forgetting stable with separate moments? Forgets three digits with SFRon at five learning rates, with one shared
Adam and with two. All runs take 150 steps, one retain step a forget step, at a constant rate, and differ in the
optimizers alone. The groups called steady decay their rates, end the ascent at a ceiling and take 400 steps. FA is
measured on 200 images, RA and KID on 450, drawn in 25 DDIM steps with the same seeds everywhere. Finished runs are
kept in stability.json, so the command can be stopped and run again. It writes stability.md and stability.png beside
it.

    python scripts/studies/stability.py --jobs 2
    python scripts/studies/stability.py --jobs 0    # table and figure of the finished runs
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
import toy
from command import parse, parser
from studies.runner import AIM_FA, AIM_KID, Cell, met, origin, run_study, summarise, summary_row
from tables import table

COMMAND = "python scripts/studies/stability.py"
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
    "method.forget_ceiling=null",
)
STEADY = (  # each phase's rate decays, ascent ends at twice the loss without a label, and there is time to get there
    "method.forget_schedule=cosine",
    "method.retain_schedule=cosine",
    "method.forget_ceiling=2",
    "method.num_steps=400",
)

GROUPS: dict[str, tuple[str, ...]] = {
    "shared, alpha 1": ("optimizers.mode=shared", "method.forget_weight=1"),
    "shared, alpha 10": ("optimizers.mode=shared", "method.forget_weight=10"),
    "dual": ("optimizers.mode=dual",),
    "dual_plus": ("optimizers.mode=dual_plus",),
    "steady, dual": ("optimizers.mode=dual", *STEADY),
    "steady, shared": ("optimizers.mode=shared", *STEADY),
}
STYLES = {
    "shared, alpha 1": {"color": "tab:orange", "linestyle": "--", "marker": "s"},
    "shared, alpha 10": {"color": "tab:red", "linestyle": "--", "marker": "^"},
    "dual": {"color": "tab:blue", "marker": "o"},
    "dual_plus": {"color": "tab:green", "linestyle": ":", "marker": "D"},
    "steady, dual": {"color": "navy", "marker": "o", "linewidth": 2.5},
    "steady, shared": {"color": "black", "linestyle": "--", "marker": "s"},
}
FIRST_CLASS_ONLY = ("dual_plus",)


def cells(num_seeds: int) -> list[Cell]:
    """Seeds outermost: stopped early, groups have been run equally often; those of 400 steps wait for all others."""
    every = [
        Cell(group, RECIPE, name, seed, (*SETTING, *words, f"method.forget_lr={rate}", f"method.retain_lr={rate}"))
        for seed in range(num_seeds)
        for name in CLASSES
        for rate in RATES
        for group, words in GROUPS.items()
        if group not in FIRST_CLASS_ONLY or name == CLASSES[0]
    ]
    return sorted(every, key=lambda cell: GROUPS[cell.group][-len(STEADY) :] == STEADY)


def toy_cells(folder: Path) -> list[Cell]:
    """One tiny run for two of the groups, at one rate."""
    rates = (f"method.forget_lr={RATES[0]}", f"method.retain_lr={RATES[0]}")
    words = (*SETTING, *rates, *toy.overrides(folder), *toy.MASK)
    return [Cell(group, RECIPE, CLASSES[0], 0, (*words, *GROUPS[group])) for group in ("shared, alpha 1", "dual")]


def rate_of(result: dict) -> str:
    return next(o for o in result["overrides"] if o.startswith("method.forget_lr=")).partition("=")[2]


def tabulate(results: list[dict]) -> str:
    """A row for each group and rate, then one for each group."""
    groups = {group: [r for r in results if r["group"] == group] for group in GROUPS}
    head = ["FA", "RA", "KID / original's", "aim met"]
    by_rate = [
        [group, rate, *summary_row(summarise(part))]
        for group in GROUPS
        for rate in RATES
        if (part := [r for r in groups[group] if rate_of(r) == rate])
    ]
    together = [[group, *summary_row(summarise(part))] for group, part in groups.items() if part]
    lines = [
        "# Stability over rates, seeds and classes", "", f"`{COMMAND}`", "",
        "SFRon on the digits, mean ± standard deviation over classes and seeds; the last column counts runs with FA at "
        f"most {AIM_FA:.0%} and KID at most {AIM_KID} times the original's.", "",
        *table(["optimizers", "rate", *head], by_rate), "",
        "All rates together:", "", *table(["optimizers", *head], together), "", origin(results),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def draw(results: list[dict], path: Path) -> None:
    """Four panels over the rate: share of runs that met the aim, FA, RA, KID; means, and the runs' range as a band."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 4, figsize=(15, 4.2), layout="constrained")
    panels = {
        f"runs with FA ≤ {AIM_FA:.0%} and KID ≤ {AIM_KID}x": lambda r: float(met(r)),
        "FA (lower is better)": lambda r: r["after"]["FA"],
        "RA (higher is better)": lambda r: r["after"]["RA"],
        "KID / original's (lower is better)": lambda r: r["after"]["KID"] / r["before"]["KID"],
    }
    for axis, (title, value) in zip(axes, panels.items(), strict=True):
        for group, style in STYLES.items():
            points = {rate: [value(r) for r in results if r["group"] == group and rate_of(r) == rate] for rate in RATES}
            points = {float(rate): values for rate, values in points.items() if values}
            if not points:
                continue
            axis.plot(list(points), [mean(v) for v in points.values()], label=group, **style)
            if axis is not axes[0]:
                low, high = ([edge(v) for v in points.values()] for edge in (min, max))
                axis.fill_between(list(points), low, high, color=style["color"], alpha=0.10, linewidth=0)
        axis.set_title(title, fontsize=10)
        axis.set_xscale("log")
        axis.set_xticks([float(rate) for rate in RATES], RATES, fontsize=8)
        axis.minorticks_off()
        axis.set_xlabel("learning rate")
        axis.grid(alpha=0.25)
    for axis in axes[:3]:
        axis.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
    axes[0].set_ylim(-0.03, 1.03)
    axes[3].set_yscale("log")
    axes[3].axhline(AIM_KID, color="grey", linestyle=":", linewidth=1)
    axes[1].axhline(AIM_FA, color="grey", linestyle=":", linewidth=1)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main(words: Sequence[str] | None = None) -> None:
    options = parser(__file__, __doc__)
    options.add_argument("--seeds", type=int, default=5, help="runs of each group, class and rate [default: 5]")
    options.add_argument("--jobs", type=int, default=2, help="runs side by side, one thread each; 0: run nothing")
    arguments = parse(options, words)
    out = arguments.out
    planned = toy_cells(out / "recipes") if arguments.toy else cells(arguments.seeds)
    about = {"command": COMMAND, "setting": SETTING, "groups": GROUPS, "rates": RATES}
    results = run_study(planned, out / "stability.json", about, 1 if arguments.toy else arguments.jobs)
    text = tabulate(results)
    (out / "stability.md").write_text(text, encoding="utf-8")
    draw(results, out / "stability.png")
    print(text)


if __name__ == "__main__":
    main()
