"""Real images from folders with one subfolder a class: decoded once and kept, or streamed where they are many."""

import os
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import sha256
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from dualoptim_diffusion.data.kept import kept_tensors
from dualoptim_diffusion.errors import InputError, nearest
from dualoptim_diffusion.provenance import cache_entry

SUFFIXES = (".png", ".jpg", ".jpeg")  # in any case; ImageNet's end in .JPEG
TEST_FOLDERS = ("test", "val")
GREY_MODES = ("1", "L", "I", "I;16")  # those with I hold 16 bits in PNG files
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)  # what Pillow raises
CROP = "box halvings, then bicubic; centre"  # how `decode` makes images of one size
MAX_IN_MEMORY = 2 * 2**30  # bytes of decoded pixels; larger sets are read from their files each time
AT_ONCE = 256  # files in the hands of the decoding threads


class Entry(NamedTuple):
    """A file as its folder lists it."""

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Listing:
    """Files and labels of `train/CLASS` and `test/CLASS`, in the order of class and file names."""

    id2label: dict[int, str]
    train: tuple[Entry, ...]
    train_labels: tuple[int, ...]
    test: tuple[Entry, ...]
    test_labels: tuple[int, ...]

    @cached_property
    def first_of_each(self) -> list[str]:
        """One training file a class."""
        return [self.train[bisect_left(self.train_labels, i)].path for i in self.id2label]  # labels are in order

    def shape(self, image_size: int | None) -> tuple[int, int, int]:
        """[C, H, W]: grey where the first image of every class is, as large as the first of all or as asked for."""
        modes, sizes = zip(*(_look_at(path) for path in self.first_of_each), strict=True)
        width, height = (image_size, image_size) if image_size else sizes[0]
        if image_size is None and width != height:
            raise InputError(
                f"{self.first_of_each[0]} has {width} x {height} pixels; set data.image_size to crop and resize all "
                "images to a square."
            )
        return 1 if all(mode in GREY_MODES for mode in modes) else 3, height, width


class FolderPixels:
    """uint8 images [N, C, H, W] that are decoded when they are asked for.

    Args:
        entries: the files.
        shape: of one image, [C, H, W].
        like: a file of this size that all must share; None resizes and crops them.
    """

    def __init__(self, entries: Sequence[Entry], shape: tuple[int, int, int], like: str | None = None) -> None:
        self._entries, self._like = entries, like
        self.shape: tuple[int, ...] = (len(entries), *shape)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        chosen = self._entries[index] if isinstance(index, slice) else [self._entries[i] for i in index.tolist()]
        if not chosen:
            return torch.empty((0, *self.shape[1:]), dtype=torch.uint8)
        with ThreadPoolExecutor() as pool:
            return torch.stack(list(pool.map(self._decode, chosen)))

    def _decode(self, entry: Entry) -> Tensor:
        return decode(Path(entry.path), self.shape[1:], self._like)

    def at(self, indices: Tensor) -> "FolderPixels":
        """The images at these indices; none is read for it."""
        channels, height, width = self.shape[1:]
        return FolderPixels([self._entries[i] for i in indices.tolist()], (channels, height, width), self._like)

    def to(self, device: torch.device | str) -> "FolderPixels":
        """Itself: pixels are moved after decoding."""
        return self

    @cached_property
    def sha256(self) -> str:
        """Hash of names, sizes and dates of the files and of how they are read, wherever the folder lies."""
        content = sha256(repr((self.shape, CROP if self._like is None else None)).encode())
        for path, size, mtime_ns in self._entries:
            content.update(repr((path.split(os.sep)[-3:], size, mtime_ns)).encode())  # train, CLASS, name
        return content.hexdigest()

    def read(self) -> Tensor:
        """All of them, decoded once: the result is kept and found again while the files stay as they are."""
        path = cache_entry("data", self.sha256).with_suffix(".safetensors")
        return kept_tensors(path, lambda: {"images": self._decode_all()})["images"]

    def _decode_all(self) -> Tensor:
        try:
            return self._decode_each()
        except InputError as error:
            damaged = sum(not sound for sound in _each_works(self._decode, self._entries))
            raise InputError(f"{error} {damaged} of {len(self)} images cannot be used.") from None

    def _decode_each(self) -> Tensor:
        images = torch.empty(self.shape, dtype=torch.uint8)
        with tqdm(total=len(self), desc="decoding images", unit="img", disable=len(self) < AT_ONCE) as bar:
            for first in range(0, len(self), AT_ONCE):
                part = self[first : first + AT_ONCE]
                images[first : first + len(part)] = part
                bar.update(len(part))
        return images


def open_pixels(entries: Sequence[Entry], shape: tuple[int, int, int], like: str | None) -> Tensor | FolderPixels:
    """The images in memory, or read from their files each time where there are too many bytes of them."""
    pixels = FolderPixels(entries, shape, like)
    in_memory = len(pixels) * shape[0] * shape[1] * shape[2] <= MAX_IN_MEMORY
    return pixels.read() if in_memory else pixels


def list_folder(root: str | Path) -> Listing:
    """What `root/train/CLASS` and `root/test/CLASS` (or `val`) hold; classes are the subfolders of train, sorted.

    Raises:
        InputError: if a folder holds no images or cannot be read, or the test set has a class that the training set
            has not.
    """
    train_root = Path(root) / "train"
    if not train_root.is_dir():
        raise InputError(f"There is no folder {str(train_root)!r}; data.path must hold train/CLASS/*.png or .jpg.")
    names = sorted(entry.name for entry in os.scandir(train_root) if entry.is_dir())
    id2label = dict(enumerate(names))
    train, train_labels = _files(train_root, names)
    present = set(train_labels)
    for i, name in id2label.items():
        if i not in present:
            raise InputError(f"{train_root / name} holds no images (.png, .jpg); remove it or fill it.")
    if not names:
        raise InputError(f"{train_root} holds no subfolders; it must hold one for each class, with its images.")
    test_root = next((Path(root) / name for name in TEST_FOLDERS if (Path(root) / name).is_dir()), None)
    test: tuple[tuple[Entry, ...], tuple[int, ...]] = ((), ())
    if test_root is not None:
        for entry in os.scandir(test_root):
            if entry.is_dir() and entry.name not in names:
                raise InputError(f"{entry.path} is named after no class of {train_root}: {nearest(entry.name, names)}")
        test = _files(test_root, names)
        if not test[0]:
            raise InputError(
                f"{test_root} holds no images (.png, .jpg); fill it, or remove it to hold out a fifth of each class."
            )
    return Listing(id2label, train, train_labels, *test)


def _files(root: Path, names: Sequence[str]) -> tuple[tuple[Entry, ...], tuple[int, ...]]:
    entries: list[Entry] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = sorted(_scan(root / name)) if (root / name).is_dir() else []
        entries += found
        labels += [label] * len(found)
    return tuple(entries), tuple(labels)


def without_damaged(listing: Listing) -> Listing:
    """The listing without the files that cannot be decoded, which are counted and named; reads every file.

    Raises:
        InputError: if a class has no other images.
    """
    train, train_labels = _readable(listing.train, listing.train_labels)
    for i, name in listing.id2label.items():
        if i not in train_labels:
            raise InputError(f"No image of {name!r} can be read; fill its folder or remove it.")
    return Listing(listing.id2label, train, train_labels, *_readable(listing.test, listing.test_labels))


def _readable(entries: tuple[Entry, ...], labels: tuple[int, ...]) -> tuple[tuple[Entry, ...], tuple[int, ...]]:
    sound = _sound(entries)
    return tuple(compress(entries, sound)), tuple(compress(labels, sound))


@lru_cache(maxsize=4)
def _sound(entries: tuple[Entry, ...]) -> tuple[bool, ...]:
    """Which files can be decoded; says how many cannot, once a process."""
    checks = _each_works(_load, entries)
    sound = tuple(tqdm(checks, total=len(entries), desc="checking images", unit="img"))
    damaged = [Path(entry.path).name for entry, ok in zip(entries, sound, strict=True) if not ok]
    if damaged:
        named = ", ".join(damaged[:5]) + (", ..." if len(damaged) > 5 else "")
        tqdm.write(f"Skipped {len(damaged)} of {len(entries)} images that cannot be read: {named}", file=sys.stderr)
    return sound


def _load(entry: Entry) -> None:
    with _opened(Path(entry.path)) as picture:
        picture.load()


def _each_works(read: Callable[[Entry], object], entries: Sequence[Entry]) -> Iterator[bool]:
    """Whether each file can be read so, in order."""

    def works(entry: Entry) -> bool:
        try:
            read(entry)
        except InputError:
            return False
        return True

    with ThreadPoolExecutor() as pool:
        yield from pool.map(works, entries)


def _scan(folder: Path) -> Iterator[Entry]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.lower().endswith(SUFFIXES):
                    facts = entry.stat()
                    yield Entry(entry.path, facts.st_size, facts.st_mtime_ns)
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be read ({error}).") from None


def _look_at(path: str) -> tuple[str, tuple[int, int]]:
    with _opened(Path(path)) as picture:
        return picture.mode, picture.size


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as picture:
            yield picture
    except UNREADABLE as error:
        raise InputError(f"The image {path} cannot be read ({error}); replace or delete it.") from None


def decode(path: Path, shape: Sequence[int], like: str | None = None) -> Tensor:
    """An image file as uint8 of the shape [C, H, W].

    Args:
        like: a file that has the shape, as this one must; None resizes the shorter side (halved by boxes while that is
            possible, then bicubic) and cuts out the centre.

    Raises:
        InputError: if it cannot be read, or has another size.
    """
    channels, height, width = shape
    with _opened(path) as opened:
        picture = _of_8_bits(opened).convert("L" if channels == 1 else "RGB")
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


def _of_8_bits(picture: Image.Image) -> Image.Image:
    """Grey levels of 16 bits scaled down; Pillow would cut them off at 255."""
    if not picture.mode.startswith("I"):
        return picture
    return Image.fromarray((np.asarray(picture) / 257).round().astype(np.uint8))


def read_class_folders(root: Path, id2label: Mapping[int, str], shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Images uint8 [N, C, H, W] and labels [N] of `root/CLASS/*.{png,jpg}`, resized to the shape [C, H, W].

    Raises:
        InputError: if there are none, a subfolder is no class, or an image cannot be read.
    """
    if not root.is_dir():
        raise InputError(f"There is no folder {str(root)!r} of real images.")
    names = list(id2label.values())
    for entry in os.scandir(root):
        if entry.is_dir() and entry.name not in names:
            raise InputError(f"{entry.path} is named after no class: {nearest(entry.name, names)}")
    entries, positions = _files(root, names)
    if not entries:
        raise InputError(f"{root} holds no images in folders named after classes, such as {names[0]}/0.png.")
    channels, height, width = shape
    ids = list(id2label)
    return FolderPixels(entries, (channels, height, width))[:], torch.tensor([ids[i] for i in positions])
