"""Images from disk or memory: decoded as a viewer shows them, or the reason why not.

`load_image` is for data that has been checked: it raises. `look` is for collections that have not: it says what is
wrong with an image, and what had to be done to it, for the caller to count. Both decide alike. Of a file with several
pictures that do not play (a photograph with its depth map, pages) the first one counts.
"""

import hashlib
import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from pairuni.errors import InputError

BROKEN_IMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
"""PIL's errors for images that it cannot read."""
_PLAYS = frozenset({"GIF", "PNG", "WEBP", "AVIF"})
"""Formats whose further pictures are the frames of an animation."""
_WIDE = {"I": "32-bit grey", "F": "floating-point grey"}
_TURNED = 0x0112  # the EXIF tag that says how a camera was held
# `_opened` refuses what PIL only warns of. Filters are the process': changing them per image is not safe in threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class _Animated(ValueError):
    """The file holds an animation."""


@dataclass(frozen=True)
class LoadedImage:
    """An image and what identifies it."""

    pixels: np.ndarray
    """uint8 [H, W, 3]."""
    content_hash: str
    """SHA-256 of the file."""
    notes: tuple[str, ...] = ()
    """Unusual features of the file that were corrected while it was decoded."""


@dataclass(frozen=True)
class StoredImage:
    """An image file's bytes, not decoded yet, and where they are from."""

    content: bytes
    file: str
    line: int


def load_image(image: str | Path | StoredImage) -> np.ndarray:
    """Decodes an image to uint8 [H, W, 3]: turned as its EXIF says, transparency over white.

    32-bit and floating-point grey values are scaled so that the image's own least value is black and its largest white.

    Raises:
        InputError: the file is missing, is not an image, is cut off, is animated, has wide grey values that are not
            finite or all equal, or is so large that PIL takes it for an attack.
    """
    stored = isinstance(image, StoredImage)
    place: dict[str, Any] = {"file": image.file, "line": image.line} if stored else {"file": image}
    try:
        with _opened(io.BytesIO(image.content) if stored else image) as file:
            return _decoded(file)
    except FileNotFoundError:
        raise InputError("no such image", **place) from None
    except BROKEN_IMAGE as err:
        raise InputError(f"cannot be read as an image ({err})", **place) from None


def look(content: bytes) -> LoadedImage | str:
    """The image in a file's bytes as `load_image` decodes it, or why it cannot be used."""
    if not content:
        return "the image file is empty"
    notes = []
    try:
        with _opened(io.BytesIO(content)) as file:
            file.verify()  # checksums, which decoding may pass over
        with _opened(io.BytesIO(content)) as file:
            if file.mode == "CMYK":
                notes.append("CMYK turned into RGB")
            if file.mode in _WIDE:
                notes.append(f"{_WIDE[file.mode]} scaled to its range")
            if file.getexif().get(_TURNED, 1) != 1:
                notes.append("turned as its EXIF says")
            pixels = _decoded(file)
    except Image.DecompressionBombError:
        return "the image is too large"
    except _Animated:
        return "the image is animated"
    except BROKEN_IMAGE:
        return "the image cannot be read"
    return LoadedImage(pixels, hashlib.sha256(content).hexdigest(), tuple(notes))


@contextmanager
def _opened(source: str | Path | io.BytesIO) -> Iterator[Image.Image]:
    """Opens an image. Raises _Animated, and DecompressionBombError from PIL's own limit of pixels on."""
    with Image.open(source) as file:
        if file.format in _PLAYS and getattr(file, "n_frames", 1) > 1:
            raise _Animated("it is animated: save one picture of it")
        if Image.MAX_IMAGE_PIXELS is not None and file.width * file.height > Image.MAX_IMAGE_PIXELS:
            raise Image.DecompressionBombError(f"{file.width} x {file.height} pixels are too many")
        yield file


def _decoded(file: Image.Image) -> np.ndarray:
    """uint8 [H, W, 3]. Raises ValueError: wide grey values that are not finite, or are all equal."""
    file.load()
    image = ImageOps.exif_transpose(file)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))  # PIL would cut values off at 255
    elif image.mode in _WIDE:  # there too
        values, named = np.asarray(image, dtype=np.float64), f"{_WIDE[image.mode]}, mode {image.mode}, with"
        if not np.isfinite(values).all():
            raise ValueError(f"{named} values that are not finite")
        low, high = values.min(), values.max()
        if low == high:
            raise ValueError(f"{named} one value everywhere: nothing can be seen")
        image = Image.fromarray(np.rint((values - low) * (255 / (high - low))).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))
