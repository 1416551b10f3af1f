"""Image files as uint8 pixels: decoded once and cached, or each time where they are many."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageColor, ImageOps
from torch import Tensor

from dualoptim_diffusion.core.errors import InputError, reason
from dualoptim_diffusion.core.terminal import progress
from dualoptim_diffusion.files.cache import cache_entry, get_or_make_locked
from dualoptim_diffusion.files.class_folders import Entry
from dualoptim_diffusion.files.contents import are_known, content_hashes, facts_of_files

GREY_MODES = ("1", "L", "LA", "La", "I", "F")  # and I;16 and its likes
MAX_16_BITS = 2**16 - 1
UPRIGHT = "upright by Exif"  # bump where an image file is read as other pixels than before
CROP = "box halvings, then bicubic; centre"  # how `decode` makes images of one size
MAX_IN_MEMORY = 2 * 2**30  # bytes of decoded pixels; larger sets are read from their files each time
AT_ONCE = 256  # files in the hands of the decoding threads
SMALL_FILE = 10_000  # bytes of a file that is decoded sooner than a thread is told to


class Reading(NamedTuple):
    """How image files become pixels.

    Attributes:
        shape: of one image, [C, H, W].
        like: a file of this size that all must share; None resizes and crops them.
        background: colour that transparent images are laid on.
    """

    shape: tuple[int, int, int]
    like: str | None = None
    background: str = "white"

    @property
    def key(self) -> str:
        """All that decides about the pixels of a file."""
        return repr((self.shape, CROP if self.like is None else None, UPRIGHT, self.background))


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
        return decode(Path(entry.path), *self._reading)

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
        with progress(total=len(self), desc="decoding images", unit="img", disable=len(self) < AT_ONCE) as bar:
            for first in range(0, len(self), AT_ONCE):
                part = self[first : first + AT_ONCE]
                images[first : first + len(part)] = part
                bar.update(len(part))
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
    with _opened(Path(entry.path)) as picture:
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


class Look(NamedTuple):
    """What the head of an image file says."""

    is_grey: bool
    is_transparent: bool


def looks(entries: Sequence[Entry]) -> list[Look]:
    """Of each file; none is decoded, and one that is no image says nothing against grey."""
    return [Look(*look) for look in facts_of_files(entries, "colours", _look)]


def _look(path: str) -> Look:
    with suppress(InputError), _opened(Path(path)) as picture:
        grey = picture.mode in GREY_MODES or picture.mode.startswith("I;16")
        if picture.mode in ("P", "PA") and (palette := picture.getpalette("RGB")):
            grey = all(palette[i] == palette[i + 1] == palette[i + 2] for i in range(0, len(palette), 3))
        return Look(grey, picture.has_transparency_data)
    return Look(True, False)


def size_of(path: str) -> tuple[int, int]:
    """Width and height of an image as it is seen."""
    with _opened(Path(path)) as picture:
        return ImageOps.exif_transpose(picture).size


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as picture:
            yield picture
    except (InputError, MemoryError):
        raise
    except Exception as error:  # Pillow's readers raise any kind on damaged files
        raise InputError(f"The image {path} cannot be read ({reason(error)}); replace or delete it.") from None


def decode(path: Path, shape: Sequence[int], like: str | None = None, background: str = "white") -> Tensor:
    """An image file as uint8 of the shape [C, H, W]: of several frames the first, upright.

    Args:
        like: a file that has the shape, as this one must; None resizes the shorter side (halved by boxes while that is
            possible, then bicubic) and cuts out the centre.
        background: that transparent images are laid on.

    Raises:
        InputError: if it cannot be read, or has another size.
    """
    channels, height, width = shape
    with _opened(path) as opened:
        picture = _flat(_of_8_bits(ImageOps.exif_transpose(opened), path), background)
        picture = picture.convert("L" if channels == 1 else "RGB")
    if picture.size != (width, height):
        if like is not None:
            raise InputError(
                f"{path} has {picture.width} x {picture.height} pixels, {like} has {width} x {height}; set "
                "data.image_size to crop and resize all images."
            )
        while picture.width >= 2 * width and picture.height >= 2 * height:  # as DiT's training images were made
            picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
        factor = max(width / picture.width, height / picture.height)
        scaled = (max(width, round(picture.width * factor)), max(height, round(picture.height * factor)))
        picture = picture.resize(scaled, Image.Resampling.BICUBIC)
        left, top = (scaled[0] - width) // 2, (scaled[1] - height) // 2
        picture = picture.crop((left, top, left + width, top + height))
    return torch.from_numpy(np.array(picture)).view(height, width, -1).permute(2, 0, 1).contiguous()


def _of_8_bits(picture: Image.Image, path: Path) -> Image.Image:
    """Grey levels of 16 bits scaled down; Pillow would cut them off at 255.

    Raises:
        InputError: if the levels are of another range, which nothing tells.
    """
    if not picture.mode.startswith(("I", "F")):
        return picture
    levels = np.asarray(picture)
    if picture.mode == "F" or levels.min() < 0 or levels.max() > MAX_16_BITS:
        raise InputError(f"The image {path} holds levels of no known range; save it with 8 or 16 bits.")
    return Image.fromarray((levels / 257).round().astype(np.uint8))


def _flat(picture: Image.Image, background: str) -> Image.Image:
    """A transparent image laid on a colour: what lies hidden under full transparency is nobody's choice."""
    if not picture.has_transparency_data:
        return picture
    above = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", above.size, ImageColor.getcolor(background, "RGBA")), above)
