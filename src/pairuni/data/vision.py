"""Features of vision models: ResNet-50 (the paper's choice), DINOv3, CLIP and the Perception Encoder (paper 2.2).

Hub id or local folder, on a GPU where there is one. How images are prepared is preparation.py.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from pairuni.errors import InputError
from pairuni.preparation import HALF, IMAGENET, OPENAI, Preparation, loading, whole_model


class VisionModel:
    """An extractor around a loaded model."""

    def __init__(self, name: str, model: Any, preparation: Preparation, pooled: Callable[[Any, Any], Any]) -> None:
        """pooled: (model, pixels [n, 3, S, S]) -> features [n, D]."""
        self._model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        self._preparation, self._pooled = preparation, pooled
        # Raise the number when preparation.py changes: cached rows are then computed again.
        digest = hashlib.sha256(f"2 {preparation!r}".encode())
        for key, tensor in sorted(self._model.state_dict().items()):
            digest.update(key.encode() + tensor.cpu().numpy().tobytes())
        self.identity = f"{name}-{digest.hexdigest()[:12]}"

    def features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """float32 [n, D]."""
        pixels = torch.from_numpy(np.stack([self._preparation.pixels(image) for image in images]))
        device = next(self._model.parameters()).device
        with torch.inference_mode():
            return self._pooled(self._model, pixels.to(device)).float().cpu().numpy()


def resnet50(weights: str) -> VisionModel:
    """transformers' ResNet without head: globally pooled features, 2048-d for ResNet-50. Raises InputError."""
    with loading(weights, "weights"):
        model = whole_model("ResNetModel", weights, ("resnet",))
    preparation = Preparation(224, 256, *IMAGENET)
    return VisionModel("resnet50", model, preparation, lambda m, x: m(pixel_values=x).pooler_output.flatten(1))


def dinov3(weights: str) -> VisionModel:
    """DINOv3 (ViT): the class token after the last norm. Raises InputError."""
    with loading(weights, "weights"):
        model = whole_model("DINOv3ViTModel", weights, ("dinov3_vit",))
    preparation = Preparation(model.config.image_size, None, *IMAGENET, Image.Resampling.BILINEAR)
    return VisionModel("dinov3", model, preparation, lambda m, x: m(pixel_values=x).pooler_output)


def clip(weights: str) -> VisionModel:
    """CLIP's image tower with its projection. Raises InputError."""
    with loading(weights, "weights"):
        model = whole_model("CLIPVisionModelWithProjection", weights, ("clip", "clip_vision_model"))
    side = model.config.image_size
    return VisionModel("clip", model, Preparation(side, side, *OPENAI), lambda m, x: m(pixel_values=x).image_embeds)


def perception_encoder(weights: str) -> VisionModel:
    """Perception Encoder through timm, which is no dependency and needs a torchvision that fits torch.

    Raises:
        InputError: timm cannot be imported, or knows no such model.
    """
    try:
        import timm  # pyright: ignore[reportMissingImports]
    except (ImportError, RuntimeError) as err:  # a torchvision built for another torch raises RuntimeError
        reason = " ".join(str(err).split())[:200]
        raise InputError(f"pe needs timm and a torchvision that fits torch ({reason})", field="extractor") from None
    with loading(weights, "weights"):
        model = timm.create_model(weights, pretrained=True, num_classes=0)
    side = model.pretrained_cfg["input_size"][-1]
    return VisionModel("pe", model, Preparation(side, None, *HALF, Image.Resampling.BILINEAR), lambda m, x: m(x))
