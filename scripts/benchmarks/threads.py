"""How should idle threads wait, on a machine that does other work too? Measures a forgetting step of the demo's U-Net
under several settings of OpenMP, alone and beside a process that keeps one core busy. A small network is made of many
short parallel regions. By default a thread that has finished its part spins until the next region begins, which takes
the core from whoever could use it; with OMP_WAIT_POLICY=passive it sleeps. Each measurement is a process of its own,
and the settings take turns, so that a change of load meets all alike. Ratios are to the default alone. Writes
threads_cpu.json and .md.

    python scripts/benchmarks/threads.py
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
import tables
from benchmarks import setup
from command import parse, parser
from machine import timed, where

SETTINGS: dict[str, dict[str, str]] = {
    "default": {},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "spinning 10,000 times": {"GOMP_SPINCOUNT": "10000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
ROUNDS, STEPS = 5, 10
DEMO_UNET = {
    "size": 8, "width": 32, "multipliers": (1, 2), "layers_per_block": 1, "attention_resolutions": (),
    "mid_attention": False, "dropout": 0.0, "norm_groups": 8,
}  # fmt: skip
BATCH = 64
CLEARED = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")
Found = dict[str, Any]


def measure(toy: bool) -> dict[str, float]:
    """Median seconds of a step in this process, alone and beside a busy process."""
    accelerator = setup.make_accelerator()
    torch.manual_seed(0)
    model = setup.unet_model(accelerator.device, **(setup.TOY_UNET if toy else DEMO_UNET))
    model.prepare(accelerator)
    model.network.train()
    images = torch.randint(256, (200, 3, 8, 8), dtype=torch.uint8)
    sets = [(images, torch.full((len(images),), label)) for label in (0, 1)]
    mask = setup.smaller_forms(setup.random_mask(model.network, 0.1))
    pair = setup.optimizers(model.network, mask, "adamw", 1e-6)
    step = setup.sfron(model, accelerator, setup.sources(model, accelerator, sets, 4 if toy else BATCH), mask, pair)
    found = {}
    for name in ("alone", "busy"):
        other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if name == "busy" else None
        try:
            found[name] = timed(lambda: step(1), repeats=2 if toy else STEPS)
        finally:
            if other is not None:
                other.kill()
                other.wait()
    return found


def in_a_process(setting: dict[str, str], toy: bool) -> dict[str, float]:
    """The same under a setting."""
    environment = {key: value for key, value in os.environ.items() if key not in CLEARED} | setting
    command = [sys.executable, str(Path(__file__).resolve()), "--measure", *(["--scale", "toy"] if toy else [])]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def tabulate(content: Found) -> str:
    rows, body = content["rows"], []
    base = median(rows["default"]["alone"])
    for name, times in rows.items():
        alone, busy = median(times["alone"]), median(times["busy"])
        body.append([name, f"{alone:.3f}", f"{alone / base:.2f}", f"{busy:.3f}", f"{busy / base:.2f}"])
    head = ["threads", "step alone, s", "of the default's", "step beside a busy process, s", "of the default's alone"]
    lines = [
        "# Threads of a small network", "", f"`{content['command']}`", "",
        f"{content['device']}, torch {content['torch']}. SFRon on the demo's U-Net, batch {BATCH}, one forget and one "
        f"retain step; medians of {len(rows['default']['alone'])} processes in turns, {STEPS} steps each.", "",
        *tables.table(head, body),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main(words: Sequence[str] | None = None) -> None:
    options = parser(__file__, __doc__)
    options.add_argument("--measure", action="store_true", help="print one measurement, under the present setting")
    if words is None and "--measure" in sys.argv:
        print(json.dumps(measure("toy" in sys.argv)))
        return
    arguments = parse(options, words)
    settings = dict(list(SETTINGS.items())[:2]) if arguments.toy else SETTINGS
    rows: dict[str, dict[str, list[float]]] = {name: {"alone": [], "busy": []} for name in settings}
    rounds = 1 if arguments.toy else ROUNDS
    for name in tqdm(list(settings) * rounds, unit="process"):
        for load, seconds in in_a_process(settings[name], arguments.toy).items():
            rows[name][load].append(seconds)
    content = {"command": "python scripts/benchmarks/threads.py", **where(), "rows": rows}
    text = tabulate(content)
    tables.write(arguments.out / "threads_cpu", content, text)
    print(text)


if __name__ == "__main__":
    main()
