"""What the scripts say about the machine that they ran on: its device, how long work takes there, its matmul rate."""

import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from time import perf_counter
from typing import Any

import torch

LIBRARIES = ("accelerate", "bitsandbytes", "diffusers", "torch-fidelity", "torchvision")
WARM_UP, REPEATS = 2, 5
LONG = 20  # seconds of repeats after which two are enough


def where() -> dict[str, Any]:
    """The device and the versions of what ran on it."""
    on_gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    return {
        "device": device,
        "torch": torch.__version__,
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in LIBRARIES},
    }


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"


def kind() -> str:
    """`gpu` or `cpu`; result files of speed and memory are named after it."""
    return "gpu" if torch.cuda.is_available() else "cpu"


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


def matmul_rates(small: bool = False) -> dict[str, float]:
    """FLOP a second of a large matrix product in each precision."""
    side, device = (8192, "cuda") if torch.cuda.is_available() else (2048, "cpu")
    side = 256 if small else side

    def rate(dtype: torch.dtype) -> float:
        a, b = torch.randn(2, side, side, device=device).to(dtype)
        return 2 * side**3 / timed(lambda: a @ b)

    return {"fp32": rate(torch.float32), "bf16": rate(torch.bfloat16)}
