"""Statistics of drawn images, logged to reveal reward hacking: colours, edges, images that are all alike.

Neither a high nor a low value is good; watch for drift. Shapes: R images of a group, of height H and width W; K numbers
of each.
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
    rows = []
    for image in images_RHWC:
        pixels = image / 255.0
        most, least = pixels.max(axis=-1), pixels.min(axis=-1)
        saturation = np.where(most > 0, (most - least) / np.maximum(most, 1e-9), 0.0).mean()
        grey = pixels.mean(axis=-1)
        right, down = np.abs(np.diff(grey, axis=1)) > _EDGE, np.abs(np.diff(grey, axis=0)) > _EDGE
        edges = (right[:-1] | down[:, :-1]).mean() if min(grey.shape) > 1 else 0.0
        levels = (image // (256 // _LEVELS)).astype(np.int64).reshape(-1, 3)
        colours = len(np.unique(levels @ (_LEVELS**2, _LEVELS, 1)))
        small = Image.fromarray(image).convert("L").resize((_THUMB, _THUMB), Image.Resampling.BOX)
        rows.append([saturation, edges, colours, *(np.asarray(small) / 255.0).flat])
    return np.array(rows, dtype=np.float64).reshape(len(images_RHWC), 3 + _THUMB**2)


def group_statistics(looks_RK: np.ndarray) -> dict[str, float]:
    """Of a group's images: saturation, edges, colours (means) and duplicates.

    duplicates: share of the group's pairs of images that look alike at 8 by 8 grey cells (0 with a single image).
    """
    saturation, edges, colours = looks_RK[:, :3].mean(axis=0).tolist()
    thumbs_RK, duplicates = looks_RK[:, 3:], 0.0
    if len(thumbs_RK) > 1:
        apart_RR = np.abs(thumbs_RK[:, None] - thumbs_RK[None]).mean(axis=-1)
        duplicates = float((apart_RR[np.triu_indices(len(thumbs_RK), 1)] < _ALIKE).mean())
    return {"saturation": saturation, "edges": edges, "colours": colours, "duplicates": duplicates}
