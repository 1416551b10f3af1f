"""Where a result comes from: command, versions, machine, source revision, inputs, time."""

import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock, Timeout

from dualoptim_diffusion.errors import InputError
from dualoptim_diffusion.recipes import cache_folder

if TYPE_CHECKING:
    from accelerate import Accelerator

CACHE_VERSION = "1"  # raised when the same recipe would make something else
PACKAGES = ("dualoptim-diffusion", "torch", "torchvision", "diffusers", "accelerate", "timm", "torch-fidelity")


def describe_origin(device: torch.device) -> dict[str, Any]:
    """Command line, package versions, machine and git revision of the running code."""
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "machine": {
            "platform": platform.platform(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "threads": torch.get_num_threads(),
        },
        "git": _revision(),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _revision() -> str | None:
    """Revision of the checkout this package runs from, if it is one; '+' marks local changes."""
    package = Path(__file__).parent
    if not (package.parent / ".git").exists():
        return None
    try:
        commit, status = (
            subprocess.run(["git", "-C", str(package), *words], capture_output=True, text=True, check=True, timeout=10)
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() + ("+" if status.stdout.strip() else "")


@contextmanager
def timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    """Adds the wall time of the block to `seconds[part]`."""
    start = perf_counter()
    yield
    seconds[part] = seconds.get(part, 0.0) + perf_counter() - start


def digest(*parts: str) -> str:
    """One hash of several texts."""
    return sha256(repr(parts).encode()).hexdigest()


def cache_entry(kind: str, *parts: str) -> Path:
    """Where something made from these inputs is kept."""
    return cache_folder() / kind / digest(CACHE_VERSION, *parts)[:16]


def any_process(flag: bool, accelerator: "Accelerator") -> bool:
    """Whether any process says so; all of them ask."""
    if accelerator.num_processes == 1:
        return flag
    return bool(accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), "sum"))


@contextmanager
def held(folder: Path, accelerator: "Accelerator") -> Iterator[None]:
    """Keeps other runs from writing to a folder while this one does; a killed run leaves it free.

    Raises:
        InputError: on every process, if another run holds it or nothing can lie beside it.
    """
    folder = folder.resolve()
    if not folder.name:
        raise InputError(f"{folder} is the root of all folders; choose another.")
    lock, taken = FileLock(path := folder.with_name(f".{folder.name}.lock"), timeout=0), False
    if accelerator.is_main_process:
        folder.parent.mkdir(parents=True, exist_ok=True)
        path.touch()  # says why, where it cannot be made
        try:
            lock.acquire()
        except Timeout:
            taken = True
    if any_process(taken, accelerator):
        raise InputError(f"Another run is writing to {folder}; wait until it has ended, or name another folder.")
    try:
        yield
    finally:
        lock.release()


@contextmanager
def locked(entry: Path, accelerator: "Accelerator") -> Iterator[None]:
    """Keeps other runs from making the same cache entry at the same time; they wait and then find it."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(entry.with_name(f"{entry.name}.lock"))
    if accelerator.is_main_process:
        lock.acquire()
    try:
        accelerator.wait_for_everyone()
        yield
    finally:
        lock.release()
