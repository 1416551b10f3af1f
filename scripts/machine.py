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
WARM_UP_ON_GPU = 3
LONG, LONG_ON_GPU = 20, 8  # seconds of work after which two repeats are enough


def where() -> dict[str, Any]:
    """The device and the versions of what ran on it."""
    on_gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    return {
        "device": device,
        **({"gpu": _gpu()} if on_gpu else {}),
        "torch": torch.__version__,
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in LIBRARIES},
    }


def _gpu() -> dict[str, Any]:
    found = torch.cuda.get_device_properties(0)
    return {
        "memory_bytes": found.total_memory,
        "multiprocessors": found.multi_processor_count,
        "compute_capability": f"{found.major}.{found.minor}",
        "count": torch.cuda.device_count(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "tf32": {"matmul": torch.backends.cuda.matmul.allow_tf32, "convolutions": torch.backends.cudnn.allow_tf32},
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


def timed(work: Callable[[], Any], warm_up: int | None = None, repeats: int = REPEATS) -> float:
    """Median seconds; slow work is warmed up once and repeated twice. The first call may compile and counts for none.

    Args:
        warm_up: calls that are not timed; fewer of slow work [default: 2; 3 on a GPU].
    """
    on_gpu = torch.cuda.is_available()
    if warm_up is None:
        warm_up = WARM_UP_ON_GPU if on_gpu else WARM_UP
    long = LONG_ON_GPU if on_gpu else LONG
    spent = 0.0

    def once() -> float:
        synchronise()
        start = perf_counter()
        work()
        synchronise()
        return perf_counter() - start

    for i in range(warm_up):
        if spent > long / 2:
            break
        seconds = once()
        spent += seconds if i else 0
    taken: list[float] = []
    while len(taken) < repeats and (len(taken) < 2 or spent <= long):
        taken.append(once())
        spent += taken[-1]
    return median(taken)


def matmul_rates(small: bool = False) -> dict[str, float]:
    """FLOP a second of a large matrix product in each precision."""
    side, device = (8192, "cuda") if torch.cuda.is_available() else (2048, "cpu")
    side, repeats = 256 if small else side, 30 if device == "cuda" else REPEATS  # its clock rises in some milliseconds

    def rate(dtype: torch.dtype) -> float:
        a, b = torch.randn(2, side, side, device=device).to(dtype)
        return 2 * side**3 / timed(lambda: a @ b, repeats=repeats)

    return {"fp32": rate(torch.float32), "bf16": rate(torch.bfloat16)}


def flop_of_forward(network: torch.nn.Module, *inputs: torch.Tensor) -> int:
    """FLOP of a forward pass of these inputs, counted."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(*inputs)
    return int(counter.get_total_flops())
