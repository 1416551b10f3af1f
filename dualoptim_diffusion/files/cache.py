"""The cache: whatever is dear to make is kept under a hash of all that it was made from."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dualoptim_diffusion.core.hashes import digest
from dualoptim_diffusion.files.atomic import atomic_path

CACHE_VERSION = "1"  # raised when the same recipe would make something else


def cache_folder() -> Path:
    """Where pretrained models, classifiers and samples are kept for reuse: $DUALOPTIM_CACHE or ~/.cache."""
    return Path(os.environ.get("DUALOPTIM_CACHE") or Path.home() / ".cache" / "dualoptim_diffusion")


def cache_entry(kind: str, *parts: str) -> Path:
    """Where something made from these inputs is kept."""
    return cache_folder() / kind / digest(CACHE_VERSION, *parts)[:16]


def kept_tensors(path: Path, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What the file holds; made and written where it is absent or damaged."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock")):
        with suppress(OSError, SafetensorError):
            return load_file(path)
        tensors = make()
        with atomic_path(path) as beside:
            save_file(tensors, beside)
    return tensors
