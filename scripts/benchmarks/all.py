"""Runs every benchmark of speed and memory on this machine, one after the other, and rewrites the tables in README.md
beside this file from the results that are there. On 2 CPU cores that takes about 30 minutes. With --minutes each
benchmark has a share of the time: it measures the most telling rows first and begins none when its time is up, and its
results name those that are missing. Each benchmark writes its JSON and Markdown; one that fails is named at the end,
and the others still run. At the toy scale the table goes to a README.md in the folder of the results, and the benchmark
of several processes is left out.

    python scripts/benchmarks/all.py
    python scripts/benchmarks/all.py --minutes 3
    python scripts/benchmarks/all.py --table      # only the tables
"""

import importlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
import tables
from benchmarks.measuring import named, there
from command import parse, parser
from machine import kind

HERE = Path(__file__).resolve().parent
SHARES = {  # of the time, most telling first
    "dit_step": 0.34, "unet_step": 0.19, "drawing": 0.19, "optimizer_state": 0.08, "evaluation": 0.1, "processes": 0.1,
}  # fmt: skip
OVER, OVER_IN_ALL = 40, 30  # seconds that a benchmark may take beyond its share, and all of them beyond the whole
PATIENCE = 5  # seconds that processes have to end when they are asked to
LEAST = 15  # seconds that a benchmark is begun with
Found = dict[str, Any]


def run(name: str, out: Path, seconds: float | None = None, killed_after: float | None = None) -> str:
    """Runs a benchmark in a process of its own; what went wrong, or nothing."""
    size = ["--size", "S/2"] if name == "dit_step" and kind() == "cpu" else []
    limit = [] if seconds is None else ["--seconds", f"{seconds:.0f}"]
    command = [sys.executable, str(HERE / f"{name}.py"), *size, *limit, "--out", str(out)]
    process = subprocess.Popen(command, start_new_session=True)  # ended with all that it started
    try:
        code = process.wait(killed_after)
    except subprocess.TimeoutExpired:
        return f"stopped after {killed_after:.0f} s; the rows measured before are written"
    finally:
        end(process)
    return f"exit code {code}" if code else ""


def end(process: "subprocess.Popen[bytes]") -> None:
    """Ends the processes of a benchmark that still run: asks first, so that a launcher ends its own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
            asked = perf_counter()
            while perf_counter() - asked < PATIENCE:
                process.poll()
                os.killpg(process.pid, 0)  # raises when none is left
                sleep(0.05)
    process.wait()


def run_toy(name: str, out: Path, seconds: float | None = None, killed_after: float | None = None) -> str:
    """Runs a benchmark of the smallest size in this process."""
    if name != "processes":
        limit = [] if seconds is None else ["--seconds", str(seconds)]
        importlib.import_module(f"benchmarks.{name}").main(["--scale", "toy", *limit, "--out", str(out)])
    return ""


def run_all(run_one: Callable[..., str], out: Path, seconds: float | None) -> dict[str, str]:
    """Runs all in turn, within so many seconds; what went wrong, by name."""
    start, problems, shares = perf_counter(), {}, dict(SHARES)
    for name, share in SHARES.items():
        print(f"== {name}", flush=True)
        if seconds is None:
            problems[name] = run_one(name, out)
            continue
        left = seconds - (perf_counter() - start)
        own = max(left, 0.0) * share / sum(shares.values())  # what the ones before left over is shared
        del shares[name]
        if run_one is run and left < LEAST:
            problems[name] = "not begun: out of time"
            continue
        problems[name] = run_one(name, out, own, min(own + OVER, left + OVER_IN_ALL))
    return {name: problem for name, problem in problems.items() if problem}


def on_cpu(found: Found) -> bool:
    return str(found["device"]).startswith("CPU")


def over(above: Found | None, below: Found | None, value: Callable[[Found], float]) -> Iterator[str]:
    """The ratio of two rows, or nothing where one was not measured."""
    if above and below and not {"problem"} & {*above, *below}:
        yield f"{value(above) / value(below):.2f}"


def seconds_of(row: Found) -> float:
    return float(row["seconds"])


def peak_of(row: Found) -> float:
    return float(row["peak_bytes"])


def of_optimizers(found: Found) -> Iterator[list[str]]:
    for network in dict.fromkeys(r["network"] for r in found["rows"]):
        rows = {r["optimizers"]: r for r in found["rows"] if r["network"] == network}
        one = rows.get("one AdamW")
        for title, target in (
            ("two", ""), ("forget compact at 10%, retain full", "at most 1.2"), ("both compact at 50%", "at most 1.3"),
            ("two of 8 bits", ""),
        ):  # fmt: skip
            for size in over(rows.get(title), one, lambda r: r["bytes"]):
                yield [f"{network}: state, {title}, of one AdamW's", size, target]
        compact = rows.get("forget compact at 10%, retain full")
        for step in over(compact, one, lambda r: r["seconds"]["forget"]):
            yield [f"{network}: time of a forget step, compact at 10%, of dense AdamW's", step, "at most 1"]


def of_dit_step(found: Found) -> Iterator[list[str]]:
    """Two optimizers beside one; and each setting beside the same step without it."""
    rows = [r for r in there(found["rows"]) if "mode" in r]
    without = {
        "checkpointing": False, "micro_batches": False, "log_cosine": False, "latents": "kept", "precision": "fp32",
    }  # fmt: skip
    keys = ("mode", "state", "batch_size", *without)

    def like(row: Found, **changes: Any) -> Found | None:
        wanted = {key: row[key] for key in keys} | changes
        return next((r for r in rows if all(r[key] == value for key, value in wanted.items())), None)

    step = f"DiT-{found['size']} step"
    for row in rows:
        beside = like(row, mode="shared", state="full")
        plain = all(row[key] == value for key, value in without.items() if key != "precision")
        if row["mode"] == "dual" and plain:
            for time in over(row, beside, seconds_of):
                yield [f"{step}, {row['name']}: time, of one shared AdamW's", time, ""]
            for peak in over(row, beside, peak_of):
                yield ["the same: peak memory, of one shared AdamW's", peak, ""]
        for key in (key for key, value in without.items() if row[key] != value):
            if key == "precision" and not plain:
                continue
            for time in over(row, like(row, **{key: without[key]}), seconds_of):
                other = "fp32" if key == "precision" else "the same without"
                yield [f"{step}, {row['name']}: time, of {other}", time, ""]
            for peak in over(row, like(row, **{key: without[key]}), peak_of):
                yield ["the same: peak memory", peak, ""]
    for row in there(found.get("drawing", [])):
        if "at_once" not in row:
            continue
        name = f"DiT-{found['size']} {row['name']}, {row['at_once']} at once"
        yield [f"{name}, {row['steps']} guided steps: images a second", f"{row['images_per_second']:.2f}", ""]
        work = 2 * found["flop_of_forward"] * row["at_once"] / row["seconds"]
        yield [
            "the same: share of the matmul rate",
            f"{work / found['matmul_flop_per_second'][row['precision']]:.0%}",
            "",
        ]


def of_unet_step(found: Found) -> Iterator[list[str]]:
    measured = there(found["rows"])
    plain = next((r for r in measured if r["plain"] and not r["memory_kept"]), None)
    ours = [r for r in measured if not r["plain"] and not r.get("shared")]
    for precision in ("fp32", "bf16"):
        usual = [r for r in ours if r["precision"] == precision]
        best = min(usual, key=seconds_of, default=None)
        target = "at least 1.25" if on_cpu(found) else "at least 3"
        for rate in over(plain, best, seconds_of):
            yield [f"U-Net step, {best and best['name']}: rate, of the plain loop's", rate, target]
        for peak in over(best, plain, peak_of):
            yield ["the same: peak memory, of the plain loop's", peak, ""]
        if best and precision == "bf16" and not on_cpu(found):  # fp32 convolutions run in TF32
            work = 6 * found["flop_of_forward"] * found["batch_size"] / best["seconds"]  # two phases, back and forth
            share = f"{work / found['matmul_flop_per_second'][precision]:.0%}"
            yield ["the same: share of the matmul rate", share, "at least 35%"]
    for one in (r for r in measured if r.get("shared")):
        two = next((r for r in ours if r["name"] == one["name"].replace("one optimizer", "full states")), None)
        for time in over(two, one, seconds_of):
            yield [f"U-Net step, {two and two['name']}: time, of one shared optimizer's", time, "at most 1.05"]
    kept = next((r for r in measured if r["plain"] and r["memory_kept"]), None)
    best = min((r for r in ours if r["precision"] == "fp32"), key=seconds_of, default=None)
    for rate in over(kept, best, seconds_of):
        yield [f"U-Net step, {best and best['name']}: rate, of the plain loop's with memory kept", rate, ""]


def of_drawing(found: Found) -> Iterator[list[str]]:
    two = named(found["unet"], "two calls, fp32")
    for precision in ("fp32", "bf16"):
        rows = [r for r in there(found["unet"]) if r["precision"] == precision and "two" not in r["name"]]
        best = min(rows, key=seconds_of, default=None)
        target = "at least 1.3" if on_cpu(found) else "at least 5"
        for rate in over(two, best, seconds_of):
            yield [f"guided U-Net, {best and best['name']}: rate, of two fp32 calls'", rate, target]
    for ours in found["dit"][1:]:
        for rate in over(found["dit"][0], ours, seconds_of):
            yield [f"DiT-{found['size']}, {ours['name']}: rate, of diffusers' pipeline's", rate, ""]
    parts = found["extraction"]
    if "problem" not in parts:
        rate = f"{parts['in_turn'] / parts['at_once']:.2f}"
        yield ["drawing while features of other images are extracted: rate, of one after the other", rate, ""]


def of_evaluation(found: Found) -> Iterator[list[str]]:
    target = "at least 1" if on_cpu(found) else "at least 2"
    ways = found.get("ways", found)
    if "problem" in ways:
        return
    rate = f"{ways['files']['seconds'] / ways['streamed']['seconds']:.2f}"
    yield ["streamed Frechet distance: rate, of the way through PNG files", rate, target]
    apart = abs(ways["files"]["distance"] / ways["streamed"]["distance"] - 1)
    yield ["the same: relative difference of the number", f"{apart:.0e}", "at most 1e-6"]


def of_processes(found: Found) -> Iterator[list[str]]:
    for r in there(found["rows"])[1:]:
        name = f"{r['processes']} process{'es' * (r['processes'] > 1)}"
        name += f" over {r['backend']}" if "nccl" in (r.get("backend") or "") else ""
        yield [f"{name}: weights after 20 steps, float64, difference to one", f"{r['float64']:.0e}", "at most 1e-9"]
        yield [f"{name}: the same in float32", f"{r['float32']:.0e}", "at most 1e-4"]
        yield [f"{name}: bit-equal sample shards", f"{r['shards_equal']} of {r['shards']}", "all"]
        if r["sampling_efficiency"] is not None:
            yield [f"{name}: efficiency of sampling", f"{r['sampling_efficiency']:.0%}", ""]


TABLES: dict[str, Callable[[Found], Iterator[list[str]]]] = {
    "dit_step_XL_2": of_dit_step,
    "dit_step_toy": of_dit_step,
    "optimizer_state": of_optimizers,
    "unet_step": of_unet_step,
    "drawing": of_drawing,
    "evaluation": of_evaluation,
    "processes": of_processes,
}


def table(results: Path, kind: str) -> str:
    """One row a ratio, from whatever results of this kind of machine (cpu or gpu) are there."""
    devices, body = set(), []
    for name, rows_of in TABLES.items():
        path = results / f"{name}_{kind}.json"
        if path.is_file():
            found = tables.read_json(path)
            devices.add(f"{found['device']}, torch {found['torch']}")
            body += rows_of(found)
    return "\n".join([*sorted(devices), "", *tables.table(["what", "measured", "aim"], body)])


def write_table(readme: Path, text: str, kind: str) -> None:
    """Puts the table between the two marks of this kind of machine."""
    start, end = f"<!-- {kind} -->", f"<!-- end of {kind} -->"
    whole = readme.read_text(encoding="utf-8")
    if start not in whole or end not in whole:
        raise SystemExit(f"{readme} has no marks {start} and {end}.")
    block = f"{start}\n{text}\n{end}"
    readme.write_text(re.sub(f"{start}.*?{end}", lambda _: block, whole, flags=re.DOTALL), encoding="utf-8")


def main(words: Sequence[str] | None = None) -> None:
    options = parser(__file__, __doc__)
    options.add_argument("--minutes", type=float, help="for all of it [default: no limit]")
    options.add_argument("--table", action="store_true", help="run nothing")
    arguments = parse(options, words)
    out, readme = arguments.out, HERE / "README.md"
    if words is None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a benchmark that runs is ended too
    seconds = None if arguments.minutes is None else 60 * arguments.minutes
    if arguments.toy:
        readme = out / "README.md"
        readme.write_text(f"<!-- {kind()} -->\n<!-- end of {kind()} -->\n", encoding="utf-8")
    problems = {} if arguments.table else run_all(run_toy if arguments.toy else run, out, seconds)
    for each in ("cpu", "gpu"):
        if any((out / f"{name}_{each}.json").is_file() for name in TABLES):
            text = table(out, each)
            write_table(readme, text, each)
            print(text)
    if problems:
        raise SystemExit("Problems: " + "; ".join(f"{name}: {problem}" for name, problem in problems.items()) + ".")


if __name__ == "__main__":
    main()
