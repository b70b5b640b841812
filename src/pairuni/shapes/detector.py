"""Reads a scene back from pixels: regions that differ from the background, their colour, their outline, their cell.

It knows the palette and the outlines but nothing of how an image was made, so it reads drawings, reconstructions and
samples of a model alike, and says which regions it cannot read instead of guessing.
"""

from dataclasses import dataclass
from typing import cast

import numpy as np
from PIL import Image
from scipy import ndimage

from pairuni.shapes.scenes import COLOURS, GRID, MOST, SHAPES, Scene, Thing, scene_of

_PALETTE = np.array(list(COLOURS.values()), dtype=np.float64)
_GRID_PIXELS = 12
"""Side of the grid on which outlines are compared."""
_CONTRAST = 70.0
"""RGB distance from the background at which a pixel belongs to a region."""
_COLOUR_TOLERANCE = 62.0
"""RGB distance to the nearest palette colour up to which a colour is read."""
_OUTLINE_TOLERANCE, _OUTLINE_MARGIN = 0.17, 0.02
"""Mean absolute difference up to which an outline is read, and how much nearer than the second best it must be."""
_LEAST_AREA = 0.004
"""Regions smaller than this share of the image are specks: they make an image unreadable only in numbers."""


@dataclass(frozen=True)
class Detection:
    """The things that were read, and the number of regions that could not be read."""

    things: tuple[Thing, ...]
    unread: int

    @property
    def scene(self) -> Scene | None:
        """The scene, None where a region is unread, two things share a cell, or there are none or too many."""
        cells = {(t.row, t.column) for t in self.things}
        if self.unread or not 1 <= len(self.things) <= MOST or len(cells) != len(self.things):
            return None
        return scene_of(list(self.things))


def read_scene(image: np.ndarray) -> Scene | None:
    """The scene in a uint8 image [H, W, 3], None where it cannot be read as a whole."""
    return detect(image).scene


def detect(image: np.ndarray) -> Detection:
    """Reads every region of a uint8 image [H, W, 3]. Raises ValueError: the array is not such an image."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected a uint8 image [H, W, 3], got {image.dtype} {image.shape}")
    pixels = image.astype(np.float64)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    background = np.median(border, axis=0)
    contrast = np.linalg.norm(pixels - background, axis=2)
    # Annotated as an int too, which it is only with output=.
    labels, _ = cast(tuple[np.ndarray, int], ndimage.label(contrast > _CONTRAST))
    things, unread, specks = [], 0, 0
    for index, window in enumerate(ndimage.find_objects(labels), 1):
        inside = labels[window] == index
        if inside.sum() < _LEAST_AREA * labels.size:
            specks += 1
            continue
        thing = _read_region(pixels[window], contrast[window], inside, (window[0].start, window[1].start), labels.shape)
        if thing is None:
            unread += 1
        else:
            things.append(thing)
    # A stray pixel is a blemish; many are noise.
    return Detection(tuple(sorted(things)), unread + specks // 4)


def _read_region(
    pixels: np.ndarray, contrast: np.ndarray, inside: np.ndarray, corner: tuple[int, int], size: tuple[int, ...]
) -> Thing | None:
    core = cast(np.ndarray, ndimage.binary_erosion(inside))
    core = core if core.any() else inside
    colour_rgb = np.median(pixels[core], axis=0)
    distances = np.linalg.norm(_PALETTE - colour_rgb, axis=1)
    nearest = int(distances.argmin())
    cover = np.clip(contrast * inside / np.median(contrast[core]), 0, 1)
    shape = _read_outline(cover)
    if distances[nearest] > _COLOUR_TOLERANCE or shape is None:
        return None
    y, x = cast(tuple[float, float], ndimage.center_of_mass(cover))  # a list only with index=
    row, column = int((corner[0] + y + 0.5) / size[0] * GRID), int((corner[1] + x + 0.5) / size[1] * GRID)
    return Thing(row, column, shape, list(COLOURS)[nearest])


def _read_outline(cover: np.ndarray) -> str | None:
    """The shape whose outline is nearest to `cover` [h, w] in [0, 1], None where none is near or two are.

    The outline is the half-cover contour at a quarter of a pixel: soft edges move it little.
    """
    padded = np.pad(cover, 1).astype(np.float32)
    fine_size = (padded.shape[1] * 4, padded.shape[0] * 4)
    fine = np.asarray(Image.fromarray(padded).resize(fine_size, Image.Resampling.BILINEAR)) > 0.5
    rows, columns = np.flatnonzero(fine.any(1)), np.flatnonzero(fine.any(0))
    if min(len(rows), len(columns)) < 16 or max(len(rows), len(columns)) > 1.5 * min(len(rows), len(columns)):
        return None
    outline = fine[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32)
    stretched = Image.fromarray(outline).resize((_GRID_PIXELS, _GRID_PIXELS), Image.Resampling.BOX)
    errors = np.abs(np.asarray(stretched)[None] - _OUTLINES).mean((1, 2))
    best, second = np.sort(errors)[:2]
    if best > _OUTLINE_TOLERANCE or second - best < _OUTLINE_MARGIN:
        return None
    return SHAPES[int(errors.argmin())]


def _outlines() -> np.ndarray:
    """float [shape, grid, grid]: each shape filling its bounding box, in the order of SHAPES."""
    axis = (np.arange(_GRID_PIXELS * 8) + 0.5) / (_GRID_PIXELS * 4) - 1
    x, y = axis[None, :], axis[:, None]
    filled = [
        x**2 + y**2 <= 1,
        (x < 2) & (y < 2),
        abs(x) <= (y + 1) / 2,
        np.minimum(abs(x), abs(y)) <= 1 / 3,
    ]
    return np.stack([f.reshape(_GRID_PIXELS, 8, _GRID_PIXELS, 8).mean((1, 3)) for f in filled])


_OUTLINES = _outlines()
