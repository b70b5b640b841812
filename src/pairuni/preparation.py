"""Image preprocessing of vision models: resizes the shorter side, crops the centre, normalises.

Uses PIL as the models' own processors in transformers do; the fast processors would need torchvision. Features
(data/vision.py) and rewards (rewards/clip_scores.py) share it.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OPENAI = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
"""(mean, deviation) per channel."""


@dataclass(frozen=True)
class Preparation:
    """How one model's input is made from an image."""

    crop: int
    """Side of the input in pixels."""
    resize: int | None
    """Shorter side before the centre is cropped; None: both sides are resized to `crop`."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resample: Image.Resampling = Image.Resampling.BICUBIC

    def pixels(self, image: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] -> float32 [3, crop, crop]."""
        picture = Image.fromarray(image)
        if self.resize is None:
            picture = picture.resize((self.crop, self.crop), self.resample)
        else:
            # The longer side is truncated to whole pixels, not rounded, as in the processors.
            shorter = min(picture.size)
            width, height = (int(self.resize * side / shorter) for side in picture.size)
            left, top = (width - self.crop) // 2, (height - self.crop) // 2
            box = (left, top, left + self.crop, top + self.crop)
            picture = picture.resize((width, height), self.resample).crop(box)
        scaled = (np.asarray(picture, dtype=np.float64) / 255 - self.mean) / self.std
        return np.ascontiguousarray(scaled.transpose(2, 0, 1), dtype=np.float32)
