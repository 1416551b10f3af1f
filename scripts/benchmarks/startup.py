"""How long do short commands take? Times whole processes, most of whose time goes into loading libraries: help, class
names, a dry run, the report and grid of a finished run, and a forgetting run up to its first step, with base model,
classifier and mask kept. The commands take turns, so that a change of load meets all alike; ratios are to a process
that imports torch. Writes startup_cpu.json and .md.

    python scripts/benchmarks/startup.py [--before CHECKOUT]    CHECKOUT: another version, timed beside this one
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
import tables
from command import parse, parser
from machine import where

HERE = Path(__file__).resolve().parents[2]
ROUNDS = 5
TORCH = "import torch"
COMMANDS = {
    "--help": "--help",
    "classes": "classes {folder}/forget.yaml",
    "forget --dry-run": "forget {folder}/forget.yaml --class three --dry-run",
    "report": "report {folder}/run",
    "grid": "grid {folder}/run",
    "forget, first step": "forget {folder}/forget.yaml --class three --stop-after 1 --overwrite --out {folder}/first",
}
SHORTER = {
    "pretrain": {"num_steps: 2400": "num_steps: 2"},
    "classifier": {"num_steps: 600": "num_steps: 2"},
    "forget": {
        "digits_pretrain": "pretrain", "digits_classifier": "classifier", "num_steps: 400": "num_steps: 2",
        "num_batches: 20": "num_batches: 1", "seeds: 0-499": "seeds: 0-9", "standard": "seeds, min_accuracy: 0",
    },
}  # fmt: skip
STOPPED = 75
Found = dict[str, Any]


def run(code: str, words: str, checkout: Path, folder: Path) -> float:
    """Seconds of a process of Python."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "DUALOPTIM_CACHE": str(folder / "cache")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled once, as everywhere
    command = [sys.executable, "-c", code, *words.format(folder=folder).split()]
    start = perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, STOPPED):
        raise RuntimeError(f"{words}: {done.stderr[-2000:]}")
    return perf_counter() - start


def dualoptim(words: str, checkout: Path, folder: Path) -> float:
    """Seconds of a command of a version."""
    return run("from dualoptim_diffusion.cli import main; main()", words, checkout, folder)


def prepare(folder: Path) -> None:
    """A finished run of few steps, whose base model and classifier are kept."""
    for name, changes in SHORTER.items():
        recipe = f"digits_{'sfron_dual' if name == 'forget' else name}.yaml"
        text = (HERE / "configs" / recipe).read_text()
        for long, short in changes.items():
            assert long in text
            text = text.replace(long, short)
        (folder / f"{name}.yaml").write_text(text)
    dualoptim("forget {folder}/forget.yaml --class three --out {folder}/run", HERE, folder)


def tabulate(content: Found) -> str:
    rows = content["rows"]
    versions = list(next(iter(rows.values())))
    torch_alone = median(rows[TORCH]["this version"])
    body = []
    for name, times in rows.items():
        seconds = [median(times[version]) for version in versions if version in times]
        cells = [f"{value:.2f}" for value in seconds] + [""] * (len(versions) - len(seconds))
        body.append([name, *cells, f"{seconds[-1] / torch_alone:.2f}"])
    count = len(rows[TORCH]["this version"])
    lines = [
        "# Short commands", "", f"`{content['command']}`", "",
        f"{content['device']}, torch {content['torch']}. Whole processes, medians of {count} in turns, with compiled "
        "bytecode.", "",
        *tables.table(["command", *(f"{version}, s" for version in versions), "of importing torch"], body),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main(words: Sequence[str] | None = None) -> None:
    options = parser(__file__, __doc__)
    options.add_argument("--before", type=Path, help="a checkout of another version")
    arguments = parse(options, words)
    versions = ({"before": arguments.before.resolve()} if arguments.before else {}) | {"this version": HERE}
    rows: dict[str, dict[str, list[float]]] = {name: {v: [] for v in versions} for name in (TORCH, *COMMANDS)}
    with TemporaryDirectory() as place:
        folder = Path(place)
        prepare(folder)
        for turn in tqdm(range(-1, 1 if arguments.toy else ROUNDS), unit="turn"):  # the first one compiles
            for name, times in rows.items():
                for version, checkout in versions.items():
                    alone = name == TORCH
                    seconds = run(TORCH, "", checkout, folder) if alone else dualoptim(COMMANDS[name], checkout, folder)
                    if turn >= 0:
                        times[version].append(seconds)
    content = {"command": "python scripts/benchmarks/startup.py --before CHECKOUT", **where(), "rows": rows}
    text = tabulate(content)
    tables.write(arguments.out / "startup_cpu", content, text)
    print(text)


if __name__ == "__main__":
    main()
