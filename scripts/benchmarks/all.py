"""Runs every benchmark of speed and memory on this machine, one after the other, and rewrites the table in README.md
beside this file. On 2 CPU cores that takes about 30 minutes. Each benchmark writes its JSON and Markdown; one that
fails is named at the end, and the others still run. At the toy scale the table goes to a README.md in the folder of
the results, and the benchmark of several processes is left out.

    python scripts/benchmarks/all.py
    python scripts/benchmarks/all.py --table      # only the table, from results that are there
"""

import importlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
import tables
from command import parse, parser
from machine import kind

HERE = Path(__file__).resolve().parent
SCRIPTS = ("optimizer_state", "unet_step", "drawing", "evaluation", "processes", "dit_step")
Found = dict[str, Any]


def run(name: str, out: Path) -> bool:
    """Runs a benchmark in a process of its own; whether it ended well."""
    size = ["--size", "S/2"] if name == "dit_step" and kind() == "cpu" else []
    command = [sys.executable, str(HERE / f"{name}.py"), *size, "--out", str(out)]
    return subprocess.run(command, check=False).returncode == 0


def run_toy(name: str, out: Path) -> bool:
    """Runs a benchmark of the smallest size in this process."""
    if name != "processes":
        importlib.import_module(f"benchmarks.{name}").main(["--scale", "toy", "--out", str(out)])
    return True


def on_cpu(found: Found) -> bool:
    return str(found["device"]).startswith("CPU")


def of_optimizers(found: Found) -> Iterator[list[str]]:
    for network in dict.fromkeys(r["network"] for r in found["rows"]):
        rows = {r["optimizers"]: r for r in found["rows"] if r["network"] == network}
        one = rows["one AdamW"]
        for title, target in (
            ("two", ""), ("forget compact at 10%, retain full", "at most 1.2"), ("both compact at 50%", "at most 1.3"),
            ("two of 8 bits", ""),
        ):  # fmt: skip
            yield [f"{network}: state, {title}, of one AdamW's", f"{rows[title]['bytes'] / one['bytes']:.2f}", target]
        compact = rows["forget compact at 10%, retain full"]["seconds"]["forget"]
        step = f"{compact / one['seconds']['forget']:.2f}"
        yield [f"{network}: time of a forget step, compact at 10%, of dense AdamW's", step, "at most 1"]


def of_unet_step(found: Found) -> Iterator[list[str]]:
    usual = [r for r in found["rows"] if not r["memory_kept"]]
    plain = usual[0]
    for precision in ("fp32", "bf16"):
        best = min((r for r in usual[1:] if r["precision"] == precision), key=lambda r: r["seconds"])
        target = "at least 1.25" if on_cpu(found) else "at least 3"
        name = f"U-Net step, {best['name']}: rate, of the plain loop's"
        yield [name, f"{plain['seconds'] / best['seconds']:.2f}", target]
        yield ["the same: peak memory, of the plain loop's", f"{best['peak_bytes'] / plain['peak_bytes']:.2f}", ""]
    kept = [r for r in found["rows"] if r["memory_kept"] and r["precision"] == "fp32"]
    if kept:
        best = min(kept[1:], key=lambda r: r["seconds"])
        name = f"U-Net step, {best['name']}: rate, of the plain loop's with memory kept"
        yield [name, f"{kept[0]['seconds'] / best['seconds']:.2f}", ""]


def of_drawing(found: Found) -> Iterator[list[str]]:
    two = next(r for r in found["unet"] if r["name"] == "two calls, fp32")
    for precision in ("fp32", "bf16"):
        best = min(
            (r for r in found["unet"] if r["precision"] == precision and "two" not in r["name"]),
            key=lambda r: r["seconds"],
        )
        target = "at least 1.3" if on_cpu(found) else "at least 5"
        yield [
            f"guided U-Net, {best['name']}: rate, of two fp32 calls'",
            f"{two['seconds'] / best['seconds']:.2f}",
            target,
        ]
    for ours in found["dit"][1:]:
        ratio = found["dit"][0]["seconds"] / ours["seconds"]
        yield [f"DiT-{found['size']}, {ours['name']}: rate, of diffusers' pipeline's", f"{ratio:.2f}", ""]
    parts = found["extraction"]
    ratio = parts["in_turn"] / parts["at_once"]
    yield ["drawing while features of other images are extracted: rate, of one after the other", f"{ratio:.2f}", ""]


def of_evaluation(found: Found) -> Iterator[list[str]]:
    target = "at least 1" if on_cpu(found) else "at least 2"
    ratio = found["files"]["seconds"] / found["streamed"]["seconds"]
    yield ["streamed Frechet distance: rate, of the way through PNG files", f"{ratio:.2f}", target]
    apart = abs(found["files"]["distance"] / found["streamed"]["distance"] - 1)
    yield ["the same: relative difference of the number", f"{apart:.0e}", "at most 1e-6"]


def of_processes(found: Found) -> Iterator[list[str]]:
    for r in found["rows"][1:]:
        name = f"{r['processes']} processes"
        yield [f"{name}: weights after 20 steps, float64, difference to one", f"{r['float64']:.0e}", "at most 1e-9"]
        yield [f"{name}: the same in float32", f"{r['float32']:.0e}", "at most 1e-4"]
        yield [f"{name}: bit-equal sample shards", f"{r['shards_equal']} of {r['shards']}", "all"]
        if r["sampling_efficiency"] is not None:
            yield [f"{name}: efficiency of sampling", f"{r['sampling_efficiency']:.0%}", ""]


TABLES: dict[str, Callable[[Found], Iterator[list[str]]]] = {
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
    options.add_argument("--table", action="store_true", help="run nothing")
    arguments = parse(options, words)
    out, readme, failed = arguments.out, HERE / "README.md", []
    if arguments.toy:
        readme = out / "README.md"
        readme.write_text(f"<!-- {kind()} -->\n<!-- end of {kind()} -->\n", encoding="utf-8")
    for name in [] if arguments.table else SCRIPTS:
        print(f"== {name}", flush=True)
        if not (run_toy if arguments.toy else run)(name, out):
            failed.append(name)
    text = table(out, kind())
    write_table(readme, text, kind())
    print(text)
    if failed:
        raise SystemExit(f"Failed: {', '.join(failed)}.")


if __name__ == "__main__":
    main()
