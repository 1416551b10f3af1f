"""The cache: results that are expensive to compute, under a hash of everything they were computed from."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dualoptim_diffusion.core.environment import home
from dualoptim_diffusion.core.hashes import digest
from dualoptim_diffusion.files.atomic import atomic_path

if TYPE_CHECKING:
    from accelerate import Accelerator

CACHE_VERSION = "1"  # bump to invalidate caches

Content = TypeVar("Content")


def cache_folder() -> Path:
    """$DUALOPTIM_CACHE, or a folder in ~/.cache."""
    return Path(os.environ.get("DUALOPTIM_CACHE") or home() / ".cache" / "dualoptim_diffusion")


def cache_entry(kind: str, *parts: str) -> Path:
    """The path in the cache of something computed from these inputs."""
    return cache_folder() / kind / digest(CACHE_VERSION, *parts)[:16]


def get_or_make(
    path: Path,
    read: Callable[[Path], Content],
    make: Callable[[], Content],
    write: Callable[[Path, Content], None],
    accelerator: "Accelerator | None" = None,
) -> Content:
    """The content of a cache file; made and written where the file is missing or damaged.

    Args:
        read: raises OSError, ValueError, LookupError or SafetensorError for a missing or damaged file.
        write: writes to the path it is given, which then takes the place of `path`.
        accelerator: all of its processes call this alike: each reads, each makes, and the main one writes.
    """
    if accelerator is not None:
        accelerator.wait_for_everyone()
    content = None
    with suppress(OSError, ValueError, LookupError, SafetensorError):
        content = read(path)
    if accelerator is not None:
        accelerator.wait_for_everyone()  # all have read before one writes
    if content is None:
        content = make()
        if accelerator is None or accelerator.is_main_process:
            with atomic_path(path) as beside:
                write(beside, content)
        if accelerator is not None:
            accelerator.wait_for_everyone()
    return content


def get_or_make_tensors(
    path: Path, make: Callable[[], dict[str, Tensor]], accelerator: "Accelerator | None" = None
) -> dict[str, Tensor]:
    """Named tensors of a cached safetensors file, on the CPU; the other arguments as in `get_or_make`."""

    def write(beside: Path, tensors: dict[str, Tensor]) -> None:
        save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, beside)

    return get_or_make(path, load_file, make, write, accelerator)


def get_or_make_locked(path: Path, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The same for several commands at a time: one makes the file while the others wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock")):
        return get_or_make_tensors(path, make)
