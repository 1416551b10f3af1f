"""Does a run that is killed anywhere end as an unbroken one? Kills by SIGKILL at random instants, goes on, compares.

    python scripts/kill_and_resume.py --jobs 2

Forgetting a digit (30 runs), drawing samples (10) and forgetting in two processes (5): each is done once unbroken, then
killed at instants drawn evenly over the unbroken time, given again until it ends, and compared byte for byte: weights,
metrics, images, results without their wall times. Results: benchmarks/results/kill_and_resume.json and .md.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

import psutil
from tqdm import tqdm

SHORT = (  # a whole run in half a minute, so that many can be killed
    "method.num_steps=40", "run.checkpoint_every=5", "data.batch_size=32", "sampling.num_inference_steps=10",
    "sampling.seeds=0-39", "sampling.batch_size=20", "evaluation.protocol=seeds", "run.device=cpu",
)  # fmt: skip
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
KILLS_EACH = 2  # of one run: the second may hit it where it goes on


def forget(out: Path, launcher: tuple[str, ...] = ()) -> list[str]:
    resume = ["--resume"] if out.exists() else []
    verb = ["forget", "digits_sfron_dual", *SHORT, "--class", "three", "--out", str(out), *resume]
    return [sys.executable, *launcher, "-m", "dualoptim_diffusion", *verb]


def sample(out: Path, run: Path) -> list[str]:
    words = ["sample", str(run), "--seeds", "0-59", "--steps", "20", "--out", str(out)]
    return [sys.executable, "-m", "dualoptim_diffusion", *words]


def start(command: list[str]) -> "subprocess.Popen[str]":
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(command: list[str]) -> None:
    process = start(command)
    _, err = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {err[-2000:]}")


def kill_after(command: list[str], seconds: float) -> bool:
    """Whether the process, with all that it started, was killed before it ended."""
    process = start(command)
    try:
        process.communicate(timeout=seconds)
        return False
    except subprocess.TimeoutExpired:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for member in family:  # torchrun's workers are in sessions of their own
            with suppress(psutil.NoSuchProcess):
                member.kill()
        process.communicate()
        return True


def state_of(folder: Path) -> str:
    """How far a killed run had come."""
    if not folder.exists():
        return "before its folder"
    if (folder / "results.json").is_file():
        return "at the report"
    if (folder / "model").is_dir() or (folder / "manifest.json").is_file():
        return "while sampling"
    if (folder / "checkpoints" / "latest").is_file():
        return "after a checkpoint"
    return "before a checkpoint"


def contents(folder: Path) -> dict[str, bytes]:
    """Everything that must be equal, by path."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and path.suffix in (".safetensors", ".jsonl", ".png") and not name.startswith("checkpoints"):
            found[name] = path.read_bytes()
    if (folder / "results.json").is_file():
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        found["results.json"] = json.dumps({k: v for k, v in results.items() if k != "seconds"}).encode()
    return found


def study(name: str, command: Callable[[Path], list[str]], kills: int, folder: Path, jobs: int) -> dict[str, Any]:
    """Kills and resumes so many times; what differed and where the kills fell."""
    whole = folder / "whole"
    start_time = perf_counter()
    finish(command(whole))
    seconds, expected = perf_counter() - start_time, contents(whole)
    source = random.Random(name)
    instants = [[source.uniform(0, seconds) for _ in range(KILLS_EACH)] for _ in range(kills)]

    def trial(number: int) -> dict[str, Any]:
        out, states = folder / str(number), []
        for instant in instants[number]:
            if kill_after(command(out), instant):
                states.append(state_of(out))
        finish(command(out))
        found = contents(out)
        different = sorted(k for k in found.keys() | expected.keys() if found.get(k) != expected.get(k))
        shutil.rmtree(out)
        return {"killed_after": instants[number], "killed": states, "different": different}

    with ThreadPoolExecutor(jobs) as pool:
        trials = list(tqdm(pool.map(trial, range(kills)), total=kills, desc=name, unit="run"))
    return {"name": name, "files_compared": len(expected), "seconds_unbroken": round(seconds, 1), "trials": trials}


def tabulate(content: dict[str, Any]) -> str:
    lines = [
        "# Killed and resumed", "", f"`{content['command']}`", "",
        f"Each run was killed up to {KILLS_EACH} times by SIGKILL at random instants, given again until it ended, and "
        "compared with an unbroken one byte for byte (weights, metrics, images, results).", "",
        "| what | runs | kills | where they fell | files compared a run | runs that differed |",
        "| --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for found in content["studies"]:
        fell = Counter(state for trial in found["trials"] for state in trial["killed"])
        where = ", ".join(f"{state} {count}" for state, count in fell.most_common())
        different = sum(bool(trial["different"]) for trial in found["trials"])
        cells = [found["name"], len(found["trials"]), fell.total(), where, found["files_compared"], different]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, nargs=3, default=(30, 10, 5), metavar=("FORGET", "SAMPLE", "TWO"))
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, one thread each")
    parser.add_argument("--out", type=Path, default=Path("scripts/benchmarks/results"))
    arguments = parser.parse_args()
    studies = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        parts = [root / part for part in ("forget", "sample", "two")]
        for part in parts:
            part.mkdir()
        finish(forget(root / "first"))  # so that base model, judge and mask are in the cache before anything is timed
        jobs = arguments.jobs
        studies.append(study("forgetting", forget, arguments.kills[0], parts[0], jobs))
        studies.append(study("sampling", lambda o: sample(o, root / "first"), arguments.kills[1], parts[1], jobs))
        studies.append(study("two processes", lambda o: forget(o, TWO), arguments.kills[2], parts[2], 1))
    content = {"command": "python scripts/kill_and_resume.py", "studies": studies}
    (arguments.out / "kill_and_resume.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    text = tabulate(content)
    (arguments.out / "kill_and_resume.md").write_text(text, encoding="utf-8")
    print(text)
    if any(trial["different"] for found in studies for trial in found["trials"]):
        raise SystemExit("A resumed run differs from the unbroken one.")


if __name__ == "__main__":
    main()
