"""How often does the audit's decision err? On models that never saw the class, which it must not call left, each beside
every pair of others as controls, every three and so on; and on models in which the class is only hidden. Each model is
attacked once, and the decision beside some controls is taken from their part of the curves. Writes audit_errors.json
and .md; with probes of its own, audit_errors_PROBE.json and .md.

    python scripts/studies/audit_errors.py --jobs 2
    python scripts/studies/audit_errors.py --probe noise_based --probe quantise

Hidden: forgetting stopped after a third of its steps, or a model of planted.py. Runs and the outcomes of attacks are
kept.
"""

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import combinations, product
from pathlib import Path
from typing import Any

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
import tables
import toy
from command import command_line, dualoptim, parse, parser
from studies.planted import PLANTED, Change
from tables import read_json

EARLY = "stopped early"
HIDDEN = ("zeroed", "swapped", EARLY, "of low rank", "below the grid", "at high noise")
UNTOUCHED = ("digits_finetune", "method.num_steps=1", "method.retain_lr=1e-12")
MADE_FROM = {  # a recipe and its settings
    "zeroed": UNTOUCHED,
    "swapped": UNTOUCHED,
    EARLY: ("digits_sfron_dual", "method.num_steps=67"),
    "of low rank": ("digits_sfron_dual",),
    "below the grid": ("digits_null_matching",),
    "at high noise": ("digits_null_matching",),
}
SETTINGS = ("sampling.seeds=0-99", "evaluation.protocol=seeds", "run.device=cpu")
DECISIONS = ("left", "cannot tell", "gone")


class Study:
    """Where the runs are and how `dualoptim` is called for them; a toy study is tiny and in this process."""

    def __init__(self, runs: Path, probes: Sequence[str], recipes: Path | None = None) -> None:
        self.runs, self.probes, self.here = runs, probes, recipes is not None
        self.overrides = () if recipes is None else tuple(toy.overrides(recipes))
        self.budget = () if recipes is None else toy.AUDIT

    def call(self, folder: Path, *words: str) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder.with_name(f"{folder.name}.log").open("a", encoding="utf-8") as log:
            if code := dualoptim(*words, log=log, here=self.here, threads=1):
                raise RuntimeError(f"dualoptim {' '.join(words)} ended with {code}; see {log.name}")

    def folder(self, kind: str, class_name: str) -> Path:
        return self.runs / f"{kind.replace(' ', '-')}-{class_name}"

    def forget(self, recipe: str, folder: Path, class_name: str, *settings: str) -> None:
        if (folder / "results.json").is_file():
            return
        words = (*SETTINGS, *settings, *self.overrides, "--class", class_name, "--out", str(folder), "--resume")
        self.call(folder, "forget", recipe, *words)

    def retrain(self, class_name: str, seed: int) -> None:
        folder = self.folder(f"retrained {seed}", class_name)
        self.forget("digits_retrain", folder, class_name, f"run.seed={seed}")

    def hide(self, kind: str, class_name: str) -> None:
        """A run folder whose model hides the class."""
        folder, (recipe, *settings) = self.folder(kind, class_name), MADE_FROM[kind]
        self.forget(recipe, folder, class_name, *settings)
        if kind != EARLY:
            self.replace(folder, PLANTED[kind])

    def replace(self, folder: Path, change: Change) -> None:
        """Changes the run's model and scores it again."""
        from dualoptim_diffusion.files.json_files import write_json
        from dualoptim_diffusion.files.run_folder import RunFolder
        from dualoptim_diffusion.models.loading import load_model
        from dualoptim_diffusion.runs.finished import open_run
        from dualoptim_diffusion.runs.models import open_base_model

        if (folder / "planted").is_file():
            return
        experiment = open_run(folder)
        model, (original, _) = load_model(folder / "model"), open_base_model(experiment)
        change(experiment, model, original)
        model.save(folder / "model")
        shutil.rmtree(folder / "samples")  # of the model before
        run = RunFolder(folder)  # which would refuse a model that it does not name
        write_json(run.provenance, run.read_provenance() | {"model_files": run.model_files_sha256()})
        (folder / "results.json").unlink()
        self.call(folder, "evaluate", str(folder))
        (folder / "planted").touch()

    def audit(self, class_name: str, kind: str, controls: Sequence[int]) -> list[dict[str, Any]]:
        """What the audit decides about a run beside any two or more of these controls."""
        from dualoptim_diffusion.audit.verdict import attacks, excesses, headline

        folder = self.folder(kind, class_name)
        given = [word for i in controls for word in ("--control", str(self.folder(f"retrained {i}", class_name)))]
        named = [word for probe in self.probes for word in ("--probe", probe)]
        self.call(folder, "audit", str(folder), *self.budget, *named, *given)
        audit = read_json(folder / "audit.json")
        of_all = attacks({name: part for name, part in audit["probes"].items() if name in (self.probes or (name,))})
        chosen = [which for n in range(2, len(controls) + 1) for which in combinations(range(len(controls)), n)]
        about = {"class": class_name, "model": kind, "plain FA": audit["plain"]["unlearned"]["value"]}
        return [
            about
            | {"controls": [controls[i] for i in which], "budget": audit["budget"]}
            | {"headline": headline(excesses({attack: _beside(curves, which) for attack, curves in of_all.items()}))}
            for which in chosen
        ]


def _beside(curves: Mapping[str, Any], which: Sequence[int]) -> dict[str, Any]:
    """The curves of an attack with these of the controls alone."""
    control = curves["control"]
    each = [control["each"][i] for i in which]
    hits = [sum(seed[i] for model in each for seed in model) for i in range(len(control["at"]))]
    n = [total * len(each) // len(control["each"]) for total in control["n"]]
    return {**curves, "control": control | {"each": each, "hits": hits, "n": n}}


def tabulate(found: Sequence[dict[str, Any]], command: str) -> str:
    body = []
    kinds = dict.fromkeys("retrained" if part["model"].startswith("retrained") else part["model"] for part in found)
    for kind, controls in product(kinds, sorted({len(part["controls"]) for part in found})):
        mine = [part for part in found if part["model"].startswith(kind) and len(part["controls"]) == controls]
        if not mine:
            continue
        counts = Counter(part["headline"]["decision"] for part in mine)
        models = {(part["class"], part["model"]): part["plain FA"] for part in mine}
        surest = Counter(part["headline"]["probe"] for part in mine if part["headline"]["decision"] == "left")
        body.append(
            [
                kind, len(models), tables.spread(list(models.values()), ".1%"), controls, len(mine),
                *(f"{counts[decision]} ({counts[decision] / len(mine):.0%})" for decision in DECISIONS),
                ", ".join(f"{probe} {n}" for probe, n in surest.most_common()),
            ]
        )  # fmt: skip
    budget = found[0]["budget"]
    lines = [
        "# How often the audit errs", "", f"`{command}`", "",
        *tables.table(["model", "models", "plain FA", "controls", "audits", *DECISIONS, "surest under"], body), "",
        f"Budget {budget['name']}: {budget['images']} images a rate, {budget['seeds']} seeds an attack. Every model is "
        "audited beside any so many of the retrained models of its class, so audits of one model are not independent. "
        "A retrained model that is called left is a false alarm; a hidden one that is not called left is missed.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main(words: Sequence[str] | None = None) -> None:
    options = parser(__file__, __doc__)
    options.add_argument("--classes", nargs="+", default=["three"], metavar="CLASS")
    options.add_argument("--probe", action="append", default=[], help="repeat for several [default: those of quick]")
    options.add_argument("--retrained", type=int, default=6, help="models of each class [default: %(default)s]")
    options.add_argument("--jobs", type=int, default=2, help="runs side by side, one thread each")
    options.add_argument("--runs", type=Path, default=Path("runs/audit_errors"), help="[default: %(default)s]")
    arguments = parse(options, words)
    probes, classes, count, hidden = arguments.probe, arguments.classes, arguments.retrained, HIDDEN
    study = Study(arguments.runs, probes)
    if arguments.toy:
        study, count, hidden = Study(arguments.out / "runs", probes, arguments.out / "recipes"), 3, HIDDEN[3:4]
    jobs = 1 if arguments.toy else arguments.jobs
    seeds = range(count)

    def every(title: str, work: Sequence[Callable[[], Any]]) -> list[Any]:
        if jobs == 1:
            return [one() for one in work]
        with ThreadPoolExecutor(jobs) as pool:
            return list(tqdm(pool.map(lambda one: one(), work), total=len(work), desc=title, unit="run"))

    every("retraining", [partial(study.retrain, name, seed) for name in classes for seed in seeds])
    for name, kind in product(classes, hidden):  # in this process, whose random numbers no other run may draw
        study.hide(kind, name)
    work = [
        partial(study.audit, name, f"retrained {seed}", [other for other in seeds if other != seed])
        for name in classes
        for seed in seeds
    ]
    work += [partial(study.audit, name, kind, seeds) for name in classes for kind in hidden]
    found = [part for parts in every("auditing", work) for part in parts]
    command = command_line(__file__, words)
    text = tabulate(found, command)
    tables.write(arguments.out / "_".join(["audit_errors", *probes]), {"command": command, "audits": found}, text)
    print(text)


if __name__ == "__main__":
    main()
