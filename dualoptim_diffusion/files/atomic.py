"""Files and folders that appear whole or not at all: written beside their place, flushed, then renamed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from dualoptim_diffusion.core.errors import InputError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file or folder to; it takes the place of `path` when the block ends well.

    Raises:
        InputError: if a file would take the place of a folder, or tensors cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield beside
        for written in [beside, *beside.rglob("*")] if beside.is_dir() else [beside]:
            _fsync(written)
        if path.is_dir() and not beside.is_dir():
            raise InputError(f"{path} is a folder; name a file.")
        if path.is_dir():  # a folder cannot be replaced in one call: the old one is moved away, then deleted
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            os.replace(path, old)
            os.replace(beside, path)
            shutil.rmtree(old)
        else:
            os.replace(beside, path)
        _fsync(path.parent)
    except SafetensorError as error:  # it wraps what the system said, such as a full disk
        raise InputError(f"{path} cannot be written: {error}. What was there before is unchanged.") from None
    finally:
        if beside.is_dir():
            shutil.rmtree(beside)
        else:
            beside.unlink(missing_ok=True)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def visible(folder: Path) -> list[Path]:
    """Its files, but for those that are being written or that killed processes were writing."""
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def clear_leftovers(folder: Path) -> None:
    """Deletes what killed processes were writing anywhere in a folder; no other process may be writing there."""
    for path in [path for ending in ("part", "old") for path in folder.rglob(f".*.[0-9]*.{ending}")]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)  # it may have lain in one of these folders


def copy_folder(folder: Path, out: Path) -> Path:
    """Copies a folder in one piece; returns the copy."""
    with atomic_path(out) as beside:
        shutil.copytree(folder, beside)
    return out
