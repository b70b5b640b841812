"""Features of the Shapes world's meaning: how many things of which colour and shape the detector reads in an image.

Where they are and how they are drawn does not enter: the opposite of colour_hog, which sees layout and colour. For
asking what similarity should be measured on (paper 5, ablation of the extractor).
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from pairuni.data.match import normalise
from pairuni.shapes.detector import detect
from pairuni.shapes.scenes import COLOURS, SHAPES

_WORDS = [*COLOURS, *SHAPES, *((colour, shape) for colour in COLOURS for shape in SHAPES)]


class ShapesContent:
    """Numbers of each colour, each shape and each coloured shape, and of regions that cannot be read, 35-d.

    A square of another colour is nearer than a circle of another colour; equal contents have cosine 1.
    """

    identity = "shapes_content-1"

    def features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """float32 [n, 35]."""
        return normalise(np.stack([self._row(image) for image in images]))

    def _row(self, image: np.ndarray) -> np.ndarray:
        found = detect(image)
        counts = Counter(word for t in found.things for word in (t.colour, t.shape, t.kind))
        # An image with nothing in it is like any other such.
        return np.array([*(counts[word] for word in _WORDS), found.unread + (not found.things)], dtype=np.float64)
