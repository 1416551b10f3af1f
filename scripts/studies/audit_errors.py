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
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations, product
from pathlib import Path
from typing import Any

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
import tables
import toy
from command import command_line, parse, parser
from studies.planted import PLANTED, Change
from studies.reproduce_table2 import Table, complete, recipe_of
from studies.runner import Cell
from tables import read_json

EARLY, RETRAINED = "stopped early", "retrained "  # and its seed
HIDDEN = ("zeroed", "swapped", EARLY, "of low rank", "below the grid", "at high noise")
ORIGINS = {  # runs that hidden models are made from: a recipe and its settings
    "untouched": ("digits_finetune", "method.num_steps=1", "method.retain_lr=1e-12"),
    "stopped_early": ("digits_sfron_dual", "method.num_steps=67"),
    "sfron_dual": ("digits_sfron_dual",),
    "null_matching": ("digits_null_matching",),
}
MADE_FROM = {
    "zeroed": "untouched",
    "swapped": "untouched",
    EARLY: "stopped_early",
    "of low rank": "sfron_dual",
    "below the grid": "null_matching",
    "at high noise": "null_matching",
}
SETTINGS = ("sampling.seeds=0-99", "evaluation.protocol=seeds", "run.device=cpu")
DECISIONS = ("left", "cannot tell", "gone")


class Study:
    """Where the runs are and how `dualoptim` is called for them; a toy study is tiny and in this process."""

    def __init__(self, runs: Path, probes: Sequence[str], recipes: Path | None = None) -> None:
        self.probes, self.budget = probes, () if recipes is None else toy.AUDIT
        tiny = () if recipes is None else toy.overrides(recipes)
        self.table = Table("digits", runs, (*SETTINGS, *tiny), 1, here=recipes is not None)

    def cell(self, kind: str, class_name: str) -> Cell:
        """The run that a model is, or is made from."""
        if kind not in MADE_FROM:
            return self.table.cell("retrain", class_name, int(kind.removeprefix(RETRAINED)))
        recipe, *settings = ORIGINS[MADE_FROM[kind]]
        return Cell(MADE_FROM[kind], recipe, class_name, 0, (*self.table.overrides, *settings))

    def folder(self, kind: str, class_name: str) -> Path:
        run = self.table.folder(self.cell(kind, class_name))
        return run.with_name(f"{run.name}-{kind.replace(' ', '-')}") if kind in PLANTED else run

    def plant(self, kind: str, class_name: str) -> None:
        """Changes the model of a copy of the run and scores it; the folder has its name once all is done."""
        run, folder = self.table.folder(self.cell(kind, class_name)), self.folder(kind, class_name)
        if folder.exists() and recipe_of(folder) == recipe_of(run):
            return
        part = folder.with_name(f".{folder.name}")
        for old in (folder, part):
            shutil.rmtree(old, ignore_errors=True)
        shutil.copytree(run, part)
        replace_model(part, PLANTED[kind])
        self.table.call(part, "evaluate")
        part.rename(folder)

    def audit(self, class_name: str, kind: str, controls: Sequence[int]) -> list[dict[str, Any]]:
        """What the audit decides about a run beside any two or more of these controls."""
        from dualoptim_diffusion.audit.verdict import attacks, excesses, headline

        folder = self.folder(kind, class_name)
        given = [word for i in controls for word in ("--control", str(self.folder(f"{RETRAINED}{i}", class_name)))]
        named = [word for probe in self.probes for word in ("--probe", probe)]
        self.table.call(folder, "audit", *self.budget, *named, *given)
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


def replace_model(run: Path, change: Change) -> None:
    """Changes the run's model, and takes away what was drawn and scored with the one before."""
    from dualoptim_diffusion.files.json_files import write_json
    from dualoptim_diffusion.files.run_folder import RunFolder
    from dualoptim_diffusion.models.loading import load_model
    from dualoptim_diffusion.runs.finished import open_run
    from dualoptim_diffusion.runs.models import open_base_model

    experiment = open_run(run)
    model, (original, _) = load_model(run / "model"), open_base_model(experiment)
    change(experiment, model, original)
    model.save(run / "model")
    shutil.rmtree(run / "samples")
    folder = RunFolder(run)  # which would refuse a model that it does not name
    write_json(folder.provenance, folder.read_provenance() | {"model_files": folder.model_files_sha256()})
    folder.results.unlink()


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

    retrained = {f"{RETRAINED}{seed}": [other for other in seeds if other != seed] for seed in seeds}
    beside = retrained | {kind: list(seeds) for kind in hidden}  # the controls of each kind
    complete(study.table, [study.cell(kind, name) for name, kind in product(classes, beside)], jobs, "forgetting")
    for name, kind in product(classes, hidden):  # in this process, whose random numbers no other run may draw
        if kind in PLANTED:
            study.plant(kind, name)

    def audits(place: tuple[str, str]) -> list[dict[str, Any]]:
        return study.audit(*place, beside[place[1]])

    places = [*product(classes, retrained), *product(classes, hidden)]
    with ThreadPoolExecutor(jobs) as pool:
        # the toy runs in this process, whose signals only its main thread can handle
        made = map(audits, places) if jobs == 1 else pool.map(audits, places)
        found = [part for parts in tqdm(made, total=len(places), desc="auditing", unit="run") for part in parts]
    command = command_line(__file__, words)
    text = tabulate(found, command)
    tables.write(arguments.out / "_".join(["audit_errors", *probes]), {"command": command, "audits": found}, text)
    print(text)


if __name__ == "__main__":
    main()
