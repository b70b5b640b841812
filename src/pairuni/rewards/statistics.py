"""Plain statistics of drawn images, logged so that reward hacking shows: colours, edges, images that are all alike.

No reward is better for a higher or lower value; what matters is a drift. Shapes: R images of a group, of height H and
width W; K numbers of each.
"""

import numpy as np
from PIL import Image

_EDGE = 0.1
"""Change of brightness (0 to 1) between neighbours that counts as an edge."""
_LEVELS = 16
"""Per channel, when colours are counted."""
_THUMB = 8
_ALIKE = 0.02
"""Mean difference of thumbnails (0 to 1) below which two images are near-duplicates."""


def looks(images_RHWC: np.ndarray) -> np.ndarray:
    """float64 [R, 67] of each image, for `group_statistics`: saturation, edges, colours, a thumbnail's 64 cells.

    saturation: of HSV, mean over pixels. edges: share of pixels whose brightness changes by more than 0.1 to the right
    or downwards. colours: different ones at 16 levels per channel.

    Raises:
        ValueError: not uint8 [R, H, W, 3].
    """
    if images_RHWC.dtype != np.uint8 or images_RHWC.ndim != 4 or images_RHWC.shape[-1] != 3:
        raise ValueError(f"expected uint8 images [R, H, W, 3], not {images_RHWC.dtype} {images_RHWC.shape}")
    rows = [[*_of_image(image), *_thumbnail(image).flat] for image in images_RHWC]
    return np.array(rows, dtype=np.float64).reshape(len(images_RHWC), 3 + _THUMB**2)


def group_statistics(looks_RK: np.ndarray) -> dict[str, float]:
    """Of a group's images: saturation, edges, colours (means) and duplicates.

    duplicates: share of the group's pairs of images that look alike at 8 by 8 grey cells (0 with a single image).
    """
    saturation, edges, colours = looks_RK[:, :3].mean(axis=0).tolist()
    return {"saturation": saturation, "edges": edges, "colours": colours, "duplicates": _alike(looks_RK[:, 3:])}


def _of_image(image_HWC: np.ndarray) -> tuple[float, float, float]:
    pixels = image_HWC / 255.0
    most, least = pixels.max(axis=-1), pixels.min(axis=-1)
    saturation = np.where(most > 0, (most - least) / np.maximum(most, 1e-9), 0.0).mean()
    grey = pixels.mean(axis=-1)
    right, down = np.abs(np.diff(grey, axis=1)) > _EDGE, np.abs(np.diff(grey, axis=0)) > _EDGE
    edges = (right[:-1] | down[:, :-1]).mean() if min(grey.shape) > 1 else 0.0
    levels = (image_HWC // (256 // _LEVELS)).astype(np.int64).reshape(-1, 3)
    return float(saturation), float(edges), float(len(np.unique(levels @ (_LEVELS**2, _LEVELS, 1))))


def _alike(thumbs_RK: np.ndarray) -> float:
    count = len(thumbs_RK)
    if count < 2:
        return 0.0
    apart = np.abs(thumbs_RK[:, None] - thumbs_RK[None]).mean(axis=-1)
    return float((apart[np.triu_indices(count, 1)] < _ALIKE).mean())


def _thumbnail(image_HWC: np.ndarray) -> np.ndarray:
    """[8, 8] means of grey cells in [0, 1]."""
    small = Image.fromarray(image_HWC).convert("L").resize((_THUMB, _THUMB), Image.Resampling.BOX)
    return np.asarray(small) / 255.0
