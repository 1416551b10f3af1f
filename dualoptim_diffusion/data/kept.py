"""Decoded images in the cache: made by one process while others wait, read by all later ones."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dualoptim_diffusion.checkpoint import atomic_path


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
