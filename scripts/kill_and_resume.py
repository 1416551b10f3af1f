"""Does work that is killed anywhere end as if unbroken? Kills by SIGKILL at random instants, gives it again, compares.

    python scripts/kill_and_resume.py --jobs 2

Each kind of work is done once unbroken, then killed at instants drawn evenly over the time from its first
change of its folder to its end, given again until it ends, and compared byte for byte: weights, metrics, images,
latents, tables, results without their wall times. Results: benchmarks/results/kill_and_resume.json and .md, where
kinds that `--only` leaves out stay as they were.
"""

import argparse
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import psutil
from tqdm import tqdm

KILLS_EACH = 2  # of one run: the second may hit it where it goes on
SHORT = (  # a whole run in half a minute, so that many can be killed
    "method.num_steps=40", "run.checkpoint_every=5", "data.batch_size=32", "sampling.num_inference_steps=10",
    "sampling.seeds=0-39", "sampling.batch_size=20", "evaluation.protocol=seeds", "run.device=cpu",
)  # fmt: skip
PYTHON = (sys.executable, "-m")
TWO = (*PYTHON, "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m")
FORGET = ("dualoptim_diffusion", "forget", "digits_sfron_dual", *SHORT, "--class", "three", "--out", "run", "--resume")
PRETRAIN = (
    "dualoptim_diffusion", "pretrain", "digits_pretrain", "training.num_steps=60", "run.checkpoint_every=5",
    "run.device=cpu",
)  # fmt: skip
TABLE = (
    "--recipe-family", "digits", "--methods", "sfron_dual", "--classes", "three", "--quick", "--jobs", "1",
    "--runs", "runs", "--out", "out", *SHORT,
)  # fmt: skip
LITTER = (".part", ".old")  # nothing that killed processes were writing may stay
COMPARED = (".safetensors", ".jsonl", ".json", ".png", ".csv", ".md", *LITTER)
Stages = tuple[tuple[str, str], ...]  # what a folder holds, and how far the work has come then; the furthest first
TRAINING: Stages = (("checkpoints/latest", "after a checkpoint"), (".", "before a checkpoint"))
RUN: Stages = (("results.json", "at the report"), ("model", "while sampling or scoring"), *TRAINING)
DRAWING: Stages = (("png", "while writing PNG files"), ("*.safetensors", "after a shard"), (".", "before a shard"))


@dataclass(frozen=True)
class Work:
    """What is killed: a command that, given again in the same place, goes on.

    Attributes:
        command: started in a folder of the trial, to which its relative paths are.
        folder: what it fills, a pattern below that folder.
        stages: by what it holds, how far the work has come.
        runs: how many are killed.
        jobs: how many of them at once, if it matters.
        environment: variables beside those of this process.
    """

    name: str
    command: tuple[str, ...]
    folder: str
    stages: Stages
    runs: int
    jobs: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


def works(root: Path) -> list[Work]:
    """All kinds; `root` holds what they start from."""
    sample = (*PYTHON, "dualoptim_diffusion", "sample", str(root / "first" / "run"), "--seeds", "0-59", "--steps", "20")
    encode = (
        *PYTHON, "dualoptim_diffusion", "encode", "digits_dit_sfron_dual", "data.name=image_folder",
        f"data.path={root / 'photos'}", "data.horizontal_flip=true", "model.pretrain=null",
        f"model.path={root / 'latent'}", "data.latents=latents", "run.device=cpu",
    )  # fmt: skip
    table = (sys.executable, str(Path(__file__).with_name("reproduce_table2.py")), *TABLE)
    at_table = (("results.json", "at the report or the table"), *RUN[1:])
    return [
        Work(
            "pretraining", (*PYTHON, *PRETRAIN), "cache/models/*[0-9a-f]",  # a hash, and not its lock
            (("model", "with its model saved"), *TRAINING), 5, environment={"DUALOPTIM_CACHE": "cache"},
        ),
        Work("encoding latents", encode, "latents", DRAWING[1:], 5),
        Work("the table of methods", table, "runs/quick/digits/sfron_dual/three-seed0", at_table, 3),
        Work("sampling", (*sample, "--out", "samples"), "samples", DRAWING, 10),
        Work("forgetting", (*PYTHON, *FORGET), "run", RUN, 30),
        Work("forgetting in two processes", (*TWO, *FORGET), "run", RUN, 5, jobs=1),
    ]  # fmt: skip


def prepare(root: Path) -> None:
    """Makes what the works start from: base model, judge and mask in the cache, a run, a latent model, its images."""
    import numpy as np
    import torch
    from diffusers import AutoencoderKL
    from PIL import Image

    from dualoptim_diffusion.models import ConditionalDiT, DiT

    first = Work("a first run", (*PYTHON, *FORGET), "run", RUN, 0)
    (root / "first").mkdir()
    if problem := finish(first, root / "first"):
        raise RuntimeError(problem)
    source, names = np.random.default_rng(0), [f"class {i}" for i in range(5)]
    for i in range(2560):  # five shards of latents, mirror images too
        path = root / "photos" / ("test" if i < 5 else "train") / names[i % 5] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(source.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vae = AutoencoderKL(**blocks, block_out_channels=(32, 64), latent_channels=4, norm_num_groups=8, sample_size=32)
    network = DiT(16, 4, 4, len(names), 2, 2, 8, 2).initialise()
    ConditionalDiT(network, dict(enumerate(names)), vae=vae).save(root / "latent")


def mark(work: Work, trial: Path) -> int | None:
    """What changes when a name in the work's folder does; None before there is one."""
    folder = next(trial.glob(work.folder), None)
    return None if folder is None else folder.stat().st_mtime_ns


def begin(work: Work, trial: Path) -> "subprocess.Popen[bytes]":
    """Starts the work and waits until it changes something in its folder, or ends."""
    before = mark(work, trial)
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | work.environment
    with (trial / "stderr.txt").open("wb") as log:
        process = subprocess.Popen(work.command, cwd=trial, env=environment, stdout=subprocess.DEVNULL, stderr=log)
    while process.poll() is None and mark(work, trial) == before:
        sleep(0.02)
    return process


def finish(work: Work, trial: Path) -> str | None:
    """Does the work to its end; what went wrong, if anything."""
    if code := begin(work, trial).wait():
        return f"ended with {code}: {(trial / 'stderr.txt').read_text(errors='replace')[-2000:]}"
    return None


def kill_after(work: Work, trial: Path, seconds: float) -> bool:
    """Whether the work, with all that it started, was killed so long after its first change and before it ended."""
    process = begin(work, trial)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        started = psutil.Process(process.pid).children(recursive=True)  # torchrun's are in sessions of their own
        process.kill()
        for other in started:
            with suppress(psutil.NoSuchProcess):
                other.kill()
        psutil.wait_procs(started)
    return process.wait() == -signal.SIGKILL


def state_of(work: Work, trial: Path) -> str:
    """How far killed work had come."""
    folder = next(trial.glob(work.folder))
    return next(words for pattern, words in work.stages if pattern == "." or any(folder.glob(pattern)))


def timeless(tree: Any) -> Any:
    """The same without wall times."""
    if isinstance(tree, dict):
        return {key: timeless(value) for key, value in tree.items() if key != "seconds"}
    return [timeless(part) for part in tree] if isinstance(tree, list) else tree


def contents(trial: Path) -> dict[str, bytes]:
    """Everything that must be equal, by path; not where and when a run was made, nor checkpoints on the way."""
    found = {}
    for path in sorted(trial.rglob("*")):
        name = path.relative_to(trial)
        if path.suffix not in COMPARED or path.name == "provenance.json" or "checkpoints" in name.parts:
            continue
        content = b"" if path.is_dir() else path.read_bytes()
        found[name.as_posix()] = (
            json.dumps(timeless(json.loads(content))).encode() if path.suffix == ".json" else content
        )
    return found


def study(work: Work, folder: Path, jobs: int) -> dict[str, Any]:
    """Kills and resumes; what differed and where the kills fell."""
    (whole := folder / "whole").mkdir(parents=True)
    process = begin(work, whole)
    start = perf_counter()
    if process.wait():
        raise RuntimeError((whole / "stderr.txt").read_text(errors="replace")[-2000:])
    seconds, expected = perf_counter() - start, contents(whole)
    source = random.Random(work.name)
    instants = [[source.uniform(0, seconds) for _ in range(KILLS_EACH)] for _ in range(work.runs)]

    def trial(number: int) -> dict[str, Any]:
        (place := folder / str(number)).mkdir()
        kills = [(instant, state_of(work, place)) for instant in instants[number] if kill_after(work, place, instant)]
        problem = finish(work, place)
        found = contents(place)
        different = sorted(k for k in found.keys() | expected.keys() if found.get(k) != expected.get(k))
        shutil.rmtree(place)
        return {"kills": kills, "different": [problem] if problem else different}

    with ThreadPoolExecutor(work.jobs or jobs) as pool:
        trials = list(tqdm(pool.map(trial, range(work.runs)), total=work.runs, desc=work.name, unit="run"))
    return {"name": work.name, "files_compared": len(expected), "seconds_unbroken": round(seconds, 1), "trials": trials}


def tabulate(content: dict[str, Any]) -> str:
    lines = [
        "# Killed and resumed", "", *(f"`{c}`  " for c in dict.fromkeys(s["command"] for s in content["studies"])), "",
        f"Each run was killed up to {KILLS_EACH} times by SIGKILL, given again until it ended, and compared with an "
        "unbroken one byte for byte. The instants are random over the time from its first change of its folder to its "
        "end; where one lay past the end of what was left to do, there was no kill.", "",
        "| what | seconds in its folder, unbroken | runs | kills | where they fell | files compared a run | runs that "
        "differed |", "| --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for found in content["studies"]:
        fell = Counter(state for trial in found["trials"] for _, state in trial["kills"])
        where = ", ".join(f"{state} {count}" for state, count in fell.most_common())
        different = sum(bool(trial["different"]) for trial in found["trials"])
        cells = [found["name"], found["seconds_unbroken"], len(found["trials"]), fell.total(), where]
        lines.append(f"| {' | '.join(map(str, [*cells, found['files_compared'], different]))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [work.name for work in works(Path())]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="WORK", help=f"of {names} [all]")
    parser.add_argument("--share", type=float, default=1.0, help="of the 30 runs of forgetting, 10 of sampling, ...")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, one thread each")
    parser.add_argument("--out", type=Path, default=Path("scripts/benchmarks/results"))
    arguments = parser.parse_args()
    path, command = arguments.out / "kill_and_resume.json", shlex.join(["python", *sys.argv])
    before = json.loads(path.read_text(encoding="utf-8"))["studies"] if path.is_file() else []
    studies = {found["name"]: found for found in before if found["name"] in names}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        prepare(root)
        for number, work in enumerate(works(root)):
            if work.name not in arguments.only:
                continue
            chosen = replace(work, runs=max(1, round(arguments.share * work.runs)))
            studies[work.name] = {"command": command} | study(chosen, root / str(number), arguments.jobs)
            content = {"studies": [studies[name] for name in names if name in studies]}
            path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            path.with_suffix(".md").write_text(tabulate(content), encoding="utf-8")
    print(tabulate(content))
    if any(trial["different"] for name in arguments.only for trial in studies[name]["trials"]):
        raise SystemExit("A resumed run differs from the unbroken one.")


if __name__ == "__main__":
    main()
