"""Which methods remove a class, and which only hide it? Forgets digits by all methods and attacks every result with all
probes at the budget `quick`. Each seed has a base model of its own. Each result is audited beside the original and two
models retrained without the class, of this seed and the next; a retrained model beside the two others, which shows what
chance alone gives. Finished runs and audits are not made again. Writes audit_study.json, .md and .png.

    python scripts/studies/audit_study.py --jobs 2
    python scripts/studies/audit_study.py --jobs 0    # table and figure of what is finished
"""

import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
import toy
from command import command_line, parse, parser
from studies.audit_study_tables import Run, draw, tabulate
from studies.reproduce_table2 import METHODS, Table, complete
from studies.runner import Cell, run_study, write_bases
from tables import read_json

SETTINGS = ("sampling.seeds=0-99", "run.device=cpu", "evaluation.protocol=seeds")
CONTROLS = 2  # of an audit
PATCH = 64  # pixels
MEASURES = {  # title: probe, trial, figure
    "membership, AUC": ("membership", "loss", "AUC"),
    "linear probe, AUC": ("features", "linear probe", "AUC"),
    "CKA to retrained, the class": ("features", "likeness", "forgotten"),
    "CKA to retrained, others": ("features", "likeness", "retained"),
}


def audited(table: Table, seeds: Sequence[int], overrides: Sequence[str], cell: Cell) -> Run:
    """What the study keeps of one run and its audit; its controls are there."""
    from dualoptim_diffusion.core.budget import PROBE_NAMES

    if not table.finished(cell) and (problem := table.run(cell)[1]):
        raise RuntimeError(problem)
    folder = table.folder(cell)
    words = [f"audit.auxiliary={table.runs / 'patches'}", *overrides]
    words += [word for name in PROBE_NAMES for word in ("--probe", name)]
    place = seeds.index(cell.seed) + (cell.group == "retrain")
    for i in range(CONTROLS):
        control = table.cell("retrain", cell.class_name, seeds[(place + i) % len(seeds)])
        words += ["--control", str(table.folder(control))]
    table.call(folder, "audit", *words)
    return asdict(cell) | kept(read_json(folder / "results.json"), read_json(folder / "audit.json"))


def write_patches(folder: Path) -> None:
    """120 patches of two photographs, a temple and a flower, as a folder of images: data that know no digit."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    (folder / "train" / "patch").mkdir(parents=True, exist_ok=True)
    for i, photograph in enumerate(load_sample_images().images):
        for k in range(60):
            y, x = PATCH * (k // 10), PATCH * (k % 10)
            patch = Image.fromarray(photograph[y : y + PATCH, x : x + PATCH])
            patch.save(folder / "train" / "patch" / f"{i}_{k:02}.png")


def kept(results: Mapping[str, Any], audit: Mapping[str, Any]) -> Run:
    """The figures of a run; of each attack its surest point, that of the largest lower end of the excess."""
    from dualoptim_diffusion.files.audit_file import surest

    before, after = results["original"], results["unlearned"]
    points: dict[str, list[Mapping[str, Any]]] = {}
    for point in audit["excess"]:
        points.setdefault(f"{point['probe']}: {point['attack']}", []).append(point)
    attacks = {name: surest(of) for name, of in points.items()}
    probes = audit["probes"]
    relearned = probes["relearn"]["trials"]["10 images of the class"]
    return {
        "FA": after["FA"]["value"],
        "RA": after["RA"]["value"],
        "KID change": after["kid"]["value"] - before["kid"]["value"],
        "headline": audit["headline"],
        "attacks": {
            name: {key: point[key]["value"] for key in ("FA", "control")}
            | {"at": point["at"], "excess": point["difference"]}
            for name, point in attacks.items()
        },
        "relearned": {role: relearned["outcomes"][role] for role in ("unlearned", "control")},
        "steps_to_half": {role: relearned["steps_to_half"][role] for role in ("unlearned", "control")},
        "measures": {
            title: {role: probes[probe]["trials"][trial]["outcomes"][role][figure] for role in ("unlearned", "control")}
            for title, (probe, trial, figure) in MEASURES.items()
            if trial in probes.get(probe, {"trials": ()})["trials"]
        },
        "models": audit["models"],
    }


def arguments_of(words: Sequence[str] | None) -> Namespace:
    options = parser(__file__, __doc__)
    options.add_argument("overrides", nargs="*", help="section.key=value for every run")
    options.add_argument("--methods", nargs="+", default=list(METHODS), metavar="METHOD", help="recipes digits_METHOD")
    options.add_argument("--classes", nargs="+", default=["three", "five", "eight"], metavar="CLASS")
    options.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="SEED")
    options.add_argument("--jobs", type=int, default=2, help="runs side by side, one thread each; 0: only the table")
    options.add_argument("--runs", type=Path, default=Path("runs/audit_study"), help="[default: %(default)s]")
    arguments = parse(options, words)
    if len(arguments.seeds) < 3:
        options.error("the study needs three seeds or more: retrained models are controls of each other")
    arguments.overrides = [*SETTINGS, *arguments.overrides]
    if arguments.toy:
        arguments.methods, arguments.classes, arguments.seeds, arguments.jobs = ["retrain"], ["three"], [0, 1, 2], 1
        arguments.runs = arguments.out / "runs"
        arguments.overrides += toy.overrides(arguments.out / "recipes")
    return arguments


def study(arguments: Namespace, out: Path, command: str) -> list[Run]:
    """Makes all runs, controls first, and audits them; `out` (JSON) holds what is finished."""
    jobs, seeds = arguments.jobs, arguments.seeds
    table = Table("digits", arguments.runs, arguments.overrides, 1, here=arguments.toy)
    bases = {} if arguments.toy else _bases(arguments)
    # Neighbours differ in their class: jobs side by side do not make the trials of the same controls.
    cells = [_on(bases, table.cell(m, c, s)) for s in seeds for m in arguments.methods for c in arguments.classes]
    if jobs:
        write_patches(table.runs / "patches")
        complete(table, [table.cell("retrain", c, s) for s in seeds for c in arguments.classes], jobs, "retraining")
    work: Callable[[Cell], Run] = partial(audited, table, seeds, toy.AUDIT if arguments.toy else ())
    about = {"command": command, "settings": arguments.overrides}
    return run_study(cells, out, about, jobs, work, brief=_told)


def _told(run: Run) -> str:
    return f"{run['group']} {run['class_name']} seed {run['seed']}: {run['headline']['decision']}"


def _bases(arguments: Namespace) -> dict[int, str]:
    """Of each seed the recipe of its base model; seed 0 is the recipes' own."""
    seeds = [seed for seed in arguments.seeds if seed]
    return dict(zip(seeds, write_bases(arguments.runs / "bases", seeds), strict=True))


def _on(bases: Mapping[int, str], cell: Cell) -> Cell:
    """The cell on its seed's base model; a retrained model has none."""
    if cell.group == "retrain" or cell.seed not in bases:
        return cell
    return replace(cell, overrides=(*cell.overrides, f"model.pretrain={bases[cell.seed]}"))


def main(words: Sequence[str] | None = None) -> None:
    arguments = arguments_of(words)
    stem, command = arguments.out / "audit_study", command_line(__file__, words)
    found = study(arguments, stem.with_suffix(".json"), command)
    if not found:
        sys.exit(f"No run of {stem.with_suffix('.json')} is finished.")
    text = tabulate(found, command)
    stem.with_suffix(".md").write_text(text, encoding="utf-8")
    draw(found, stem.with_suffix(".png"))
    print(text)


if __name__ == "__main__":
    main()
