"""The tables and the figure of claim.py, and the statistics that they stand on.

Runs of one base model and class are not independent of each other, so intervals of differences are Student's t over the
means of these pairs, and those of ratios come from drawing pairs with replacement.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, variance
from typing import Any

import numpy as np

from tables import mean_with_interval, spread, table

Found = dict[str, Any]
Group = tuple[str, str]  # base model, class
DRAWS, POWER = 4000, 0.8
FINETUNING = "finetuning"
KID = "KID - finetuning's, x 1000"


class Compared:
    """Figures of runs, each beside that of finetuning with the same rate, base model, class and seed.

    A run that was stopped by a value that is not finite has no figures and is counted apart.
    """

    def __init__(self, runs: Iterable[Found]) -> None:
        self.of_finetuning = {(*place(r), rate_of(r)): r for r in runs if r["group"] == FINETUNING and r["after"]}

    def values(self, run: Found) -> dict[str, float] | None:
        """FA, RA and the distance beyond finetuning's; None of a run that was stopped or has nothing beside it."""
        beside = self.of_finetuning.get((*place(run), rate_of(run)))
        if run["after"] is None or beside is None:
            return None
        after = run["after"]
        return {"FA": after["FA"], "RA": after["RA"], KID: 1000 * (after["KID"] - beside["after"]["KID"])}

    def table_row(self, runs: Sequence[Found]) -> list[object]:
        """Runs, those stopped, FA, its largest, RA, KID beyond finetuning's."""
        found = [values for run in runs if (values := self.values(run))]
        stopped = sum(run["after"] is None for run in runs)
        if not found:
            return [len(runs), stopped, "", "", "", ""]
        fa, ra, kid = ([values[name] for values in found] for name in ("FA", "RA", KID))
        return [len(runs), stopped, spread(fa, ".1%"), f"{max(fa):.1%}", spread(ra, ".1%"), spread(kid, ".2f")]


HEAD = ("runs", "stopped", "FA", "largest FA", "RA", KID)


def place(run: Found) -> tuple[str, str, int]:
    """Base model, class and seed."""
    return run["base_sha256"], run["class_name"], run["seed"]


def rate_of(run: Found) -> str:
    return next(word for word in run["overrides"] if word.startswith("method.retain_lr=")).partition("=")[2]


def paired(compared: Compared, two: Sequence[Found], one: Sequence[Found], name: str) -> list[float]:
    """Mean difference of each base model and class, two less one, over the seeds that both have."""
    others = {place(run): compared.values(run) for run in one}
    parts: dict[Group, list[float]] = defaultdict(list)
    for run in two:
        mine, other = compared.values(run), others.get(place(run))
        if mine and other:
            parts[place(run)[:2]].append(mine[name] - other[name])
    return [mean(part) for part in parts.values()]


def seed_variances(compared: Compared, runs: Sequence[Found], name: str) -> dict[Group, float]:
    """Variance over the seeds of each base model and class that has at least two."""
    parts: dict[Group, list[float]] = defaultdict(list)
    for run in runs:
        if values := compared.values(run):
            parts[place(run)[:2]].append(values[name])
    return {group: variance(part) for group, part in parts.items() if len(part) > 1}


def deviation_ratio(two: Mapping[Group, float], one: Mapping[Group, float]) -> tuple[float, float, float] | None:
    """Pooled deviation over seeds of `two` by that of `one`, with its 95% interval over base models and classes."""
    groups = [group for group in two if group in one]
    if len(groups) < 2:
        return None
    above, below = (np.array([side[group] for group in groups]) for side in (two, one))
    drawn = np.random.default_rng(0).integers(len(groups), size=(DRAWS, len(groups)))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.sqrt(above[drawn].sum(1) / below[drawn].sum(1))
        whole = math.sqrt(above.sum() / below.sum()) if below.sum() else math.nan
    low, high = np.nanquantile(ratios, (0.025, 0.975))
    return whole, float(low), float(high)


def detectable(deviation: float, n: int) -> float:
    """The mean difference that n pairs of such a deviation show at 5% in four of five studies (two-sided t)."""
    from scipy.stats import nct, t

    low, high, critical = 0.0, 20.0, float(t.ppf(0.975, n - 1))
    for _ in range(60):
        middle = (low + high) / 2
        power = float(nct.sf(critical, n - 1, middle * n**0.5))
        low, high = (middle, high) if power < POWER else (low, middle)
    return high * deviation


def detectable_ratio(runs: int, groups: int) -> float:
    """The ratio of deviations over seeds that so many normal runs in groups show at 5% in four of five studies."""
    from scipy.stats import f

    free = runs - groups
    return math.sqrt(float(f.ppf(0.975, free, free) * f.ppf(POWER, free, free)))


def tabulate(found: Mapping[str, Any], command: str) -> str:
    """All tables."""
    lines = ["# Two optimizers or one, tested on the digits", "", f"`{command}`", ""]
    choosing: Mapping[tuple[str, str], list[Found]] = found["choosing"]
    compared = Compared(run for part in choosing.values() for run in part)
    rates = found["rates"]
    lines += [
        "Rates are chosen on one base model and class. * marks the chosen one.", "",
        *table(("arm", "rate", *HEAD), (
            [arm, rate + " *" * (rates.get(arm) == rate), *compared.table_row(runs)]
            for (arm, rate), runs in choosing.items() if runs
        )), "",
    ]  # fmt: skip
    if tested := found.get("tested"):
        lines += [*of_tested(tested, rates), ""]
    factors: Mapping[tuple[str, str], list[Found]] = found.get("factors", {})
    if any(runs for (change, arm), runs in factors.items() if change and not arm.startswith(FINETUNING)):
        lines += ["One factor changed at a time, first of the base models:", "", *of_factors(factors), ""]
    if trials := {key: runs for key, runs in found.get("choosing_optimizers", {}).items() if runs}:
        compared = Compared(run for part in choosing.values() for run in part)
        lines += [
            "Optimizers of the forget phase beside Adam in the retain phase, where rates are chosen:", "",
            *table(("optimizer", "rate", *HEAD), ([*key, *compared.table_row(runs)] for key, runs in trials.items())),
            "",
        ]  # fmt: skip
    if any((optimizers := found.get("optimizers", {})).values()):
        compared = Compared(tested or ())
        lines += [
            "The same, tested on the first of the base models:", "",
            *table(
                ("optimizer", "rate", *HEAD), ([*key, *compared.table_row(runs)] for key, runs in optimizers.items())
            ), "",
        ]  # fmt: skip
    return "\n".join(lines)


def of_tested(tested: Sequence[Found], rates: Mapping[str, str]) -> list[str]:
    """The arms at all rates, what a second optimizer changes at chosen and at equal ones, and what could be seen."""
    compared, groups = Compared(tested), {place(run)[:2] for run in tested}
    tried = list(dict.fromkeys(rates.values()))
    runs = {
        (arm, r): [run for run in tested if (run["group"], rate_of(run)) == (arm, r)] for arm in rates for r in tried
    }
    body = [
        [arm, rate + " *" * (rates[arm] == rate), *compared.table_row(part)]
        for (arm, rate), part in runs.items() if part
    ]  # fmt: skip
    lines = [
        f"Tested on {len({base for base, _ in groups})} other base models and {len({name for _, name in groups})} "
        "other classes:", "", *table(("arm", "rate", *HEAD), body), "",
    ]  # fmt: skip
    rows, deviations = [], []
    for one, two in zip(list(rates)[::2], list(rates)[1::2], strict=True):
        pairs = {"each its own": (rates[one], rates[two])} if rates[one] != rates[two] else {}
        pairs |= {rate: (rate, rate) for rate in tried}
        for which, (of_one, of_two) in pairs.items():
            for name, form in (("FA", ".1%"), ("RA", ".1%"), (KID, ".2f")):
                parts = runs[two, of_two], runs[one, of_one]
                differences = paired(compared, *parts, name)
                ratio = deviation_ratio(*(seed_variances(compared, part, name) for part in parts))
                if len(differences) > 1 and (one, which) == (next(iter(rates)), next(iter(pairs))):
                    deviations.append((name, form, math.sqrt(variance(differences))))
                rows.append(
                    [
                        f"{two} - {one}", which, name, len(differences),
                        mean_with_interval(differences, form) if differences else "",
                        f"{ratio[0]:.2f} ({ratio[1]:.2f} to {ratio[2]:.2f})" if ratio else "",
                    ]
                )  # fmt: skip
    lines += [
        "What the second optimizer changes; n counts pairs of base model and class:", "",
        *table(("difference", "rate", "figure", "n", "mean (95%)", "deviation over seeds, of one's (95%)"), rows),
    ]  # fmt: skip
    if deviations:
        lines += ["", told_detectable(deviations)]
    return lines


def told_detectable(deviations: Sequence[tuple[str, str, float]]) -> str:
    """What 5 and 15 pairs of base model and class, of five runs each, would show."""
    seen = [
        f"{name} {detectable(deviation, 5):{form}} and {detectable(deviation, 15):{form}}"
        for name, form, deviation in deviations
    ]
    return (
        f"Four of five such studies of 25 and of 75 runs an arm (5 and 15 pairs) would show a difference of at least: "
        f"{'; '.join(seen)}; and a ratio of deviations over seeds outside {1 / detectable_ratio(25, 5):.2f} to "
        f"{detectable_ratio(25, 5):.2f} and {1 / detectable_ratio(75, 15):.2f} to {detectable_ratio(75, 15):.2f}, if "
        "figures are normal."
    )


def of_factors(factors: Mapping[tuple[str, str], Sequence[Found]]) -> list[str]:
    """Each change beside the same arm without it; distances are beside finetuning under the same change, if there is
    any."""
    body = []
    for (change, arm), runs in factors.items():
        same = [run for (of, _), part in factors.items() if of == change for run in part]
        plain = [run for (of, _), part in factors.items() if not of for run in part]
        compared = Compared(same if any(run["group"] == FINETUNING for run in same) else plain)
        if runs:
            body.append([change or "none", arm, *compared.table_row(runs)])
    return table(("change", "arm", *HEAD), body)


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Left: what every arm reaches over its rates where they are chosen. Right: the differences of the tested runs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    choosing, rates, tested = found["choosing"], found["rates"], found.get("tested", [])
    count = 4 if tested else 2
    figure, axes = pyplot.subplots(1, count, figsize=(3.75 * count, 4.2), layout="constrained")
    compared = Compared(run for part in choosing.values() for run in part)
    for axis, name in zip(axes[:2], ("FA", KID), strict=True):
        for number, arm in enumerate(rates):
            points = {
                float(rate): mean(values) for (of, rate), runs in choosing.items()
                if of == arm and (values := [v[name] for run in runs if (v := compared.values(run))])
            }  # fmt: skip
            color = ("tab:orange", "tab:blue")[number % 2]
            axis.plot(*zip(*sorted(points.items()), strict=True), "o-" if number < 2 else "s--", color=color, label=arm)
        axis.set(xscale="log", xlabel="learning rate", title=name)
        axis.grid(alpha=0.25)
    axes[1].set_yscale("symlog")
    axes[0].axhline(0.05, color="grey", linestyle=":", linewidth=1)
    axes[0].legend(fontsize=8)
    for axis, name in zip(axes[2:], ("FA", KID)[: count - 2], strict=True):
        scatter(axis, tested, rates, name)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def scatter(axis: Any, tested: Sequence[Found], rates: Mapping[str, str], name: str) -> None:
    """A dot a tested run at its arm's chosen rate, an arm a row; black marks the mean."""
    compared = Compared(tested)
    for number, arm in enumerate(rates):
        own = [run for run in tested if (run["group"], rate_of(run)) == (arm, rates[arm])]
        found = [values[name] for run in own if (values := compared.values(run))]
        heights = number + np.linspace(-0.25, 0.25, len(found)) if found else []
        axis.plot(found, heights, "o", markersize=3, alpha=0.5, color=("tab:orange", "tab:blue")[number % 2])
        if found:
            axis.plot([mean(found)], [number], "k|", markersize=24)
    axis.set_yticks(range(len(rates)), list(rates) if name == "FA" else [""] * len(rates), fontsize=8)
    axis.set_xlabel(f"{name}, tested")
    axis.invert_yaxis()
    axis.grid(alpha=0.25)
