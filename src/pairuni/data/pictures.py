"""Images as data URIs for pages that refer to nothing outside themselves: the report and the gallery of pairs.

An image that cannot be shown (missing, broken, outside its folder) becomes a note: pages outlive their data.
"""

import io
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pairuni.data.images import load_image
from pairuni.errors import InputError
from pairuni.records import resolve_image

MAX_SIDE = 256
_QUALITY = 80


@dataclass(frozen=True)
class Picture:
    """An embedded image, or the reason why there is none. `small`: to be magnified without smoothing."""

    uri: str | None
    alt: str
    note: str = ""
    small: bool = False


def embed(name: str, root: Path, alt: str, side: int = MAX_SIDE, jpeg: bool = False) -> Picture:
    """The image `name` inside `root`, downscaled to at most `side` pixels; a note where it cannot be read.

    Args:
        jpeg: a third of the bytes for photographs. Images that are small already stay PNG, exact to the pixel.
    """
    try:
        image = Image.fromarray(load_image(resolve_image(name, root)))
    except InputError as err:
        return Picture(None, alt, err.message)
    small = max(image.size) <= side // 2
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if jpeg and not small:
        image.save(buffer, format="JPEG", quality=_QUALITY, optimize=True)
    else:
        image.save(buffer, format="PNG", optimize=True)
    kind = "jpeg" if jpeg and not small else "png"
    return Picture(f"data:image/{kind};base64," + b64encode(buffer.getvalue()).decode("ascii"), alt, small=small)
