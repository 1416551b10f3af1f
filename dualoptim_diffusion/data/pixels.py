"""Image files as uint8 pixels: decoded once and cached, or each time where they are many."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from hashlib import sha256
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.terminal import progress
from dualoptim_diffusion.core.workers import in_processes
from dualoptim_diffusion.files.cache import cache_entry, get_or_make_locked
from dualoptim_diffusion.files.class_folders import Entry
from dualoptim_diffusion.files.contents import are_known, content_hashes, facts_of_files
from dualoptim_diffusion.files.image_files import Look, Reading, decoded, decoded_bytes, look_at, opened

MAX_IN_MEMORY = 2 * 2**30  # bytes of decoded pixels; larger sets are read from their files each time
SHOWN_FROM = 256  # files: fewer take no time worth a progress bar
SMALL_FILE = 10_000  # bytes of a file that is decoded sooner than a thread is told to


class FolderPixels:
    """uint8 images [N, C, H, W] of these files, decoded when they are asked for."""

    def __init__(self, entries: Sequence[Entry], reading: Reading) -> None:
        self._entries, self._reading = entries, reading
        self.shape: tuple[int, ...] = (len(entries), *reading.shape)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        chosen = self._entries[index] if isinstance(index, slice) else [self._entries[i] for i in index.tolist()]
        if not chosen:
            return torch.empty((0, *self.shape[1:]), dtype=torch.uint8)
        if sum(entry.size for entry in chosen) < SMALL_FILE * len(chosen):
            return torch.stack([self._decode(entry) for entry in chosen])
        with ThreadPoolExecutor() as pool:
            return torch.stack(list(pool.map(self._decode, chosen)))

    def _decode(self, entry: Entry) -> Tensor:
        return torch.from_numpy(decoded(entry.path, self._reading))

    def at(self, indices: Tensor) -> "FolderPixels":
        """The images at these indices; none is read for it."""
        return FolderPixels([self._entries[i] for i in indices.tolist()], self._reading)

    def to(self, device: torch.device | str) -> "FolderPixels":
        """Itself: pixels are moved after decoding."""
        return self

    @cached_property
    def sha256(self) -> str:
        """Hash of names, sizes and dates of the files and of how they are read, wherever the folder lies."""
        content = sha256(f"{len(self)} {self._reading.key}".encode())
        for path, size, mtime_ns, _ in self._entries:
            content.update(repr((_place(path), size, mtime_ns)).encode())
        return content.hexdigest()

    def read(self) -> Tensor:
        """All of them, decoded; cached by the content of the files, wherever they lie."""
        return get_or_make_locked(self._decoded(), lambda: {"images": self._decode_all()})["images"]

    @property
    def fit_in_memory(self) -> bool:
        """Whether they are so few that they are held decoded."""
        return prod(self.shape) <= MAX_IN_MEMORY

    def is_kept(self) -> bool:
        """Whether `read` would decode nothing; where the folder was never read, no file is read to find out."""
        return are_known(self._entries) and self._decoded().is_file()

    def _decoded(self) -> Path:
        """Where they are kept."""
        places = [_place(entry.path) for entry in self._entries]
        key = repr((len(self), self._reading.key, places))
        return cache_entry("data", key, *content_hashes(self._entries)).with_suffix(".safetensors")

    def _decode_all(self) -> Tensor:
        try:
            return self._decode_each()
        except InputError as error:
            damaged = sum(not sound for sound in each_works(self._decode, self._entries))
            raise InputError(f"{error} {damaged} of {len(self)} images cannot be used.") from None

    def _decode_each(self) -> Tensor:
        images = torch.empty(self.shape, dtype=torch.uint8)
        found = in_processes(decoded_bytes, [entry.path for entry in self._entries], *self._reading)
        shown = progress(found, total=len(self), desc="decoding images", unit="img", disable=len(self) < SHOWN_FROM)
        for image, pixels in zip(images, shown, strict=True):
            image.copy_(torch.frombuffer(bytearray(pixels), dtype=torch.uint8).view_as(image))
        return images


def _place(path: str) -> list[str]:
    """train, CLASS and name of a file."""
    return path.split(os.sep)[-3:]


def open_pixels(entries: Sequence[Entry], reading: Reading) -> Tensor | FolderPixels:
    """The images in memory, or read from their files each time where there are too many bytes of them."""
    pixels = FolderPixels(entries, reading)
    return pixels.read() if pixels.fit_in_memory else pixels


def is_kept(entries: Sequence[Entry], reading: Reading) -> bool:
    """Whether `open_pixels` would decode nothing."""
    pixels = FolderPixels(entries, reading)
    return not pixels.fit_in_memory or pixels.is_kept()


def check_decodes(entry: Entry) -> None:
    with opened(Path(entry.path)) as picture:
        picture.load()


def each_works(read: Callable[[Entry], object], entries: Sequence[Entry]) -> Iterator[bool]:
    """Whether each file can be read so, in order."""

    def works(entry: Entry) -> bool:
        try:
            read(entry)
        except InputError:
            return False
        return True

    with ThreadPoolExecutor() as pool:
        yield from pool.map(works, entries)


def looks(entries: Sequence[Entry]) -> list[Look]:
    """What the head of each file says."""
    return [Look(*look) for look in facts_of_files(entries, "colours", _looks)]


def _looks(paths: Sequence[str]) -> Iterator[list[bool]]:
    return map(json.loads, in_processes(look_at, paths))


def decode(path: Path, shape: tuple[int, int, int], like: str | None = None, background: str = "white") -> Tensor:
    """An image file as uint8 [C, H, W]; see `Reading` for the arguments, `decoded` for the rest."""
    return torch.from_numpy(decoded(path, Reading(shape, like, background)))
