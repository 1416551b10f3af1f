"""Does DualOptim help where the paper began: a classifier forgets a random tenth of its training images? A network
learns the digits with SGD; a fifth of the training labels are wrong, so that there is something to remember. SFRon,
SalUn and SCRUB then forget the tenth by the package's own loop, with one optimizer for both phases or with two. The aim
is the model that never saw the tenth: the gap is the mean distance to it in FA (accuracy on the tenth), RA (on the
other training images), TA (on held-out images) and MIA (share of the tenth that an attack on the confidence calls
unseen). Every pair of optimizers has twelve settings to choose from, on one tenth; it is tested on five others, with
two seeds each. Finished runs are kept in random_subset.json, so the command can be stopped and run again.

    python scripts/studies/random_subset.py --jobs 2
    python scripts/studies/random_subset.py --jobs 0    # table and figure of the finished runs
"""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
from command import command_line, parse, parser
from studies.classifier_forgetting import FIGURES, METHODS, PAIRS, Found, Run, forget
from studies.runner import run_study
from tables import spread, table

FORGET_RATES = {"sgd": (3e-3, 1e-2, 3e-2, 1e-1), "adam": (1e-4, 3e-4, 1e-3, 3e-3)}
RETAIN_RATES = {"sgd": (1e-3, 1e-2, 3e-2), "adam": (1e-4, 3e-4, 1e-3)}
WEIGHTS = (0.1, 0.3, 1.0)  # of the forget loss; one optimizer chooses its rate and this, two choose two rates
CHOSEN_ON, SUBSETS, SEEDS = 100, 5, 2


def settings(pair: str) -> list[tuple[float, float]]:
    """What a pair of optimizers may choose from: twelve each."""
    names = PAIRS[pair]
    second = WEIGHTS if len(names) == 1 else RETAIN_RATES[names[-1]]
    return [(first, other) for first in FORGET_RATES[names[0]] for other in second]


def tabulate(tested: Sequence[Found], chosen: Mapping[tuple[str, str], tuple[float, float]], command: str) -> str:
    lines = ["# A classifier forgets a random tenth of its training images", "", f"`{command}`", ""]
    if not tested:
        return "\n".join([*lines, "No run is finished."]) + "\n"
    wanted = [told(name, [run["wanted"] for run in tested]) for name in FIGURES]
    lines += [
        "The digits, a fifth of the training labels wrong; a tenth of the training images is forgotten. The model that "
        f"never saw them: {', '.join(wanted)}. Means and deviations in points over subsets and seeds; the gap is the "
        "mean distance to that model over FA, RA, TA and MIA. Rates are of the forget and the retain phase; of "
        "one optimizer, its rate and the weight of the forget loss.", "",
    ]  # fmt: skip
    body = []
    for (method, pair), rates in chosen.items():
        mine = [run for run in tested if (run["method"], run["pair"]) == (method, pair)]
        there = [run["figures"] for run in mine if run["figures"]]
        cells = [spread([100 * f[name] for f in there], ".2f") if there else "" for name in FIGURES]
        gaps = spread([100 * run["gap"] for run in mine], ".2f") if mine else ""
        body.append([method, pair, f"{rates[0]:g}, {rates[1]:g}", len(mine), *cells, gaps])
    return "\n".join([*lines, *table(["method", "optimizers", "settings", "runs", *FIGURES, "gap"], body)]) + "\n"


def told(name: str, found: Sequence[dict[str, float]]) -> str:
    return f"{name} {spread([100 * f[name] for f in found], '.2f')}"


def draw(tested: Sequence[Found], path: Path) -> None:
    """A panel a method, a row a pair of optimizers, a dot a run: the gap, and black its mean."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(METHODS), figsize=(13, 3.2), sharey=True, layout="constrained")
    for axis, method in zip(axes, METHODS, strict=True):
        for row, pair in enumerate(PAIRS):
            gaps = [100 * run["gap"] for run in tested if (run["method"], run["pair"]) == (method, pair)]
            if gaps:
                axis.plot(gaps, [row] * len(gaps), "o", alpha=0.4, color="tab:orange" if row < 2 else "tab:blue")
                axis.plot([mean(gaps)], [row], "k|", markersize=20)
        axis.set(title=method, xlabel="gap to retraining, points", xscale="log")
        axis.grid(alpha=0.25)
    axes[0].set_yticks(range(len(PAIRS)), list(PAIRS))
    axes[0].invert_yaxis()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main(words: Sequence[str] | None = None) -> None:
    options = parser(__file__, __doc__)
    options.add_argument("--jobs", type=int, default=2, help="runs side by side, one thread each; 0: run nothing")
    arguments = parse(options, words)
    command, out = command_line(__file__, words), arguments.out / "random_subset.json"
    make = partial(Run, epochs=1, steps=1) if arguments.toy else Run
    methods, pairs = (METHODS[:1], list(PAIRS)[1:3]) if arguments.toy else (METHODS, list(PAIRS))
    subsets, seeds = (1, 1) if arguments.toy else (SUBSETS, SEEDS)
    rows = {(method, pair): settings(pair)[: 1 if arguments.toy else None] for method in methods for pair in pairs}
    jobs = min(arguments.jobs, 1) if arguments.toy else arguments.jobs
    run = partial(
        run_study, out=out, about={"command": command}, jobs=jobs, work=forget, of=Run.of,
        brief=lambda result: f"{result['method']} {result['pair']} gap {result['gap']:.2%}",
    )  # fmt: skip
    tried = run([make(*row, rates, CHOSEN_ON, 0) for row, choices in rows.items() for rates in choices])
    chosen = {
        row: tuple(min(mine, key=lambda result: result["gap"])["rates"])
        for row in rows
        if (mine := [result for result in tried if (result["method"], result["pair"]) == row])
    }
    planned = [
        make(*row, rates, number, seed)
        for seed in range(seeds) for number in range(subsets) for row, rates in chosen.items()
    ]  # fmt: skip
    tested = run(planned)
    text = tabulate(tested, chosen, command)
    out.with_suffix(".md").write_text(text, encoding="utf-8")
    draw(tested, out.with_suffix(".png"))
    print(text)


if __name__ == "__main__":
    main()
