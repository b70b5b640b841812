"""Features of vision models: ResNet-50 (the paper's choice), DINOv3, CLIP and the Perception Encoder (paper 2.2).

Hub id or local folder, on a GPU where there is one. How images are prepared is preparation.py.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from safetensors import SafetensorError

from pairuni.errors import InputError
from pairuni.preparation import HALF, IMAGENET, OPENAI, Preparation

# Errors of transformers and safetensors for files that are absent, cut off or of another model.
_BROKEN = (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError, StrictDataclassError)


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
    model = _loaded(weights, ("resnet",), "ResNetModel")
    preparation = Preparation(224, 256, *IMAGENET)
    return VisionModel("resnet50", model, preparation, lambda m, x: m(pixel_values=x).pooler_output.flatten(1))


def dinov3(weights: str) -> VisionModel:
    """DINOv3 (ViT): the class token after the last norm. Raises InputError."""
    model = _loaded(weights, ("dinov3_vit",), "DINOv3ViTModel")
    preparation = Preparation(model.config.image_size, None, *IMAGENET, Image.Resampling.BILINEAR)
    return VisionModel("dinov3", model, preparation, lambda m, x: m(pixel_values=x).pooler_output)


def clip(weights: str) -> VisionModel:
    """CLIP's image tower with its projection. Raises InputError."""
    model = _loaded(weights, ("clip", "clip_vision_model"), "CLIPVisionModelWithProjection")
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
    try:
        model = timm.create_model(weights, pretrained=True, num_classes=0)
    except _BROKEN as err:
        raise InputError(f"cannot load {weights}: {' '.join(str(err).split())[:300]}", field="weights") from None
    side = model.pretrained_cfg["input_size"][-1]
    return VisionModel("pe", model, Preparation(side, None, *HALF, Image.Resampling.BILINEAR), lambda m, x: m(x))


def _loaded(weights: str, kinds: tuple[str, ...], class_name: str) -> Any:
    """The model in fp32 with all its weights. Raises InputError otherwise."""
    import transformers  # here, since it takes seconds

    try:
        config: Any = transformers.AutoConfig.from_pretrained(weights)
        loaded = None
        if config.model_type in kinds:
            cls: Any = getattr(transformers, class_name)
            loaded = cls.from_pretrained(weights, dtype=torch.float32, output_loading_info=True)
    except _BROKEN as err:
        raise InputError(f"cannot load {weights}: {' '.join(str(err).split())[:300]}", field="weights") from None
    if loaded is None:
        raise InputError(f"{weights} is a {config.model_type} model, not a {kinds[0]}", field="weights")
    model, report = loaded
    if report["missing_keys"] or report["mismatched_keys"]:
        raise InputError(f"{weights} lacks weights of a {class_name}", field="weights")
    return model
