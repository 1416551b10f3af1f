"""What the benchmarks measure with: rows in order until the time is up, memory, profiles; how results are written."""

import gc
import os
import resource
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from multiprocessing import get_context
from time import perf_counter, time
from typing import Any, ClassVar
from unittest.mock import patch

import psutil
import torch
from tqdm import tqdm

import command
import tables
from machine import kind, synchronise, timed

FLOP_OF_UNET = 12.44e9  # of a forward pass of the CIFAR-10 U-Net, an image of 32 pixels
PROFILED = 12  # operators named in a profile


NOT_MEASURED, OUT_OF_TIME = "not measured", "not measured: out of time"
LONGEST_IMPORT = 20  # seconds: more would be a wrong clock
Found = dict[str, Any]


def parser(script: str, doc: str | None) -> ArgumentParser:
    """The command line of a benchmark."""
    options = command.parser(script, doc)
    options.add_argument("--seconds", type=float, help="begin no row after so long [default: no limit]")
    return options


def parse(options: ArgumentParser, words: Sequence[str] | None) -> Namespace:
    """The arguments, with `left()`: the seconds that are left to begin a row in."""
    arguments = command.parse(options, words)
    age = 0.0
    if words is None:  # a process of its own: importing took some of its time
        age = min(max(time() - psutil.Process().create_time(), 0), LONGEST_IMPORT)
    end = float("inf") if arguments.seconds is None else perf_counter() - age + arguments.seconds
    arguments.left = lambda: end - perf_counter()
    return arguments


@dataclass(frozen=True)
class Profiled:
    """A row whose operators are timed."""

    way: Any
    part: ClassVar[str] = "profiles"

    @property
    def name(self) -> str:
        return str(self.way.name)

    @property
    def environment(self) -> dict[str, str]:
        return getattr(self.way, "environment", {})


class Benchmark:
    """Measures rows in order, until the time is up, and writes what is there after each.

    A row has a name, and may have `part` (of the results, a list of rows; without it, "rows"), `alone` (the part is
    this row), `needs` (a library), `takes` (the seconds that it is known to take) and `environment` (variables). One
    that failed or was not begun has no seconds, and a problem.

    Args:
        name: of the files NAME_gpu.json or NAME_cpu.json and .md.
        content: all that is known before.
        here: measure in this process; else each row has a process of its own, so that its peak is its own. On a GPU
            it is counted anew for each row, and all rows are measured here.
    """

    def __init__(
        self, arguments: Namespace, name: str, content: Found, tabulate: Callable[[Found], str], here: bool = False
    ) -> None:
        self.stem, self.left = arguments.out / f"{name}_{kind()}", arguments.left
        self.content, self.tabulate = content, tabulate
        if arguments.seconds is not None and "command" in content:
            content["command"] += f" --seconds {arguments.seconds:.0f}"
        self.here = here or arguments.toy or kind() == "gpu"

    def run(self, rows: Sequence[Any], work: Callable[[Any], Found]) -> None:
        """All rows; `work` returns what is known of one beside its own fields."""
        places: list[tuple[Any, Any]] = []
        for row in rows:
            part = getattr(row, "part", "rows")
            holder = self.content if getattr(row, "alone", False) else self.content.setdefault(part, [])
            places.append((holder, part if holder is self.content else len(holder)))
            blank = asdict(row) | {"name": row.name, "seconds": None, "problem": NOT_MEASURED}
            if holder is self.content:
                holder[part] = blank
            else:
                holder.append(blank)
        for row, (holder, key) in zip(tqdm(rows, unit="row"), places, strict=True):
            found = self._found(row, work)
            holder[key] = asdict(row) | {"name": row.name, "seconds": None} | found
            tqdm.write(f"{row.name}: {found.get('problem') or brief(found)}")
            self.write()

    def _found(self, row: Any, work: Callable[[Any], Found]) -> Found:
        library = getattr(row, "needs", None)
        if library is not None and find_spec(library) is None:
            return {"problem": f"{library} is not installed"}
        if self.left() < (getattr(row, "takes", 0) if kind() == "gpu" else 0):
            return {"problem": OUT_OF_TIME}
        with patch.dict(os.environ, getattr(row, "environment", {})):
            if self.here:
                return attempt((work, row))
            with get_context("spawn").Pool(1) as pool:
                return pool.apply(attempt, ((work, row),))

    def write(self) -> None:
        tables.write(self.stem, self.content, self.tabulate(self.content))

    def end(self) -> None:
        """Writes all once more and prints the table."""
        self.write()
        print(self.tabulate(self.content))


def attempt(job: tuple[Callable[[Any], Found], Any]) -> Found:
    """What the work found, or why it failed."""
    work, row = job
    try:
        release()
        return work(row)
    except torch.OutOfMemoryError:
        return {"problem": "out of memory"}
    except Exception as error:  # the other rows are worth having
        return {"problem": problem_of(error)}


def problem_of(error: Exception) -> str:
    """Its kind and the first line of what it says, for a cell of a table."""
    said = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {said}".replace("|", "/")[:150]


def release() -> None:
    """Frees what earlier rows in this process held, so that a row's peak and compilation are its own."""
    gc.collect()
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        getattr(torch._C, "_cuda_clearCublasWorkspaces", int)()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def brief(found: Found) -> str:
    """The figures of a row in a line."""
    return ", ".join(f"{key} {value:.4g}" for key, value in found.items() if isinstance(value, int | float))


def there(rows: Sequence[Found]) -> list[Found]:
    """The rows that were measured."""
    return [row for row in rows if "problem" not in row]


def named(rows: Sequence[Found], name: str) -> Found | None:
    """The row of this name, where it was measured."""
    return next((row for row in there(rows) if row["name"] == name), None)


def ratio(above: Found | None, below: Found | None, key: str = "seconds") -> str:
    """Of two rows, where both were measured."""
    both = bool(above and below and above.get(key) and below.get(key))
    return f"{above[key] / below[key]:.2f}" if both and above and below else ""


def peak_bytes(before: int = 0) -> int:
    """Of device memory, or of this process where there is no such device, less what was held before; at least 1."""
    if torch.cuda.is_available():
        return max(torch.cuda.max_memory_allocated() - before, 1)
    return max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before, 1)


def bytes_of_libraries() -> int:
    """What is held when everything is imported and nothing is made."""
    import benchmarks.setup

    benchmarks.setup.load_package()
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else peak_bytes()


def cast(batches: Callable[[int], Any], dtype: torch.dtype) -> Callable[[int], Any]:
    """The same batches with x_0 and noise of another type."""

    def of_update(update: int) -> Any:
        batch = batches(update)
        return replace(batch, x_0=batch.x_0.to(dtype), noise=batch.noise.to(dtype))

    return of_update


def profile(work: Callable[[], Any]) -> list[dict[str, Any]]:
    """The operators that take the most time of their own in one call, as shares of the whole.

    On a GPU these are kernels; the first entry is the share of an unprofiled call's time in which they run.
    """
    kinds = [torch.profiler.ProfilerActivity.CPU]
    on_gpu = torch.cuda.is_available()
    seconds = timed(work, warm_up=0, repeats=1) if on_gpu else 0.0
    with torch.profiler.profile(activities=kinds + [torch.profiler.ProfilerActivity.CUDA] * on_gpu) as record:
        work()
        synchronise()
    events = [e for e in record.key_averages() if not (on_gpu and e.device_type == torch.autograd.DeviceType.CPU)]
    times = {e.key: e.self_device_time_total if on_gpu else e.self_cpu_time_total for e in events}
    total = sum(times.values()) or 1
    most = sorted(times, key=lambda key: -times[key])[:PROFILED]
    busy = [{"operator": "the GPU works", "share": total / 1e6 / seconds}] if on_gpu else []
    return busy + [{"operator": key[:60], "share": times[key] / total} for key in most]


def told(profile: list[dict[str, Any]]) -> str:
    """A profile in words."""
    return ", ".join(f"{part['operator']} {part['share']:.0%}" for part in profile if part["share"] >= 0.005)
