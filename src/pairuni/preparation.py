"""Vision models of features (data/vision.py) and of rewards: loading them whole, and preprocessing of their images.

Preprocessing resizes the shorter side, crops the centre and normalises, with PIL as the models' own processors in
transformers do; the fast processors would need torchvision.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from safetensors import SafetensorError

from pairuni.errors import InputError

_BROKEN = (OSError, ValueError, TypeError, KeyError, RuntimeError, AttributeError)
_BROKEN += (SafetensorError, StrictDataclassError)
"""Errors of the libraries that read weights and tokenizers, for files that are absent, cut off or of another model."""

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


@contextmanager
def loading(source: Path | str, field: str) -> Iterator[None]:
    """Turns what loading `source` raises into an InputError that names it and the option."""
    try:
        yield
    except InputError as err:
        raise InputError(err.message, file=err.file or source, field=err.field or field) from None
    except _BROKEN as err:
        reason = " ".join(str(err).split())[:300] or type(err).__name__
        raise InputError(f"cannot be loaded ({reason})", file=source, field=field) from None


def whole_model(class_name: str, source: Path | str, kinds: tuple[str, ...]) -> Any:
    """transformers' model in fp32. Use within `loading`. Raises InputError: it is of another kind or lacks weights."""
    import torch
    import transformers  # here, since it takes seconds

    kind = transformers.AutoConfig.from_pretrained(source).model_type
    if kind not in kinds:
        raise InputError(f"is a {kind} model, not a {kinds[0]}")
    cls: Any = getattr(transformers, class_name)
    model, report = cls.from_pretrained(source, dtype=torch.float32, output_loading_info=True)
    absent = sorted([*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])])
    if absent:
        raise InputError(f"{len(absent)} weights are missing or of another shape, e.g. {absent[0]}")
    return model
