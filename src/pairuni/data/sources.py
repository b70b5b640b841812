"""Reads understanding and generation samples and looks at their images (paper 2, inputs).

Errors in a file's format stop the run. Images that are missing or broken do not, since large collections always hold
some: `image_fault` says what is wrong with one, for the completion stage to count and reject.
"""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pairuni.data.dataset import BROKEN_IMAGE, load_image
from pairuni.errors import InputError
from pairuni.records import Sample, Side, read_samples


@dataclass(frozen=True)
class Sources:
    """The samples of both sides, understanding first, and the folder that their image paths are relative to."""

    samples: tuple[Sample, ...]
    image_root: Path


def read_sources(understanding: str | Path, generation: str | Path, image_root: str | Path | None = None) -> Sources:
    """Reads both files. Without `image_root`, images are relative to the files' folder, which must be the same.

    Raises:
        InputError: as `read_samples`, an id occurs on both sides, or the files lie in different folders and no
            image_root is given.
    """
    files = {Side.UNDERSTANDING: Path(understanding), Side.GENERATION: Path(generation)}
    if image_root is None:
        folders = {path.parent.resolve() for path in files.values()}
        if len(folders) > 1:
            raise InputError("is needed, because the two files lie in different folders", field="image_root")
        image_root = files[Side.UNDERSTANDING].parent
    by_side = {side: read_samples(path, side, image_root) for side, path in files.items()}
    both = {s.id for s in by_side[Side.UNDERSTANDING]} & {s.id for s in by_side[Side.GENERATION]}
    if both:
        raise InputError(
            f"{min(both)!r} occurs in {files[Side.UNDERSTANDING]} too", file=files[Side.GENERATION], field="id"
        )
    return Sources(tuple(s for samples in by_side.values() for s in samples), Path(image_root))


def image_fault(path: Path) -> str | None:
    """Why the image cannot be used (missing, empty, not an image, cut off), None where it decodes as a whole."""
    try:
        with Image.open(path) as file:
            file.verify()  # checksums, which decoding may pass over
    except FileNotFoundError:
        return "the image does not exist"
    except BROKEN_IMAGE:
        return "the image cannot be read"
    try:
        load_image(path)
    except InputError:
        return "the image cannot be read"
    return None
