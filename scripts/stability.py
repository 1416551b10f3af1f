"""Does decoupling the moments make forgetting stable? One shared Adam against two, over rates, seeds and classes.

    python scripts/stability.py --jobs 2

Every run forgets one class of the digits with SFRon (K = 150, one retain step a forget step, both phases at the same
constant rate, gamma 3) and differs in the optimizers alone; the groups called steady decay the rates, end the ascent at
a ceiling and take 400 steps. FA of 200 images, RA and FD of 450, 25 DDIM steps, equal seeds everywhere. Finished runs
are kept in stability.json, so the command can be stopped and given again; at the end it writes stability.png and
stability.md beside it.
"""

import argparse
from pathlib import Path
from statistics import mean

from cells import AIM_FA, AIM_FD, Cell, origin, row, run_study, summarise, summary_row

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


def tabulate(results: list[dict], command: str) -> str:
    """A row for each group and rate."""
    lines = [
        "# Stability over rates, seeds and classes", "", f"`{command}`", "",
        "SFRon on the digits, mean ± standard deviation over classes and seeds; the last column counts runs with FA at "
        f"most {AIM_FA:.0%} and FD at most {AIM_FD} times the original's.", "",
        row(["optimizers", "rate", "FA", "RA", "FD / original's", "aim met"]), row(["---"] * 6),
    ]  # fmt: skip
    for group in GROUPS:
        for rate in RATES:
            if part := [r for r in results if r["group"] == group and r["rate"] == rate]:
                lines.append(row([group, rate, *summary_row(summarise(part))]))
    lines += ["", "All rates together:", "", row(["optimizers", "FA", "RA", "FD / original's", "aim met"])]
    lines.append(row(["---"] * 5))
    for group in GROUPS:
        if part := [r for r in results if r["group"] == group]:
            lines.append(row([group, *summary_row(summarise(part))]))
    return "\n".join([*lines, "", origin(results)]) + "\n"


def draw(results: list[dict], path: Path) -> None:
    """Four panels over the rate: share of runs that met the aim, FA, RA, FD; means, and the runs' range as a band."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 4, figsize=(15, 4.2), layout="constrained")
    panels = {
        f"runs with FA ≤ {AIM_FA:.0%} and FD ≤ {AIM_FD}x": lambda r: float(met(r)),
        "FA (lower is better)": lambda r: r["after"]["FA"],
        "RA (higher is better)": lambda r: r["after"]["RA"],
        "FD / original's (lower is better)": lambda r: r["after"]["FD"] / r["before"]["FD"],
    }
    for axis, (title, value) in zip(axes, panels.items(), strict=True):
        for group, style in STYLES.items():
            points = {rate: [value(r) for r in results if r["group"] == group and r["rate"] == rate] for rate in RATES}
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
    axes[3].axhline(AIM_FD, color="grey", linestyle=":", linewidth=1)
    axes[1].axhline(AIM_FA, color="grey", linestyle=":", linewidth=1)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def met(result: dict) -> bool:
    after = result["after"]
    return bool(after) and after["FA"] <= AIM_FA and after["FD"] <= AIM_FD * result["before"]["FD"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, one thread each; 0: of finished runs")
    parser.add_argument("--out", type=Path, default=Path("scripts/benchmarks/results"))
    arguments = parser.parse_args()
    about = {"command": "python scripts/stability.py", "setting": SETTING, "groups": GROUPS, "rates": RATES}
    results = run_study(cells(arguments.seeds), arguments.out / "stability.json", about, arguments.jobs)
    for result in results:
        result["rate"] = next(o for o in result["overrides"] if o.startswith("method.forget_lr=")).partition("=")[2]
    text = tabulate(results, about["command"])
    (arguments.out / "stability.md").write_text(text, encoding="utf-8")
    draw(results, arguments.out / "stability.png")
    print(text)


if __name__ == "__main__":
    main()
