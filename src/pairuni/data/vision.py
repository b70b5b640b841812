"""Features of vision models: ResNet-50 (the paper's choice), DINOv3, CLIP and the Perception Encoder (paper 2.2).

Hub id or local folder, on a GPU where there is one. Images are prepared here with PIL, as each model's own processor
does it: shorter side, crop, mean and deviation; the processors themselves would need torchvision.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from safetensors import SafetensorError

from pairuni.errors import InputError

# What transformers and safetensors raise for files that are absent, cut off or of another model.
_BROKEN = (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError, StrictDataclassError)
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_OPENAI = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Preparation:
    """From an image to a model's input."""

    crop: int
    """Side of the input."""
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
            scale = self.resize / min(picture.size)
            width, height = (max(self.resize, round(side * scale)) for side in picture.size)
            left, top = (width - self.crop) // 2, (height - self.crop) // 2
            box = (left, top, left + self.crop, top + self.crop)
            picture = picture.resize((width, height), self.resample).crop(box)
        scaled = (np.asarray(picture, dtype=np.float64) / 255 - self.mean) / self.std
        return np.ascontiguousarray(scaled.transpose(2, 0, 1), dtype=np.float32)


class VisionModel:
    """An extractor around a loaded model."""

    def __init__(self, name: str, model: Any, preparation: Preparation, pooled: Callable[[Any, Any], Any]) -> None:
        """pooled: (model, pixels [n, 3, S, S]) -> features [n, D]."""
        self._model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        self._preparation, self._pooled = preparation, pooled
        digest = hashlib.sha256(repr(preparation).encode())
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
    preparation = Preparation(224, 256, *_IMAGENET)
    return VisionModel("resnet50", model, preparation, lambda m, x: m(pixel_values=x).pooler_output.flatten(1))


def dinov3(weights: str) -> VisionModel:
    """DINOv3 (ViT): the class token after the last norm. Raises InputError."""
    model = _loaded(weights, ("dinov3_vit",), "DINOv3ViTModel")
    preparation = Preparation(model.config.image_size, None, *_IMAGENET, Image.Resampling.BILINEAR)
    return VisionModel("dinov3", model, preparation, lambda m, x: m(pixel_values=x).pooler_output)


def clip(weights: str) -> VisionModel:
    """CLIP's image tower with its projection. Raises InputError."""
    model = _loaded(weights, ("clip", "clip_vision_model"), "CLIPVisionModelWithProjection")
    side = model.config.image_size
    return VisionModel("clip", model, Preparation(side, side, *_OPENAI), lambda m, x: m(pixel_values=x).image_embeds)


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
    return VisionModel("pe", model, Preparation(side, None, *_HALF, Image.Resampling.BILINEAR), lambda m, x: m(x))


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
