"""Files and folders that appear whole or not at all: written beside their place, flushed, then renamed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from safetensors import SafetensorError

from dualoptim_diffusion.core.errors import InputError

NEXT = ".next"  # of a folder that is being replaced

# In a block of `together`: by its place, where each file is until the block ends.
_waiting: ContextVar[dict[Path, Path] | None] = ContextVar("_waiting", default=None)


@contextmanager
def together() -> Iterator[None]:
    """What `atomic_path` writes in this block takes its place when the block ends well: all of it, or nothing."""
    if _waiting.get() is not None:  # within another such block, which ends later
        yield
        return
    waiting: dict[Path, Path] = {}
    token = _waiting.set(waiting)
    try:
        yield
        for path, beside in waiting.items():
            _replace(beside, path)
    finally:
        _waiting.reset(token)
        for beside in waiting.values():
            _delete(beside)


def seen(path: Path) -> Path:
    """Where a file is to be read: in a block of `together` what was written there counts."""
    return (_waiting.get() or {}).get(path, path)


def files_seen(folder: Path, suffix: str) -> list[Path]:
    """The files of a folder with this suffix, those that wait in a block of `together` included."""
    waiting = [path for path in _waiting.get() or {} if path.parent == folder and path.suffix == suffix]
    return sorted({*folder.glob(f"*{suffix}"), *waiting})


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file or folder to; it takes the place of `path` when the block ends well.

    Raises:
        InputError: if a file would take the place of a folder, or tensors cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    waiting = _waiting.get()
    try:
        yield beside
        for written in [beside, *beside.rglob("*")] if beside.is_dir() else [beside]:
            _fsync(written)
        if path.is_dir() and not beside.is_dir():
            raise InputError(f"{path} is a folder; name a file.")
        if waiting is None:
            _replace(beside, path)
        else:
            waiting[path] = beside
    except BaseException as error:
        _delete(beside)
        if isinstance(error, SafetensorError) or (isinstance(error, OSError) and error.filename is None):  # a full disk
            said = error.strerror if isinstance(error, OSError) else error
            raise InputError(f"{path} cannot be written: {said}. What was there before is unchanged.") from None
        raise


def refuse_filled(folder: Path) -> None:
    """Refuses a place where anything is but an empty folder.

    Raises:
        InputError: if there is.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there already; choose another folder.")


def _replace(beside: Path, path: Path) -> None:
    """Puts what was written in its place; what was there before goes last."""
    if path.is_dir():  # a folder cannot be replaced in one call: the old one is moved away, then deleted
        old = path.with_name(f".{path.name}.{os.getpid()}.old")
        os.replace(path, old)
        try:
            os.replace(beside, path)
        except BaseException:
            os.replace(old, path)
            raise
        shutil.rmtree(old)
    else:
        os.replace(beside, path)
    _fsync(path.parent)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def next_of(folder: Path) -> Path:
    """Where, inside a folder, that which will replace its content is written: the folder may be a mount or a link."""
    return folder / NEXT


def exchange(folder: Path) -> None:
    """Puts what lies in `next_of(folder)` in place of all else in it; called again, it ends what was interrupted."""
    new, moving, old = folder / NEXT, folder / ".moving", folder / ".old"
    if new.is_dir():
        old.mkdir(exist_ok=True)
        for path in folder.iterdir():
            if path not in (new, old):
                os.replace(path, old / path.name)
        os.replace(new, moving)  # from here on what lies outside is new
    if moving.is_dir():
        for path in moving.iterdir():
            os.replace(path, folder / path.name)
        moving.rmdir()
        _fsync(folder)
    if old.is_dir():
        shutil.rmtree(old)


def end_exchange(folder: Path) -> None:
    """Ends an exchange that was interrupted, if one was; no other process may be writing there."""
    if (folder / ".old").is_dir() or (folder / ".moving").is_dir():
        exchange(folder)


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
        place = path.with_name(path.name[1:].rsplit(".", 2)[0])
        if path.suffix == ".old" and path.exists() and not place.exists():  # killed between two renames
            os.replace(path, place)
        else:
            _delete(path)  # if it did not lie in another of these folders


def copy_folder(folder: Path, out: Path) -> Path:
    """Copies a folder in one piece; returns the copy."""
    with atomic_path(out) as beside:
        shutil.copytree(folder, beside)
    return out
