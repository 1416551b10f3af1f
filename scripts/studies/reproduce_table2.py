"""Fills the paper's table of image generation: every method on every class, one run for each cell, with the published
figures beside. Every run has a folder below --runs. Finished cells are skipped and interrupted ones continue, so the
command can be stopped and run again. The table is written after each cell, as JSON and Markdown.

    python scripts/studies/reproduce_table2.py                                 # CIFAR-10: nine methods, five classes
    python scripts/studies/reproduce_table2.py --recipe-family digits --quick  # one class, few images; minutes on a CPU
    python scripts/studies/reproduce_table2.py model.path=base --methods sfron_shared sfron_dual --seeds 0 1 2
"""

import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from pathlib import Path
from typing import Any

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
import tables
import toy
from command import command_line, dualoptim, parse, parser
from studies.runner import Cell
from tables import read_json

METHODS = {
    "sa": "SA",
    "salun_joint": "SalUn",
    "salun_dual": "SalUn + DualOptim",
    "sfron_shared": "SFRon",
    "sfron_dual": "SFRon + DualOptim",
    "null_matching": "null matching",
    "gradient_ascent": "gradient ascent",
    "finetune": "finetune",
    "retrain": "retrain",
}
CLASSES = {
    "cifar10": ("automobile", "cat", "dog", "horse", "truck"),
    "digits": ("three", "five", "eight", "four", "seven"),
}
PUBLISHED = {  # FA % / FID of CIFAR-10 in the paper, means with standard deviations over the five classes
    "sa": "4.56±5.86 / 23.25±3.03",
    "salun_joint": "0.60±0.49 / 20.57±0.37",
    "salun_dual": "0.00±0.00 / 20.11±0.19",
    "sfron_shared": "1.52±2.94 / 19.71±0.91",
    "sfron_dual": "0.24±0.39 / 18.77±0.85",
}
CAUTION = (
    "Published FIDs are taken on images stretched to full contrast against a small reference: they compare with the "
    "protocol `published-cifar10` alone, and with no figure on other data."
)
STOPPED = 75  # exit status, as of dualoptim itself
QUICK = ("sampling.seeds=0-99", "evaluation.protocol=seeds")


class Table:
    """The cells of one family of recipes and what their runs reached; `here` runs them in this process."""

    def __init__(
        self, family: str, runs: Path, overrides: Sequence[str], threads: int | None = None, here: bool = False
    ) -> None:
        self.family, self.runs, self.overrides = family, runs, tuple(overrides)
        self.threads, self.here = threads, here
        self.results: dict[Cell, dict[str, Any]] = {}
        self._running: set[subprocess.Popen[bytes]] = set()

    def cell(self, method: str, class_name: str, seed: int) -> Cell:
        return Cell(method, f"{self.family}_{method}", class_name, seed, self.overrides)

    def folder(self, cell: Cell) -> Path:
        return self.runs / self.family / cell.group / f"{cell.class_name}-seed{cell.seed}"

    def finished(self, cell: Cell) -> bool:
        """Whether the cell's folder holds results of this very recipe and all that a run writes after them."""
        folder = self.folder(cell)
        if not all((folder / name).is_file() for name in ("results.json", "model/README.md")):
            return False
        from dualoptim_diffusion.runs.experiment import open_experiment

        now = open_experiment(cell.recipe, [cell.class_name], [*cell.overrides, f"run.seed={cell.seed}"])
        return recipe_of(folder) == now.recipe_sha256

    def run(self, cell: Cell) -> tuple[Cell, str | None]:
        """Runs a cell, or what is left of it; what went wrong, if anything."""
        folder = self.folder(cell)
        folder.parent.mkdir(parents=True, exist_ok=True)
        words = ("forget", *cell.words, "--out", str(folder), "--resume")
        log = folder.with_suffix(".log")
        with log.open("w", encoding="utf-8") as stream:
            failed = dualoptim(*words, log=stream, here=True) if self.here else self._start(words, stream)
        return cell, f"{cell.recipe} {cell.class_name} seed {cell.seed} failed; see {log}" if failed else None

    def call(self, folder: Path, verb: str, *words: str) -> None:
        """Calls a verb of `dualoptim` on a finished run; its log lies beside the run.

        Raises:
            RuntimeError: if it fails.
        """
        with folder.with_suffix(f".{verb}.log").open("w", encoding="utf-8") as log:
            if code := dualoptim(verb, str(folder), *words, log=log, here=self.here, threads=self.threads):
                raise RuntimeError(f"dualoptim {verb} {folder} ended with {code}; see {log.name}")

    def _start(self, words: Sequence[str], log: Any) -> int:
        """Exit code of a process that `stop` can end."""
        limits = {} if self.threads is None else {"OMP_NUM_THREADS": str(self.threads)}
        command = [sys.executable, "-m", "dualoptim_diffusion", *words]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | limits)
        self._running.add(process)
        code = process.wait()
        self._running.discard(process)
        return code

    def stop(self) -> None:
        """Lets the runs under way save and end; not by SIGINT, of which a terminal has sent them one already."""
        for process in tuple(self._running):
            process.terminate()

    def take(self, cell: Cell) -> None:
        """Reads what the cell's run reached."""
        self.results[cell] = read_json(self.folder(cell) / "results.json")

    def save(self, methods: Sequence[str], classes: Sequence[str], stem: Path, command: str) -> None:
        """Writes what is known so far."""
        cells = [
            {"method": c.group, "class": c.class_name, "seed": c.seed, "results": r} for c, r in self.results.items()
        ]
        text = tabulate(self.family, cells, methods, classes, command)
        tables.write(stem, {"command": command, "cells": cells}, text)


def recipe_of(run: Path) -> str:
    """The hash of the recipe that made it."""
    return str(read_json(run / "provenance.json")["recipe_sha256"])


def tabulate(
    family: str, cells: Sequence[dict[str, Any]], methods: Sequence[str], classes: Sequence[str], command: str
) -> str:
    """A row a method, a column a class: FA in % / distance; standard deviations over classes and seeds."""
    every = [cell["results"] for cell in cells]
    name = every[0]["unlearned"]["frechet"]["name"] if every else "FID"
    head = ["", *classes, "mean FA", f"mean {name}", "RA", f"{name} / original's", "published, CIFAR-10: FA / FID"]
    body = []
    for method in methods:
        own = [cell for cell in cells if cell["method"] == method]
        found, published = [cell["results"] for cell in own], PUBLISHED.get(method, "")
        if not own:
            body.append([METHODS[method], *[""] * (len(head) - 2), published])
            continue
        each = [[cell["results"] for cell in own if cell["class"] == class_name] for class_name in classes]
        body.append(
            [
                METHODS[method],
                *(f"{spread(map(fa, part))} / {spread(map(fd, part))}" if part else "" for part in each),
                spread(map(fa, found)),
                spread(map(fd, found)),
                spread(100 * r["unlearned"]["RA"]["value"] for r in found),
                spread(fd(r) / r["original"]["frechet"]["value"] for r in found),
                published,
            ]
        )
    lines = [f"# {family}: FA in % / {name}", "", f"`{command}`", "", *tables.table(head, body)]
    if every:
        before, protocol = [result["original"] for result in every], every[0]["protocol"]["name"]
        fas, ras = ([100 * r[key]["value"] for r in before] for key in ("FA", "RA"))
        lines += [
            "",
            f"FA of {before[0]['FA']['n']} images, RA of {before[0]['RA']['n']}, protocol `{protocol}`; original: "
            f"FA {spread(fas)}, RA {spread(ras)}, {name} {spread(r['frechet']['value'] for r in before)}.",
            CAUTION,
        ]
    return "\n".join(lines) + "\n"


def fa(results: dict[str, Any]) -> float:
    return 100 * results["unlearned"]["FA"]["value"]


def fd(results: dict[str, Any]) -> float:
    return results["unlearned"]["frechet"]["value"]


def spread(values: Iterable[float]) -> str:
    """As the paper writes it."""
    return tables.spread(list(values), ".2f", "±")


def run_all(table: Table, cells: Sequence[Cell], jobs: int) -> Iterator[tuple[Cell, str | None]]:
    """Cells as they end; closed early, it lets the runs under way save and starts no others."""
    if table.here:
        yield from map(table.run, cells)
        return
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for done in as_completed([pool.submit(table.run, cell) for cell in cells]):
                yield done.result()
        except (KeyboardInterrupt, GeneratorExit):
            pool.shutdown(wait=False, cancel_futures=True)
            table.stop()
            raise


def complete(table: Table, cells: Iterable[Cell], jobs: int, title: str) -> None:
    """Runs those cells that are not finished, each once.

    Raises:
        RuntimeError: if a run fails.
    """
    waiting = [cell for cell in dict.fromkeys(cells) if not table.finished(cell)]
    with closing(run_all(table, waiting, jobs)) as ended:
        for _, problem in tqdm(ended, total=len(waiting), desc=title, unit="run"):
            if problem:
                raise RuntimeError(problem)


def arguments_of(words: Sequence[str] | None) -> Namespace:
    options = parser(__file__, __doc__)
    options.add_argument("overrides", nargs="*", help="section.key=value for every cell")
    options.add_argument("--recipe-family", choices=CLASSES, default="cifar10")
    options.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD")
    options.add_argument("--classes", nargs="+", metavar="CLASS", help="[default: five of the data]")
    options.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="SEED")
    options.add_argument("--quick", action="store_true", help="one class, 100 images a label")
    options.add_argument("--jobs", type=int, help="runs side by side [default: one a core, one on a GPU]")
    options.add_argument("--runs", type=Path, default=Path("runs/table2"), help="[default: %(default)s]")
    arguments = parse(options, words)
    if arguments.toy:
        arguments.recipe_family, arguments.quick, arguments.jobs = "digits", True, 1
        arguments.methods, arguments.seeds = ["sfron_dual"], [0]
        arguments.runs = arguments.out / "runs"
        arguments.overrides = [*toy.overrides(arguments.out / "recipes"), *arguments.overrides]
    return arguments


def main(words: Sequence[str] | None = None) -> None:
    arguments = arguments_of(words)
    import torch

    jobs = arguments.jobs or (1 if torch.cuda.is_available() else os.cpu_count() or 1)
    family, quick, methods = arguments.recipe_family, arguments.quick, arguments.methods
    classes = arguments.classes or CLASSES[family][: 1 if quick else None]
    overrides = [*(QUICK if quick else ()), *arguments.overrides]
    runs = arguments.runs / ("quick" if quick else "full")
    table = Table(family, runs, overrides, 1 if jobs > 1 else None, here=arguments.toy)
    cells = [table.cell(m, c, s) for s in arguments.seeds for c in classes for m in methods]
    waiting, problems = [cell for cell in cells if not table.finished(cell)], []
    for cell in cells:
        if cell not in waiting:
            table.take(cell)

    stem = arguments.out / f"table2_{family}{'_quick' if quick else ''}"

    def save() -> None:
        table.save(methods, classes, stem, command_line(__file__, words))

    try:
        with closing(run_all(table, waiting, jobs)) as ended:
            for cell, problem in tqdm(ended, total=len(waiting), unit="run"):
                if problem is None:
                    table.take(cell)
                    save()
                else:
                    problems.append(problem)
    except KeyboardInterrupt:
        print("Stopped; run the command again to continue.", file=sys.stderr)
        sys.exit(STOPPED)
    save()
    print(stem.with_name(f"{stem.name}.md").read_text(encoding="utf-8"))
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
