"""The paper's table of image generation: every method on every class, each cell a run, published figures beside.

    python scripts/reproduce_table2.py                                  # CIFAR-10: nine methods, five classes
    python scripts/reproduce_table2.py --recipe-family digits --quick   # one class, few images; minutes on a CPU
    python scripts/reproduce_table2.py model.path=base --methods sfron_shared sfron_dual --seeds 0 1 2

Every cell is a run folder below --runs. Finished cells are skipped and interrupted ones go on, so the command can be
stopped and given again. The table is written after each cell, as JSON and Markdown.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from cells import row

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


@dataclass(frozen=True)
class Cell:
    method: str
    class_name: str
    seed: int


class Table:
    """The cells of one family of recipes and what their runs reached."""

    def __init__(self, family: str, runs: Path, out: Path, overrides: Sequence[str], threads: int | None) -> None:
        self.family, self.runs, self.out = family, runs, out
        self.overrides, self.threads = list(overrides), threads
        self.results: dict[Cell, dict[str, Any]] = {}
        self._running: set[subprocess.Popen[bytes]] = set()

    def folder(self, cell: Cell) -> Path:
        return self.runs / self.family / cell.method / f"{cell.class_name}-seed{cell.seed}"

    def words(self, cell: Cell) -> list[str]:
        return [*self.overrides, f"run.seed={cell.seed}"]

    def finished(self, cell: Cell) -> bool:
        """Whether the cell's folder holds results of this very recipe and all that a run writes after them."""
        folder = self.folder(cell)
        if not all((folder / name).is_file() for name in ("results.json", "model/README.md")):
            return False
        from dualoptim_diffusion.runs.experiment import open_experiment

        made_by = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))["recipe_sha256"]
        now = open_experiment(f"{self.family}_{cell.method}", [cell.class_name], self.words(cell))
        return made_by == now.recipe_sha256

    def run(self, cell: Cell) -> tuple[Cell, str | None]:
        """Runs a cell, or what is left of it; what went wrong, if anything."""
        folder, recipe = self.folder(cell), f"{self.family}_{cell.method}"
        words = [recipe, *self.words(cell), "--class", cell.class_name, "--out", str(folder), "--resume"]
        folder.parent.mkdir(parents=True, exist_ok=True)
        limits = {} if self.threads is None else {"OMP_NUM_THREADS": str(self.threads)}
        log = folder.with_suffix(".log")
        with log.open("w") as stream:
            command = [sys.executable, "-m", "dualoptim_diffusion", "forget", *words]
            process = subprocess.Popen(command, stdout=stream, stderr=stream, env=os.environ | limits)
            self._running.add(process)
            failed = process.wait() != 0
            self._running.discard(process)
        return cell, f"{recipe} {cell.class_name} seed {cell.seed} failed; see {log}" if failed else None

    def stop(self) -> None:
        """Lets the runs under way save and end; not by SIGINT, of which a terminal has sent them one already."""
        for process in tuple(self._running):
            process.terminate()

    def take(self, cell: Cell) -> None:
        """Reads what the cell's run reached."""
        self.results[cell] = json.loads((self.folder(cell) / "results.json").read_text(encoding="utf-8"))

    def markdown(self, methods: Sequence[str], classes: Sequence[str], command: str) -> str:
        """A row a method, a column a class: FA in % / distance; standard deviations over classes and seeds."""
        name = next((r["unlearned"]["frechet"]["name"] for r in self.results.values()), "FID")
        head = ["", *classes, "mean FA", f"mean {name}", "RA", f"{name} / original's", "published, CIFAR-10: FA / FID"]
        lines = [f"# {self.family}: FA in % / {name}", "", f"`{command}`", "", row(head), row(["---"] * len(head))]
        for method in methods:
            cells = {c: r for c, r in self.results.items() if c.method == method}
            if not cells:
                lines.append(row([METHODS[method], *[""] * (len(head) - 2), PUBLISHED.get(method, "")]))
                continue
            each = [[r for c, r in cells.items() if c.class_name == class_name] for class_name in classes]
            lines.append(
                row(
                    [
                        METHODS[method],
                        *(
                            f"{spread([100 * fa(r) for r in part])} / {spread([fd(r) for r in part])}" if part else ""
                            for part in each
                        ),
                        spread([100 * fa(r) for r in cells.values()]),
                        spread([fd(r) for r in cells.values()]),
                        spread([100 * r["unlearned"]["RA"]["value"] for r in cells.values()]),
                        spread([fd(r) / r["original"]["frechet"]["value"] for r in cells.values()]),
                        PUBLISHED.get(method, ""),
                    ]
                )
            )
        if every := list(self.results.values()):
            before, protocol = [result["original"] for result in every], every[0]["protocol"]["name"]
            fas, ras = ([100 * r[key]["value"] for r in before] for key in ("FA", "RA"))
            lines += [
                "",
                f"FA of {before[0]['FA']['n']} images, RA of {before[0]['RA']['n']}, protocol `{protocol}`; original: "
                f"FA {spread(fas)}, RA {spread(ras)}, {name} {spread([r['frechet']['value'] for r in before])}.",
                CAUTION,
            ]
        return "\n".join(lines) + "\n"

    def save(self, methods: Sequence[str], classes: Sequence[str], stem: str, command: str) -> None:
        """Writes what is known so far."""
        self.out.mkdir(parents=True, exist_ok=True)
        cells = [
            {"method": c.method, "class": c.class_name, "seed": c.seed, "results": r} for c, r in self.results.items()
        ]
        (self.out / f"{stem}.json").write_text(json.dumps({"command": command, "cells": cells}, indent=1) + "\n")
        (self.out / f"{stem}.md").write_text(self.markdown(methods, classes, command), encoding="utf-8")


def fa(results: dict[str, Any]) -> float:
    return results["unlearned"]["FA"]["value"]


def fd(results: dict[str, Any]) -> float:
    return results["unlearned"]["frechet"]["value"]


def spread(values: Sequence[float]) -> str:
    return f"{mean(values):.2f}" + (f"±{stdev(values):.2f}" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="section.key=value for every cell")
    parser.add_argument("--recipe-family", choices=CLASSES, default="cifar10")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD")
    parser.add_argument("--classes", nargs="+", metavar="CLASS", help="[default: five of the data]")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="SEED")
    parser.add_argument("--quick", action="store_true", help="one class, 100 images a label")
    parser.add_argument("--jobs", type=int, help="runs side by side [default: one a core, one on a GPU]")
    parser.add_argument("--runs", type=Path, default=Path("runs/table2"))
    parser.add_argument("--out", type=Path, default=Path("scripts/benchmarks/results"))
    arguments = parser.parse_args()
    import torch
    from tqdm import tqdm

    jobs = arguments.jobs or (1 if torch.cuda.is_available() else os.cpu_count() or 1)
    family, quick = arguments.recipe_family, arguments.quick
    classes = arguments.classes or CLASSES[family][: 1 if quick else None]
    stem = f"table2_{family}{'_quick' if quick else ''}"
    overrides = [*(QUICK if quick else ()), *arguments.overrides]
    command = shlex.join(["python", *sys.argv])
    table = Table(
        family, arguments.runs / ("quick" if quick else "full"), arguments.out, overrides, 1 if jobs > 1 else None
    )
    cells = [Cell(m, c, s) for s in arguments.seeds for c in classes for m in arguments.methods]
    waiting, problems = [cell for cell in cells if not table.finished(cell)], []
    for cell in cells:
        if cell not in waiting:
            table.take(cell)
    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(cells), initial=len(cells) - len(waiting), unit="run") as bar:
        try:
            for done in as_completed([pool.submit(table.run, cell) for cell in waiting]):
                cell, problem = done.result()
                if problem is None:
                    table.take(cell)
                    table.save(arguments.methods, classes, stem, command)
                else:
                    problems.append(problem)
                bar.update()
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            table.stop()
            bar.close()
            print("Stopped; the same command goes on from here.", file=sys.stderr)
            sys.exit(STOPPED)
    table.save(arguments.methods, classes, stem, command)
    print(table.markdown(arguments.methods, classes, command))
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
