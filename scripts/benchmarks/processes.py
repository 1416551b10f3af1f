"""Is the answer the same on 1, 2 and 4 processes, and how much sooner is it there? Runs SFRon with two Adams, the
global batch of 16 shared by the processes: 20 outer steps of a small U-Net without dropout in float64 and in
float32, weights compared with those of one process. Then images are drawn and compared byte for byte. Every process
has one thread, and runs on a GPU of its own where there are GPUs (over NCCL, which one process is launched with too),
else on the CPU over gloo. Efficiency of sampling is the time of one process over N times that of N, where there are N
cores or GPUs for them. Writes processes_DEVICE.json and .md after each row.

    python scripts/benchmarks/processes.py
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
from benchmarks import setup
from benchmarks.measuring import Benchmark, Found, cast, parse, parser
from machine import where
from tables import table

COUNTS = (2, 4)  # beside one
GRACE = 60  # seconds that processes may go on after the time is up
STEPS, TOY_STEPS, BATCH = 20, 3, 16
NUM_CLASSES, SIZE = 4, 16
IMAGES, DRAWN_AT_ONCE = 32, 8  # of each class
UNEQUAL = 1e-9, 1e-4  # relative norms that float64 and float32 must stay below


@dataclass(frozen=True)
class Row:
    """So many processes; one alone is what the others are compared with, and needs no launcher."""

    processes: int
    launched: bool = True

    @property
    def name(self) -> str:
        return "1 process" if not self.launched else f"{self.processes} launched"

    @property
    def folder(self) -> str:
        return str(self.processes) if self.launched else "alone"


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
    torch.backends.cudnn.allow_tf32 = False  # float32 is meant
    for dtype in (torch.float64, torch.float32):
        accelerator, model = train(dtype, TOY_STEPS if toy else STEPS)
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
        backend = torch.distributed.get_backend() if torch.distributed.is_initialized() else None
        about = {"seconds": seconds, "processes": found, "backend": backend}
        (folder / "seconds.json").write_text(json.dumps(about))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def launch(row: Row, folder: Path, toy: bool, limit: float) -> None:
    """Runs `work` in so many processes, for at most so many seconds."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    launcher = [*torchrun, "--nproc-per-node", str(row.processes)] if row.launched else []
    command = [sys.executable, *launcher, str(Path(__file__).resolve()), "--work-in", str(folder)]
    command += ["--scale", "toy"] if toy else []
    on_one_machine = {"NCCL_SOCKET_IFNAME": "lo"} if torch.cuda.is_available() else {}
    environment = on_one_machine | os.environ | {"OMP_NUM_THREADS": "1"}
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            code = process.wait(min(limit, 3600))
        except subprocess.TimeoutExpired:
            raise RuntimeError("it took too long") from None
        finally:
            stop(process)
        if code:
            log.seek(0)
            said = log.read()[-3000:].rstrip()
            print(said, file=sys.stderr)
            raise RuntimeError(f"exit code {code}: {said.splitlines()[-1] if said else ''}")


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Asks first: a launcher that is killed leaves its processes behind."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def difference(ours: Path, one: Path) -> float:
    """Norm of the difference of all weights over the norm of one process's."""
    a, b = load_file(ours), load_file(one)
    total = sum(float((a[name] - b[name]).double().square().sum()) for name in b)
    return (total / sum(float(b[name].double().square().sum()) for name in b)) ** 0.5


def compare(folder: Path, row: Row) -> Found:
    """The figures of these processes beside those of one."""
    ours, one = folder / row.folder, folder / "alone"
    shards = sorted(path.name for path in (one / "samples").glob("*.safetensors"))
    equal = [(ours / "samples" / name).read_bytes() == (one / "samples" / name).read_bytes() for name in shards]
    timed, alone = (json.loads((part / "seconds.json").read_text()) for part in (ours, one))
    if timed["processes"] != row.processes:
        raise RuntimeError(f"{row.processes} processes were launched, {timed['processes']} met")
    places = torch.cuda.device_count() if torch.cuda.is_available() else len(os.sched_getaffinity(0))
    efficiency = alone["seconds"] / timed["seconds"] / row.processes
    return {
        "backend": timed["backend"],
        "float64": difference(ours / "float64.safetensors", one / "float64.safetensors"),
        "float32": difference(ours / "float32.safetensors", one / "float32.safetensors"),
        "shards": len(shards),
        "shards_equal": sum(equal),
        "sampling_seconds": timed["seconds"],
        "sampling_efficiency": efficiency if row.processes <= places else None,
    }


def measure(folder: Path, toy: bool, left: Callable[[], float], row: Row) -> Found:
    """Runs these processes and compares them with one."""
    (folder / row.folder).mkdir(parents=True)
    start = perf_counter()
    launch(row, folder / row.folder, toy, left() + GRACE)
    return {"seconds": perf_counter() - start, **compare(folder, row)}


def cells(row: Found) -> list[Any]:
    if row["seconds"] is None:
        return [row["name"], row["problem"], "", "", "", ""]
    share = row["sampling_efficiency"]
    efficiency = "more processes than cores" if share is None else f"{share:.0%}"
    equal = f"{row['shards_equal']} of {row['shards']}"
    differences = [f"{row[precision]:.1e}" for precision in ("float64", "float32")]
    name = row["name"] + (f", {row['backend']}" if row["backend"] else "")
    return [name, *differences, equal, f"{row['sampling_seconds']:.1f}", efficiency]


def tabulate(content: Found) -> str:
    head = ["processes", "float64", "float32", "equal sample shards", "sampling, s", "efficiency of sampling"]
    lines = [
        "# The same on one process and on several", "", f"`{content['command']}`", "",
        f"{content['device']}, torch {content['torch']}; one thread a process. {STEPS} outer steps of SFRon with two "
        f"Adams, global batch {BATCH}; then {IMAGES * NUM_CLASSES} guided images. Differences are relative norms of "
        "all weights, against one process.", "", *table(head, [cells(row) for row in content["rows"]]),
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
    counts = (2,) if arguments.toy else COUNTS
    counts = tuple(n for n in (1, *counts) if n <= gpus) if gpus else counts
    rows = [Row(1, launched=False), *(Row(n) for n in counts)]
    content = {"command": "python scripts/benchmarks/processes.py", **where()}
    benchmark = Benchmark(arguments, "processes", content, tabulate, here=True)
    with TemporaryDirectory() as folder:
        benchmark.run(rows, partial(measure, Path(folder), arguments.toy, arguments.left))
    benchmark.end()
    for row in content["rows"]:
        if row["seconds"] is None:
            continue
        if row["float64"] > UNEQUAL[0] or row["float32"] > UNEQUAL[1] or row["shards_equal"] != row["shards"]:
            raise SystemExit(f"{row['name']}: another answer than one process gives.")


if __name__ == "__main__":
    main()
