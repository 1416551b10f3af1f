"""Does work that is killed anywhere end as if it had never been stopped? Each kind of work is done once unbroken. Then
it is killed by SIGKILL at instants drawn evenly over the time from its first change of its folder to its end, run
again until it ends, and compared byte for byte: weights, metrics, images, latents, tables, results without their
wall times. Writes kill_and_resume.json and .md, where kinds that `--only` leaves out stay as they were.

    python scripts/studies/kill_and_resume.py --jobs 2
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import psutil
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
import tables
from command import command_line, parse, parser
from studies.works import Work, prepare, toy_work, works

KILLS_EACH = 2  # of one run: the second may hit it where it goes on
LITTER = (".part", ".old")  # nothing that killed processes were writing may stay
COMPARED = (".safetensors", ".jsonl", ".json", ".png", ".csv", ".md", *LITTER)


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
    """How far the killed work had come."""
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


def study(work: Work, folder: Path, jobs: int, kills_each: int = KILLS_EACH) -> dict[str, Any]:
    """Kills and resumes; what differed and where the kills fell."""
    (whole := folder / "whole").mkdir(parents=True)
    process = begin(work, whole)
    start = perf_counter()
    if process.wait():
        raise RuntimeError((whole / "stderr.txt").read_text(errors="replace")[-2000:])
    seconds, expected = perf_counter() - start, contents(whole)
    source = random.Random(work.name)
    instants = [[source.uniform(0, seconds) for _ in range(kills_each)] for _ in range(work.runs)]

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
    head = [
        "what", "seconds in its folder, unbroken", "runs", "kills", "where they fell", "files compared a run",
        "runs that differed",
    ]  # fmt: skip
    body = []
    for found in content["studies"]:
        fell = Counter(state for trial in found["trials"] for _, state in trial["kills"])
        where = ", ".join(f"{state} {count}" for state, count in fell.most_common())
        different = sum(bool(trial["different"]) for trial in found["trials"])
        counts = found["seconds_unbroken"], len(found["trials"]), fell.total()
        body.append([found["name"], *counts, where, found["files_compared"], different])
    lines = [
        "# Killed and resumed", "", *(f"`{c}`  " for c in dict.fromkeys(s["command"] for s in content["studies"])), "",
        f"Each run was killed up to {KILLS_EACH} times by SIGKILL, given again until it ended, and compared with an "
        "unbroken one byte for byte. The instants are random over the time from its first change of its folder to its "
        "end; where one lay past the end of what was left to do, there was no kill.", "", *tables.table(head, body),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main(words: Sequence[str] | None = None) -> None:
    options = parser(__file__, __doc__)
    names = [work.name for work in works(Path())]
    options.add_argument("--only", nargs="+", choices=names, default=names, metavar="WORK", help=f"of {names} [all]")
    options.add_argument("--share", type=float, default=1.0, help="of the 30 runs of forgetting, 10 of sampling, ...")
    options.add_argument("--jobs", type=int, default=2, help="runs side by side, one thread each")
    arguments = parse(options, words)
    stem, command = arguments.out / "kill_and_resume", command_line(__file__, words)
    path = stem.with_suffix(".json")
    before = tables.read_json(path)["studies"] if path.is_file() else []
    studies = {found["name"]: found for found in before if found["name"] in names}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        if arguments.toy:
            chosen = [toy_work(root)]
        else:
            prepare(root)
            chosen = [work for work in works(root) if work.name in arguments.only]
        for number, work in enumerate(chosen):
            work = replace(work, runs=max(1, round(arguments.share * work.runs)))
            kills = 1 if arguments.toy else KILLS_EACH
            studies[work.name] = {"command": command} | study(work, root / str(number), arguments.jobs, kills)
            content = {"studies": [studies[name] for name in names if name in studies]}
            tables.write(stem, content, tabulate(content))
    print(tabulate(content))
    if any(trial["different"] for work in chosen for trial in studies[work.name]["trials"]):
        raise SystemExit("A resumed run differs from the unbroken one.")


if __name__ == "__main__":
    main()
