"""The cache: results that are expensive to compute, under a hash of everything they were computed from.

Beside each file or folder lies the hash of its content; what does not have it is told of and made anew.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dualoptim_diffusion.core.environment import home
from dualoptim_diffusion.core.errors import InputError, reason
from dualoptim_diffusion.core.hashes import content_sha256, digest
from dualoptim_diffusion.core.terminal import say
from dualoptim_diffusion.files.atomic import atomic_path

if TYPE_CHECKING:
    from accelerate import Accelerator

CACHE_VERSION = "1"  # bump to invalidate caches
DAMAGED = (OSError, ValueError, LookupError, TypeError, SafetensorError)  # what reading a damaged entry raises
PROBE = 2**16  # bytes that must fit where something is to be kept

Content = TypeVar("Content")

_unkept: set[Path] = set()  # cache folders of which this process has said that they cannot be written


def cache_folder() -> Path:
    """$DUALOPTIM_CACHE, or a folder in ~/.cache."""
    return Path(os.environ.get("DUALOPTIM_CACHE") or home() / ".cache" / "dualoptim_diffusion")


def cache_entry(kind: str, *parts: str) -> Path:
    """The path in the cache of something computed from these inputs."""
    return cache_folder() / kind / digest(CACHE_VERSION, *parts)[:16]


def read_kept(path: Path, read: Callable[[Path], Content], quiet: bool = False) -> Content | None:
    """What an entry holds; None where there is none, or it is damaged or another's, which is told in one line.

    Args:
        read: raises one of `DAMAGED` for what it cannot use.
        quiet: of a process that tells nothing.
    """
    if not path.exists():
        return None
    try:
        _check_seal(path)
        return read(path)
    except DAMAGED as error:
        if not quiet:
            say(f"{path} in the cache is damaged ({reason(error)}); it is not used.")
        return None


def keep(path: Path, content: Content, write: Callable[[Path, Content], object]) -> None:
    """Writes an entry in one piece; where that is impossible, the work goes on without.

    Args:
        write: writes to the path it is given, which then takes the place of `path`.
    """
    try:
        with atomic_path(path) as beside:
            write(beside, content)
            _seal(path, content_sha256(beside))  # first, so that no whole entry is ever without
    except (OSError, InputError) as error:
        _say_unkept(error)


def get_or_make(
    path: Path,
    read: Callable[[Path], Content],
    make: Callable[[], Content],
    write: Callable[[Path, Content], None],
    accelerator: "Accelerator | None" = None,
) -> Content:
    """The content of a cache file; made and written where the file is missing or damaged.

    Args:
        read: as `read_kept` takes it.
        write: as `keep` takes it.
        accelerator: all of its processes call this alike: each reads, each makes, and the main one writes.
    """
    is_main = accelerator is None or accelerator.is_main_process
    if accelerator is not None:
        accelerator.wait_for_everyone()
    content = read_kept(path, read, quiet=not is_main)
    if accelerator is not None:
        accelerator.wait_for_everyone()  # all have read before one writes
    if content is None:
        content = make()
        if is_main:
            keep(path, content, write)
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
    with locked_cache(path):
        return get_or_make_tensors(path, make)


def get_or_make_folder(path: Path, marker: str, make: Callable[[Path], None], accelerator: "Accelerator") -> Path:
    """The folder of an entry, made where it is missing or damaged; several commands and processes at a time.

    Args:
        marker: a file that it holds.
        make: all processes call it alike; the main one writes to the path it is given, in one piece.

    Returns:
        `path`, or, where nothing can be written there, a folder that goes with this process.
    """
    with locked_cache(path, accelerator):
        if _is_sound(place := path, marker, accelerator):
            return place
        if accelerator.num_processes == 1 and _is_sound(place := place_for(path, copy=False), marker, accelerator):
            return place
        make(place)
        if accelerator.is_main_process:
            with suppress(OSError, InputError):  # the next command that reads it does so
                _seal(place, content_sha256(place))
        accelerator.wait_for_everyone()
    return place


def _is_sound(folder: Path, marker: str, accelerator: "Accelerator") -> bool:
    found = read_kept(folder, lambda path: (path / marker).stat(), quiet=not accelerator.is_main_process)
    accelerator.wait_for_everyone()  # all have read before one writes
    return found is not None


def place_for(entry: Path, copy: bool = True) -> Path:
    """The entry's path to write below; where that is impossible, a place that goes with this process.

    Args:
        copy: what the entry holds lies there too.
    """
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=entry if entry.is_dir() else entry.parent) as file:
            file.write(bytes(PROBE))
        return entry
    except OSError as error:
        _say_unkept(error)
    place = Path(_own_folder().name) / entry.relative_to(cache_folder())
    place.parent.mkdir(parents=True, exist_ok=True)
    if copy and entry.is_dir() and not place.exists():
        try:
            shutil.copytree(entry, place)
        except OSError:
            shutil.rmtree(place)  # it is made anew
    return place


@contextmanager
def locked_cache(entry: Path, accelerator: "Accelerator | None" = None) -> Iterator[None]:
    """Keeps other commands from making the same entry at the same time; they wait and then find it."""
    with ExitStack() as held:
        if accelerator is None or accelerator.is_main_process:
            with suppress(OSError):  # where nothing can be written, nobody else makes it
                entry.parent.mkdir(parents=True, exist_ok=True)
                held.enter_context(FileLock(entry.with_name(f"{entry.name}.lock")))
        if accelerator is not None:
            accelerator.wait_for_everyone()
        yield


def _check_seal(path: Path) -> None:
    """Raises:
    ValueError: if the content of an entry has another hash than the one beside it.
    """
    seal, found = _seal_of(path), content_sha256(path)
    if not seal.is_file() and path.is_dir():  # of a version that wrote none
        with suppress(OSError):
            _seal(path, found)
    elif not seal.is_file():
        raise ValueError("there is no hash beside it")
    elif seal.read_text(encoding="utf-8").strip() != found:
        raise ValueError("its content is not what was written")


def _seal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _seal(path: Path, sha256: str) -> None:
    with atomic_path(_seal_of(path)) as beside:
        beside.write_text(f"{sha256}\n", encoding="utf-8")


@cache
def _own_folder() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="dualoptim-")


def _say_unkept(error: BaseException) -> None:
    """Says once that the cache cannot be written."""
    if (folder := cache_folder()) not in _unkept:
        _unkept.add(folder)
        say(f"The cache {folder} cannot be written ({reason(error)}); going on without keeping.")
