"""Plain statistics of drawn images, logged so that reward hacking shows: colours, edges, images that are all alike.

No reward is better for a higher or lower value; what matters is a drift. Shapes: B groups, R images of height H and
width W.
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


def image_statistics(images_BRHWC: np.ndarray) -> dict[str, np.ndarray]:
    """Per group, float64 [B]: saturation, edges, colours (means over its images) and duplicates.

    saturation: of HSV, mean over pixels. edges: share of pixels whose brightness changes by more than 0.1 to the right
    or downwards. colours: different ones at 16 levels per channel. duplicates: share of the group's pairs of images
    that look alike at 8 by 8 grey cells (0 with a single image).

    Raises:
        ValueError: not uint8 [B, R, H, W, 3].
    """
    if images_BRHWC.dtype != np.uint8 or images_BRHWC.ndim != 5 or images_BRHWC.shape[-1] != 3:
        raise ValueError(f"expected uint8 images [B, R, H, W, 3], not {images_BRHWC.dtype} {images_BRHWC.shape}")
    columns = [[_of_image(image) for image in group] for group in images_BRHWC]
    means = np.array(columns, dtype=np.float64).reshape(len(images_BRHWC), -1, 3).mean(axis=1)
    duplicates = np.array([_alike(group) for group in images_BRHWC])
    return {"saturation": means[:, 0], "edges": means[:, 1], "colours": means[:, 2], "duplicates": duplicates}


def _of_image(image_HWC: np.ndarray) -> tuple[float, float, float]:
    pixels = image_HWC / 255.0
    most, least = pixels.max(axis=-1), pixels.min(axis=-1)
    saturation = np.where(most > 0, (most - least) / np.maximum(most, 1e-9), 0.0).mean()
    grey = pixels.mean(axis=-1)
    right, down = np.abs(np.diff(grey, axis=1)) > _EDGE, np.abs(np.diff(grey, axis=0)) > _EDGE
    edges = (right[:-1] | down[:, :-1]).mean() if min(grey.shape) > 1 else 0.0
    levels = (image_HWC // (256 // _LEVELS)).astype(np.int64).reshape(-1, 3)
    return float(saturation), float(edges), float(len(np.unique(levels @ (_LEVELS**2, _LEVELS, 1))))


def _alike(group_RHWC: np.ndarray) -> float:
    count = len(group_RHWC)
    if count < 2:
        return 0.0
    thumbs = np.stack([_thumbnail(image) for image in group_RHWC]).reshape(count, -1)
    apart = np.abs(thumbs[:, None] - thumbs[None]).mean(axis=-1)
    return float((apart[np.triu_indices(count, 1)] < _ALIKE).mean())


def _thumbnail(image_HWC: np.ndarray) -> np.ndarray:
    """[8, 8] means of grey cells in [0, 1]."""
    small = Image.fromarray(image_HWC).convert("L").resize((_THUMB, _THUMB), Image.Resampling.BOX)
    return np.asarray(small) / 255.0
