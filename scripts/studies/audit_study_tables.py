"""The study of attacks as tables and a figure: what is decided of every method, pairs of one and two optimizers, the
class under each attack.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import tables
from studies.reproduce_table2 import METHODS

Run = dict[str, Any]  # of a method on a class and a base model, and its audit
FORGOTTEN = 0.05  # largest mean FA of a method that forgets
DECISIONS = ("left", "cannot tell", "gone")
PAIRS = (("sfron_dual", "sfron_shared"), ("salun_dual", "salun_joint"))  # two optimizers, one


def ranking(found: Sequence[Run]) -> list[tuple[str, list[Run]]]:
    """Methods with their runs: those that forget (mean FA at most 5%), by how many are called left and by mean surest
    excess; then the others by FA."""
    groups = [(name, [r for r in found if r["group"] == name]) for name in {r["group"]: 0 for r in found}]

    def order(group: tuple[str, list[Run]]) -> tuple[bool, float, float]:
        fa = mean(r["FA"] for r in group[1])
        if fa > FORGOTTEN:
            return True, fa, 0.0
        share = mean(r["headline"]["decision"] == "left" for r in group[1])
        return False, share, mean(r["headline"]["difference"] for r in group[1])

    return sorted(groups, key=order)


def percent(values: Iterable[float]) -> str:
    return tables.spread([100 * value for value in values])


def steps(runs: Sequence[Run], role: str) -> str:
    """Steps of relearning on ten images until half, and in how many runs; `never` beyond the budget."""
    counts = Counter(r["steps_to_half"][role] for r in runs)
    values = sorted(counts, key=lambda value: float("inf") if value is None else value)
    return ", ".join(f"{'never' if value is None else value} × {counts[value]}" for value in values)


def tabulate(found: Sequence[Run], command: str) -> str:
    groups = ranking(found)
    places = {(r["class_name"], r["seed"]) for r in found}
    lines = [
        "# Hidden or gone: methods under attack", "", f"`{command}`", "",
        f"{len(found)} runs on the digits: {len({c for c, _ in places})} classes, {len({s for _, s in places})} base "
        "models. Mean ± standard deviation over classes and base models. Budget quick: 50 images a rate, two seeds an "
        "attack, two controls; auxiliary data: patches of two photographs. Excess: the class is drawn more often than "
        "from models retrained without it, under the same attack; surest: at the point of the largest lower end. The "
        "row of retrain is one retrained model against others: what chance alone gives. Steps: relearning on ten "
        "images until half of the images are the class, × runs. Where nothing is found the surest point is that of "
        "the narrowest interval, often one before the attack begins: its excess is no measure of what is left.", "",
        *_decided(groups), "", *_pairs(found),
        "The class under each attack at its surest point, % of images (excess over the controls, points):", "",
        *_by_attack(groups), "",
        "What is measured beside attacks; less the controls' (95% by Student's t over runs):", "",
        *_measured(groups), "", "The class drawn after so many steps of relearning on ten images, %, mean over runs:",
        "", *_relearned(groups),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _named(groups: Sequence[tuple[str, list[Run]]]) -> list[tuple[str, list[Run]]]:
    return [(METHODS.get(name, name), runs) for name, runs in groups]


def _decided(groups: Sequence[tuple[str, list[Run]]]) -> list[str]:
    head = ["method", "runs", "FA %", "RA %", "KID x 1000, change", *DECISIONS, "surest excess, pp", "surest under"]
    head += ["steps to half", "the controls'"]
    body = []
    for name, runs in _named(groups):
        decided = Counter(r["headline"]["decision"] for r in runs)
        probes = Counter(r["headline"]["probe"] for r in runs if r["headline"]["decision"] == "left")
        body.append(
            [
                name, len(runs), percent(r["FA"] for r in runs), percent(r["RA"] for r in runs),
                tables.spread([1000 * r["KID change"] for r in runs]), *(decided[word] for word in DECISIONS),
                percent(r["headline"]["difference"] for r in runs),
                ", ".join(f"{probe} {n}" for probe, n in probes.most_common()),
                steps(runs, "unlearned"), steps(runs, "control"),
            ]
        )  # fmt: skip
    return tables.table(head, body)


def _pairs(found: Sequence[Run]) -> list[str]:
    """Two optimizers less one, on the same class and base model; nothing where no such runs are there."""
    by_place = {(r["group"], r["class_name"], r["seed"]): r for r in found}
    body = []
    for names in PAIRS:
        places = [place[1:] for place in by_place if place[0] == names[0] and (names[1], *place[1:]) in by_place]
        if places:
            two, one = ([by_place[(name, *place)] for place in places] for name in names)
            differences = ([of(a) - of(b) for a, b in zip(two, one, strict=True)] for of in COMPARED.values())
            title = " less ".join(METHODS[name] for name in names)
            body.append([title, len(places), _left(two, one), *map(tables.mean_with_interval, differences)])
    if not body:
        return []
    told = (
        "Two optimizers less one, mean difference of pairs (95% by Student's t), and how many of each are called left, "
        "with p of the sign test over pairs that differ; the rates are each recipe's own:"
    )
    return [told, "", *tables.table(["pairs of", "pairs", "left: two / one", *COMPARED], body), ""]


def _left(two: Sequence[Run], one: Sequence[Run]) -> str:
    """How many of either side are called left, with p of the two-sided sign test."""
    from scipy.stats import binomtest

    sides = [[r["headline"]["decision"] == "left" for r in side] for side in (two, one)]
    differ = [a for a, b in zip(*sides, strict=True) if a != b]
    p = binomtest(sum(differ), len(differ)).pvalue if differ else 1.0
    return " / ".join(str(sum(side)) for side in sides) + f" (p = {p:.3f})"


def _while_relearning(run: Run) -> float:
    """The class drawn, %, mean over the steps at which relearning on ten images draws."""
    curve = run["relearned"]["unlearned"]
    return mean(100 * hits / n for hits, n in zip(curve["hits"], curve["n"], strict=True))


COMPARED: dict[str, Callable[[Run], float]] = {
    "FA, points": lambda run: 100 * run["FA"],
    "RA, points": lambda run: 100 * run["RA"],
    "KID x 1000": lambda run: 1000 * run["KID change"],
    "the class while relearning, points": _while_relearning,
}


def _by_attack(groups: Sequence[tuple[str, list[Run]]]) -> list[str]:
    body = []
    for attack in groups[0][1][0]["attacks"]:
        of = [[r["attacks"][attack] for r in runs] for _, runs in groups]
        cells = (100 * mean(p["FA"] for p in part) for part in of)
        excesses = (100 * mean(p["excess"] for p in part) for part in of)
        body.append([attack, *(f"{value:.0f} ({excess:+.0f})" for value, excess in zip(cells, excesses, strict=True))])
    return tables.table(["attack", *(name for name, _ in _named(groups))], body)


def _measured(groups: Sequence[tuple[str, list[Run]]]) -> list[str]:
    titles = list(groups[0][1][0]["measures"])
    body = []
    for name, runs in _named(groups):
        of = [[(r["measures"][title]["unlearned"], r["measures"][title]["control"]) for r in runs] for title in titles]
        less = [tables.mean_with_interval([own - beside for own, beside in part], "+.2f") for part in of]
        means = [f"{mean(own for own, _ in part):.2f}" for part in of]
        body.append([name, *(f"{value}; {beside}" for value, beside in zip(means, less, strict=True))])
    return tables.table(["method", *titles], body)


def _relearned(groups: Sequence[tuple[str, list[Run]]]) -> list[str]:
    at = groups[0][1][0]["relearned"]["unlearned"]["at"]
    body = []
    for name, runs in _named(groups):
        part = [r["relearned"]["unlearned"] for r in runs]
        values = [mean(100 * curve["hits"][i] / curve["n"][i] for curve in part) for i in range(len(at))]
        body.append([name, *(f"{value:.0f}" for value in values)])
    return tables.table(["method", *map(str, at)], body)


def draw(found: Sequence[Run], path: Path) -> None:
    """A panel an attack: the excess of every run at its surest point, a line a method."""
    from matplotlib.figure import Figure

    groups = _named(ranking(found)[::-1])
    attacks = list(groups[0][1][0]["attacks"])
    across = (len(attacks) + 1) // 2
    figure = Figure(figsize=(2 + 1.7 * across, 2 * (1.2 + 0.3 * len(groups))), layout="constrained")
    panels = figure.subplots(2, across, sharey=True, sharex=True, squeeze=False).flat
    for title, axes in zip(attacks, panels, strict=False):  # an axis more than titles is not taken
        for i, (_, runs) in enumerate(groups):
            values = [100 * r["attacks"][title]["excess"] for r in runs]
            axes.plot(values, [i] * len(values), "o", alpha=0.5, color="#b9302a", markersize=4)
            axes.plot([mean(values)] * 2, [i - 0.3, i + 0.3], color="#1b1f24", linewidth=2)
        axes.axvline(0, color="#5b6470", linewidth=1)
        axes.set_title(title.replace(": ", "\n", 1), fontsize=8)
        axes.set_yticks(range(len(groups)), [name for name, _ in groups])
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels:
        axes.set_visible(False)
    figure.supxlabel("excess over models that never saw the class, points", fontsize=9)
    figure.savefig(path, dpi=110)
