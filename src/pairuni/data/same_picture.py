"""Are two images one picture that was resized, encoded again, cropped a little, or made brighter or darker?

Hashes and features call different texts, charts and flat colours alike, so they only propose; here pixels decide.
The smaller picture is laid over the part of the other one that it fits best, one gain and offset bring them to the
same brightness, and no patch may differ by more than encoding and resampling make it differ.
Arrays are [H, W, 3]; boxes are (left, top, right, bottom) as fractions of a picture.
"""

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from scipy.optimize import least_squares

_STORED = 192
"""Side of what is kept of a picture."""
_SIDE = 96
"""Side at which patches are compared, and the side of the smallest image for which `_LIMIT` holds."""
_PATCH = 8
_LIMIT = 18.0
"""Most mean difference of a patch, of 255. Made cases: copies of photographs up to 14; different texts and charts 28
and more (tests/data/test_near_copies.py)."""
_LEAST = 0.78
"""Least share of a side that a crop keeps."""
_COARSE = 32
_ALIKE = 0.85
"""Least correlation at the coarse side for a closer look."""
_FLAT = 3.0
"""Standard deviations of pixels below this are no structure that a change of brightness could be told from."""
_CLIPPED = 4
_GAINS = (0.5, 2.0)
_FITS, _KEPT = 3, 0.8
"""How often gain and offset are fitted anew, each time to the share of values that fitted best."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Thumbnail:
    """A small version of an image, for comparing it."""

    picture: Image.Image
    """RGB, square."""
    side: int
    """The shorter side of the image, in pixels."""


def thumbnail(image: np.ndarray) -> Thumbnail:
    """From uint8 [H, W, 3]."""
    side = min(image.shape[:2])
    how = Image.Resampling.BOX if side >= _STORED else Image.Resampling.BICUBIC
    return Thumbnail(Image.fromarray(image).resize((_STORED, _STORED), how), side)


def same_picture(first: Thumbnail, second: Thumbnail) -> bool:
    """Whether one is the other resized, encoded again, brightened, or cropped by up to a fifth of each side."""
    limit = _LIMIT * min(1.0, min(first.side, second.side) / _SIDE)
    if _difference(first.picture, _resized(second.picture, _SIDE)) <= limit:
        return True
    pictures = first.picture, second.picture
    greys = [_grey(picture) for picture in pictures]
    for whole, part in ((0, 1), (1, 0)):
        box = _coarse_box(greys[whole], greys[part])
        if box is not None:
            for side in (_COARSE, _SIDE):
                box = _fitted_box(greys[whole], greys[part], box, side)
            if _difference(pictures[whole], _resized(pictures[part], _SIDE), box) <= limit:
                return True
    return False


def _grey(picture: Image.Image) -> Image.Image:
    """The mean of the channels, as float32."""
    return Image.fromarray(np.asarray(picture, dtype=np.float32) @ np.full(3, 1 / 3, dtype=np.float32))


def _resized(picture: Image.Image, side: int, box: Box = (0, 0, 1, 1)) -> np.ndarray:
    """float32 [side, side, 3] of what the box holds, [side, side] of a grey picture."""
    left, top, right, bottom = box
    pixels = _STORED * left, _STORED * top, _STORED * right, _STORED * bottom
    return np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR, box=pixels), dtype=np.float32)


def _difference(picture: Image.Image, wanted: np.ndarray, box: Box = (0, 0, 1, 1)) -> float:
    """The largest mean difference of a patch, after one gain and one offset for all pixels that are not clipped.

    The gain is fitted to all of them and, because edges beside a clipped colour are no measure of brightness, to those
    that fit best; the better one counts. It is applied before the picture is made small, while edges are sharp.
    """
    pixels = _resized(picture, _SIDE, box)
    clear = ((wanted > _CLIPPED) & (wanted < 255 - _CLIPPED)).all(axis=2)
    x, y = (pixels[clear], wanted[clear]) if clear.mean() > 0.01 else (pixels, wanted)
    levels = [(1.0, 0.0)]
    if max(pixels.std(axis=(0, 1)).max(), wanted.std(axis=(0, 1)).max()) > _FLAT and x.std() > 0:
        levels = [_level(x, y)]
        for _ in range(_FITS):
            apart = np.abs(levels[-1][0] * x + levels[-1][1] - y)
            best = apart <= np.quantile(apart, _KEPT)
            x, y = x[best], y[best]
            if not x.std() > 0:
                break
            levels.append(_level(x, y))
    differences = []
    for gain, offset in {levels[0], levels[-1]}:
        level = np.clip(gain * np.asarray(picture, dtype=np.float32) + offset, 0, 255).round().astype(np.uint8)
        apart = np.abs(_resized(Image.fromarray(level), _SIDE, box) - wanted).max(axis=2)
        patches = len(apart) // _PATCH
        differences.append(float(apart.reshape(patches, _PATCH, patches, _PATCH).mean(axis=(1, 3)).max()))
    return min(differences)


def _level(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The gain within its limits, and the offset, that bring `x` nearest to `y` by least squares."""
    gain = float(np.clip(((x - x.mean()) * (y - y.mean())).mean() / x.var(), *_GAINS))
    return gain, float(y.mean() - gain * x.mean())


def _coarse_box(whole: Image.Image, part: Image.Image) -> Box | None:
    """Where the part fits the whole best by correlation, None where it fits nowhere. Both are grey."""
    grey = _resized(whole, _COARSE)
    grey = grey - grey.mean()
    best, box = _ALIKE, None
    for height in np.linspace(_LEAST, 1, 4):
        for width in np.linspace(_LEAST, 1, 4):
            rows, columns = round(_COARSE * height), round(_COARSE * width)
            template = np.asarray(part.resize((columns, rows), Image.Resampling.BILINEAR))
            template = template - template.mean()
            windows = sliding_window_view(grey, template.shape)
            rows_WP = windows.reshape(-1, template.size)  # at most 64 windows
            squares_W = (rows_WP**2).sum(axis=1) - rows_WP.sum(axis=1) ** 2 / template.size
            size_W = np.sqrt(np.maximum(squares_W, 1e-3)) * max(float(np.linalg.norm(template)), 1e-3)
            fit_W = rows_WP @ template.ravel() / size_W
            place = int(np.argmax(fit_W))
            if fit_W[place] > best:
                best = float(fit_W[place])
                y, x = divmod(place, windows.shape[1])
                box = (x / _COARSE, y / _COARSE, (x + columns) / _COARSE, (y + rows) / _COARSE)
    return box


def _fitted_box(whole: Image.Image, part: Image.Image, box: Box, side: int) -> Box:
    """The box moved to where the pixels of two grey pictures, brought to one brightness, differ least."""

    def normed(grey: np.ndarray) -> np.ndarray:
        centred = grey - grey.mean()
        return centred / (np.linalg.norm(centred) + 1e-6)

    wanted = normed(_resized(part, side))

    def apart(edges: np.ndarray) -> np.ndarray:
        left, top, right, bottom = np.clip(edges - 1, 0, 1)
        if min(right - left, bottom - top) < 0.5:
            return np.ones(side * side)
        return (normed(_resized(whole, side, (left, top, right, bottom))) - wanted).ravel()

    # Edges in [1, 2]: the step of the numerical derivative is relative.
    start = np.clip(box, 0.002, 0.998) + 1
    found = least_squares(apart, start, diff_step=0.2 / side, bounds=(1, 2), max_nfev=12)
    left, top, right, bottom = (float(edge) for edge in found.x - 1)
    return left, top, right, bottom
