"""What scripts that measure share: time, memory, where they ran, and how results are written."""

import json
import platform
import resource
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

LIBRARIES = ("accelerate", "bitsandbytes", "diffusers", "torch-fidelity", "torchvision")
WARM_UP, REPEATS = 2, 5
LONG = 20  # seconds of repeats after which two are enough
FLOP_OF_UNET = 12.44e9  # of a forward pass of the CIFAR-10 U-Net, an image of 32 pixels
PROFILED = 12  # operators named in a profile


def where() -> dict[str, Any]:
    """The device and the versions of what ran on it."""
    on_gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    return {
        "device": device,
        "torch": torch.__version__,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
    }


def place() -> str:
    """The word that result files are named after."""
    return "gpu" if torch.cuda.is_available() else "cpu"


def write_results(out: Path, name: str, content: dict[str, Any], tabulate: Callable[[dict[str, Any]], str]) -> None:
    """Writes `NAME_gpu.json` or `NAME_cpu.json`, and its table as Markdown beside it; prints the table."""
    stem = out / f"{name}_{place()}"
    stem.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    text = tabulate(content)
    stem.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


def row(cells: list[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def synchronise() -> None:
    """Waits for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(work: Callable[[], Any], warm_up: int = WARM_UP, repeats: int = REPEATS) -> float:
    """Median seconds."""
    seconds: list[float] = []
    for i in range(warm_up + repeats):
        synchronise()
        start = perf_counter()
        work()
        synchronise()
        seconds.append(perf_counter() - start)
        if i > warm_up and sum(seconds) > LONG:
            break
    return median(seconds[warm_up:])


def peak_bytes() -> int:
    """Of device memory, or of this process where there is no such device."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def bytes_of_libraries() -> int:
    """What a process holds when everything is imported and nothing is made."""
    import dualoptim_diffusion.assets
    import dualoptim_diffusion.methods  # noqa: F401, they are loaded now

    return 0 if torch.cuda.is_available() else peak_bytes()


def cast(batches: Callable[[int], Any], dtype: torch.dtype) -> Callable[[int], Any]:
    """The same batches with x_0 and noise of another type."""

    def of_update(update: int) -> Any:
        batch = batches(update)
        return replace(batch, x_0=batch.x_0.to(dtype), noise=batch.noise.to(dtype))

    return of_update


def matmul_rate(dtype: torch.dtype) -> float:
    """FLOP a second of a large matrix product."""
    n, device = (8192, "cuda") if torch.cuda.is_available() else (2048, "cpu")
    a, b = torch.randn(2, n, n, device=device).to(dtype)
    return 2 * n**3 / timed(lambda: a @ b)


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
