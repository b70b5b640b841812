"""Features without weights: tones, hues and gradient directions over an image, in NumPy and PIL alone.

Made so that a similarity of 0.6 means alike in layout and colour. For trying a pipeline, and for tests; the paper's
choice is ResNet-50 (vision.py).
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from pairuni.data.match import normalise


class ColourHog:
    """Tones, chroma-weighted hues and gradient directions on soft grids, 406-d, in NumPy and PIL alone.

    Each of the three is centred and brought to equal length before weighting, because raw histograms are all positive
    and hence all similar. On photographs about 2 % of random pairs reach 0.6, near-duplicates stay above 0.85.
    """

    identity = "colour_hog-1"
    _SIDE = 64
    _TONE, _HUE, _GRADIENT = 0.25, 0.4, 0.35  # shares of the squared length
    _QUIET = 0.05  # lengths below this (grey or empty images) fade out instead of being blown up

    def features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """float32 [n, 406]."""
        return normalise(np.stack([self._row(image) for image in images]))

    def _row(self, image: np.ndarray) -> np.ndarray:
        small = Image.fromarray(image).resize((self._SIDE, self._SIDE), Image.Resampling.BICUBIC, reducing_gap=2.0)
        rgb = np.asarray(small, dtype=np.float64) / 255
        grey = rgb.mean(axis=2)
        parts = [(self._TONE, _tones(grey)), (self._HUE, _hues(rgb)), (self._GRADIENT, _gradients(grey))]
        return np.concatenate(
            [np.sqrt(share) * part.ravel() / (np.linalg.norm(part) + self._QUIET) for share, part in parts]
        )


def _tones(grey: np.ndarray) -> np.ndarray:
    tones = np.sqrt(_pooled(_soft_bins(grey, 4, ring=False), 4))
    return tones - tones.mean(axis=2, keepdims=True)


def _hues(rgb: np.ndarray) -> np.ndarray:
    """Hues count by their chroma, so that grey surroundings do not make coloured things alike."""
    red, green, blue = np.moveaxis(rgb, 2, 0)
    angle = np.arctan2(np.sqrt(3) * (green - blue), 2 * red - green - blue)
    chroma = rgb.max(axis=2) - rgb.min(axis=2)
    hues = np.sqrt(_pooled(_soft_bins(angle / (2 * np.pi) % 1, 6, ring=True) * chroma[..., None], 3))
    return hues - hues.mean(axis=2, keepdims=True)


def _gradients(grey: np.ndarray) -> np.ndarray:
    down, right = np.gradient(grey)
    strength, angle = np.hypot(down, right), np.arctan2(down, right) / np.pi % 1
    cells = _pooled(_soft_bins(angle, 8, ring=True) * strength[..., None], 6)
    cells = np.sqrt(cells / (np.linalg.norm(cells, axis=2, keepdims=True) + 0.02))
    return cells - cells.mean()


def _soft_bins(values: np.ndarray, bins: int, ring: bool) -> np.ndarray:
    """[H, W] in [0, 1] -> [H, W, bins]: each value is shared by the two nearest bins; on a ring, 1 is 0 again."""
    place = values * (bins if ring else bins - 1)
    offset = np.abs(place[..., None] - np.arange(bins))
    return np.maximum(0, 1 - (np.minimum(offset, bins - offset) if ring else offset))


def _pooled(maps: np.ndarray, cells: int) -> np.ndarray:
    """[S, S, C] -> [cells, cells, C]: means under overlapping triangles, so that small shifts change little."""
    size = len(maps)
    centres, width = (np.arange(cells) + 0.5) * size / cells, size / cells
    window = np.maximum(0, 1 - np.abs(np.arange(size)[:, None] + 0.5 - centres) / width)
    window /= window.sum(axis=0)
    return np.einsum("ya,xb,yxc->abc", window, window, maps, optimize=True)
