"""Is the answer the same on 1, 2 and 4 processes, and how much sooner is it there? Runs SFRon with two Adams, the
global batch of 16 shared by the processes: 20 outer steps of a small U-Net without dropout in float64 and in
float32, weights compared with those of one process. Then images are drawn and compared byte for byte. Every process
has one thread, and runs on a GPU of its own where there are GPUs, else on the CPU over gloo. Efficiency of sampling
is the time of one process over N times that of N, where there are N cores or GPUs for them. Writes
processes_DEVICE.json and .md.

    python scripts/benchmarks/processes.py
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
from benchmarks import setup
from benchmarks.measuring import cast, write_results
from command import parse, parser
from machine import where
from tables import table

COUNTS = (1, 2, 4)
STEPS, BATCH = 20, 16
NUM_CLASSES, SIZE = 4, 16
IMAGES, DRAWN_AT_ONCE = 32, 8  # of each class
UNEQUAL = 1e-9, 1e-4  # relative norms that float64 and float32 must stay below


def train(dtype: torch.dtype, steps: int) -> tuple[Any, Any]:
    """This process's part of the steps; the accelerator and the model after them."""
    accelerator = setup.make_accelerator()
    torch.manual_seed(0)
    parts = setup.SMALL_UNET | {"attention_resolutions": (8,), "dropout": 0.0}
    model = setup.unet_model(accelerator.device, SIZE, NUM_CLASSES, **parts)
    model.network.to(dtype)
    model.prepare(accelerator)
    model.network.train()
    source = torch.Generator().manual_seed(1)
    images = torch.randint(256, (64, 3, SIZE, SIZE), dtype=torch.uint8, generator=source)
    labels = torch.arange(len(images)) % NUM_CLASSES
    mask = setup.supports(setup.random_mask(model.network, 0.1, source))
    sets = [(images[part], labels[part]) for part in (labels == 0, labels != 0)]
    batches = [cast(batches, dtype) for batches in setup.sources(model, accelerator, sets, BATCH)]
    pair = setup.optimizers(model.network, mask, "adam", 1e-4)
    setup.sfron(model, accelerator, batches, mask, pair)(steps)
    return accelerator, model


def work(folder: Path, toy: bool) -> None:
    """What every process runs."""
    from dualoptim_diffusion.core.config import SamplingConfig
    from dualoptim_diffusion.drawing.samples import draw_samples

    torch.set_num_threads(1)
    for dtype in (torch.float64, torch.float32):
        accelerator, model = train(dtype, 1 if toy else STEPS)
        if accelerator.is_main_process:
            weights = {name: value.cpu() for name, value in model.network.state_dict().items()}
            save_file(weights, folder / f"{str(dtype).removeprefix('torch.')}.safetensors")
    torch.manual_seed(0)  # the images are drawn from one and the same model, whatever training rounded
    for parameter in model.network.parameters():
        parameter.data = torch.randn(parameter.shape).to(parameter) * 0.02
    settings = SamplingConfig(num_inference_steps=2 if toy else 10, guidance_scale=2.0, batch_size=DRAWN_AT_ONCE)
    seeds = dict.fromkeys(range(NUM_CLASSES), range(DRAWN_AT_ONCE if toy else IMAGES))
    draw_samples(
        folder / "warm", model, "", {0: range(DRAWN_AT_ONCE * accelerator.num_processes)}, settings, accelerator
    )
    start = perf_counter()
    draw_samples(folder / "samples", model, "", seeds, settings, accelerator)
    if accelerator.is_main_process:
        seconds, found = perf_counter() - start, accelerator.num_processes
        (folder / "seconds.json").write_text(json.dumps({"seconds": seconds, "processes": found}))


def launch(count: int, folder: Path, toy: bool) -> None:
    """Runs `work` in so many processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)] if count > 1 else []
    command = [sys.executable, *launcher, str(Path(__file__).resolve()), "--work-in", str(folder)]
    command += ["--scale", "toy"] if toy else []
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")


def difference(ours: Path, one: Path) -> float:
    """Norm of the difference of all weights over the norm of one process's."""
    a, b = load_file(ours), load_file(one)
    total = sum(float((a[name] - b[name]).double().square().sum()) for name in b)
    return (total / sum(float(b[name].double().square().sum()) for name in b)) ** 0.5


def compare(folder: Path, count: int) -> dict[str, Any]:
    """The figures of `count` processes beside those of one."""
    ours, one = folder / str(count), folder / "1"
    shards = sorted(path.name for path in (one / "samples").glob("*.safetensors"))
    equal = [(ours / "samples" / name).read_bytes() == (one / "samples" / name).read_bytes() for name in shards]
    timed, alone = (json.loads((part / "seconds.json").read_text()) for part in (ours, one))
    if timed["processes"] != count:
        raise SystemExit(f"{count} processes were launched, {timed['processes']} met.")
    places = torch.cuda.device_count() if torch.cuda.is_available() else len(os.sched_getaffinity(0))
    return {
        "processes": count,
        "float64": difference(ours / "float64.safetensors", one / "float64.safetensors"),
        "float32": difference(ours / "float32.safetensors", one / "float32.safetensors"),
        "shards": len(shards),
        "shards_equal": sum(equal),
        "sampling_seconds": timed["seconds"],
        "sampling_efficiency": alone["seconds"] / timed["seconds"] / count if count <= places else None,
    }


def measure(counts: tuple[int, ...], folder: Path, toy: bool = False) -> list[dict[str, Any]]:
    """All counts in turn, each beside one process."""
    for count in counts:
        (folder / str(count)).mkdir(parents=True)
        launch(count, folder / str(count), toy)
    return [compare(folder, count) for count in counts]


def tabulate(content: dict[str, Any]) -> str:
    body = []
    for row in content["rows"]:
        share = row["sampling_efficiency"]
        efficiency = "more processes than cores" if share is None else f"{share:.0%}"
        equal = f"{row['shards_equal']} of {row['shards']}"
        differences = [f"{row[precision]:.1e}" for precision in ("float64", "float32")]
        body.append([row["processes"], *differences, equal, f"{row['sampling_seconds']:.1f}", efficiency])
    head = ["processes", "float64", "float32", "equal sample shards", "sampling, s", "efficiency of sampling"]
    lines = [
        "# The same on one process and on several", "", f"`{content['command']}`", "",
        f"{content['device']}, torch {content['torch']}; one thread a process. {STEPS} outer steps of SFRon with two "
        f"Adams, global batch {BATCH}; then {IMAGES * NUM_CLASSES} guided images. Differences are relative norms of "
        "all weights, against one process.", "", *table(head, body),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main(words: Sequence[str] | None = None) -> None:
    options = parser(__file__, __doc__)
    options.add_argument("--work-in", type=Path, help=argparse.SUPPRESS)
    if words is None and "--work-in" in sys.argv:  # one of the processes
        own = options.parse_args()
        work(own.work_in, own.scale == "toy")
        return
    arguments = parse(options, words)
    gpus = torch.cuda.device_count()
    counts = (1, 2) if arguments.toy else COUNTS
    counts = tuple(count for count in counts if count <= gpus) if gpus else counts
    with TemporaryDirectory() as folder:
        rows = measure(counts, Path(folder), arguments.toy)
    content = {"command": "python scripts/benchmarks/processes.py", **where(), "rows": rows}
    write_results(arguments.out, "processes", content, tabulate)
    for row in rows:
        if row["float64"] > UNEQUAL[0] or row["float32"] > UNEQUAL[1] or row["shards_equal"] != row["shards"]:
            raise SystemExit(f"{row['processes']} processes give another answer than one.")


if __name__ == "__main__":
    main()
