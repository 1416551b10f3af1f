"""What the benchmarks measure with: memory, profiles, rows in processes of their own; how results are written."""

import resource
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

import tables
from machine import kind

FLOP_OF_UNET = 12.44e9  # of a forward pass of the CIFAR-10 U-Net, an image of 32 pixels
PROFILED = 12  # operators named in a profile


def write_results(out: Path, name: str, content: dict[str, Any], tabulate: Callable[[dict[str, Any]], str]) -> None:
    """Writes `NAME_gpu.json` or `NAME_cpu.json`, and its table as Markdown beside it; prints the table."""
    text = tabulate(content)
    tables.write(out / f"{name}_{kind()}", content, text)
    print(text)


def one_by_one(work: Callable[[Any], Any], items: Iterable[Any], here: bool) -> Iterator[Any]:
    """Results in order, each from a process of its own so that its peak is its own; or `here`, in this process."""
    if here:
        yield from map(work, items)
        return
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        yield from pool.imap(work, items, chunksize=1)


def peak_bytes(before: int = 0) -> int:
    """Of device memory, or of this process where there is no such device, less what was held before; at least 1."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before, 1)


def bytes_of_libraries() -> int:
    """What a process holds when everything is imported and nothing is made."""
    import benchmarks.setup

    benchmarks.setup.load_package()
    return 0 if torch.cuda.is_available() else peak_bytes()


def cast(batches: Callable[[int], Any], dtype: torch.dtype) -> Callable[[int], Any]:
    """The same batches with x_0 and noise of another type."""

    def of_update(update: int) -> Any:
        batch = batches(update)
        return replace(batch, x_0=batch.x_0.to(dtype), noise=batch.noise.to(dtype))

    return of_update


def profile(work: Callable[[], Any]) -> list[dict[str, Any]]:
    """The operators that take the most time of their own in one step, as shares of the whole."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    on_gpu = torch.cuda.is_available()
    with torch.profiler.profile(activities=kinds + [torch.profiler.ProfilerActivity.CUDA] * on_gpu) as record:
        work()
    events = [e for e in record.key_averages() if not (on_gpu and e.device_type == torch.autograd.DeviceType.CPU)]
    times = {e.key: e.self_device_time_total if on_gpu else e.self_cpu_time_total for e in events}
    total = sum(times.values()) or 1
    most = sorted(times, key=lambda key: -times[key])[:PROFILED]
    return [{"operator": key[:60], "share": times[key] / total} for key in most]


def told(profile: list[dict[str, Any]]) -> str:
    """A profile in words."""
    return ", ".join(f"{part['operator']} {part['share']:.0%}" for part in profile if part["share"] >= 0.005)
