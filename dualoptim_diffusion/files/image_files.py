"""One image file as numbers, without torch, so that processes which do only this start at once."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageOps

from dualoptim_diffusion.core.errors import InputError, reason

GREY_MODES = ("1", "L", "LA", "La", "I", "F")  # and I;16 and its likes
MAX_16_BITS = 2**16 - 1
UPRIGHT = "upright by Exif"  # bump where an image file is read as other pixels than before
CROP = "box halvings, then bicubic; centre"  # how `decode` makes images of one size


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


class Look(NamedTuple):
    """What the head of an image file says."""

    is_grey: bool
    is_transparent: bool


def look_at(path: str) -> bytes:
    """A `Look` as JSON. Nothing is decoded; a file that is no image says nothing against grey."""
    return json.dumps(_look(path)).encode()


def _look(path: str) -> Look:
    with suppress(InputError), opened(Path(path)) as picture:
        grey = picture.mode in GREY_MODES or picture.mode.startswith("I;16")
        if picture.mode in ("P", "PA") and (palette := picture.getpalette("RGB")):
            grey = all(palette[i] == palette[i + 1] == palette[i + 2] for i in range(0, len(palette), 3))
        return Look(grey, picture.has_transparency_data)
    return Look(True, False)


def size_of(path: str) -> tuple[int, int]:
    """Width and height of an image as it is seen."""
    with opened(Path(path)) as picture:
        return ImageOps.exif_transpose(picture).size


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as picture:
            yield picture
    except (InputError, MemoryError):
        raise
    except Exception as error:  # Pillow's readers raise any kind on damaged files
        raise InputError(f"The image {path} cannot be read ({reason(error)}); replace or delete it.") from None


def decoded(path: str | Path, reading: Reading) -> NDArray[np.uint8]:
    """An image file as uint8 [C, H, W]: of several frames the first, upright.

    What has another size than the reading asks for has its shorter side resized (halved by boxes while that is
    possible, then bicubic) and its centre cut out, where the reading names no file that all must be like.

    Raises:
        InputError: if it cannot be read, or has another size than that file.
    """
    (channels, height, width), like, background = reading
    path = Path(path)
    with opened(path) as stored:
        picture = plain(stored, channels, str(path), background)
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
    return pixels_of(picture)


def plain(picture: Image.Image, channels: int, name: str, background: str = "white") -> Image.Image:
    """The first frame, upright, on a background, as 8-bit grey (1 channel) or RGB.

    Raises:
        InputError: if its levels are of no known range; it calls the picture by the name given.
    """
    flat = _flat(_of_8_bits(ImageOps.exif_transpose(picture), name), background)
    return flat.convert("L" if channels == 1 else "RGB")


def pixels_of(picture: Image.Image) -> NDArray[np.uint8]:
    """uint8 [C, H, W]."""
    return np.ascontiguousarray(np.array(picture).reshape(picture.height, picture.width, -1).transpose(2, 0, 1))


def decoded_bytes(path: str, *reading: Any) -> bytes:
    """The same, of the parts of a reading."""
    return decoded(path, Reading(*reading)).tobytes()


def _of_8_bits(picture: Image.Image, name: str) -> Image.Image:
    """Grey levels of 16 bits scaled down; Pillow would cut them off at 255.

    Raises:
        InputError: if the levels are of another range, which nothing tells.
    """
    if not picture.mode.startswith(("I", "F")):
        return picture
    levels = np.asarray(picture)
    if picture.mode == "F" or levels.min() < 0 or levels.max() > MAX_16_BITS:
        raise InputError(f"The image {name} holds levels of no known range; save it with 8 or 16 bits.")
    return Image.fromarray((levels / 257).round().astype(np.uint8))


def _flat(picture: Image.Image, background: str) -> Image.Image:
    """A transparent image laid on a colour: what lies hidden under full transparency is nobody's choice."""
    if not picture.has_transparency_data:
        return picture
    above = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", above.size, ImageColor.getcolor(background, "RGBA")), above)
