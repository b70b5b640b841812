"""HPSv2.1, the paper's image reward, and HPSv2.0: how well people would like an image for a prompt (section 3).

A ViT-H-14 that was tuned on people's choices between generated images (Wu et al. 2023, "Human Preference Score v2").
The score is the cosine of image and prompt, without logit scale; tables in papers show it times 100. The two versions
are not comparable. Prompts are tokenized as in open_clip.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import hf_hub_download
from PIL import Image
from torch import Tensor
from torch.nn import functional

from pairuni.config import RewardOptions
from pairuni.preparation import OPENAI
from pairuni.rewards.clip import ClipKind, ClipReward, Prepare
from pairuni.rewards.open_clip import build_clip, read_checkpoint

_REPOSITORY = "xswu/HPSv2"
_TOKENIZER = "openai/clip-vit-large-patch14"
"""All of OpenAI's CLIPs and open_clip's ViT-H-14 have the same byte pairs; the repository of HPSv2 has no tokenizer."""


def preprocess(image: np.ndarray | Image.Image, side: int = 224) -> Tensor:
    """An image as HPSv2 is given it: the whole of it, unlike CLIP's own crop of the centre.

    The longer side becomes `side`, bicubic with antialiasing on the float image (values may leave [0, 1]); the rest is
    padded with black, centred, and only then mean and deviation are applied. HPSv2's own code leaves an image whose
    longer side is 224 already unpadded, so that only squares can be scored then; here it is padded like all others.

    Args:
        image: uint8 [H, W, 3], or any PIL image, which is converted to RGB.

    Returns:
        float32 [3, side, side].

    Raises:
        ValueError: an array of another type or shape.
    """
    if isinstance(image, Image.Image):
        image = np.asarray(image.convert("RGB"))
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"expected a uint8 image [H, W, 3], got {image.dtype} {image.shape}")
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1).float().div(255)
    # In this order, because HPSv2's code rounds side * (224 / longer), and for a few sizes the order decides.
    scale = side / max(image.shape[:2])
    height, width = (max(1, round(length * scale)) for length in image.shape[:2])
    if scale != 1:
        size = (height, width)
        pixels = functional.interpolate(pixels[None], size, mode="bicubic", align_corners=False, antialias=True)[0]
    top, left = (side - height) // 2, (side - width) // 2
    pixels = functional.pad(pixels, (left, side - width - left, top, side - height - top))
    mean, std = (torch.tensor(values)[:, None, None] for values in OPENAI)
    return (pixels - mean) / std


def _reward(name: str, file: str) -> Callable[[RewardOptions], ClipReward]:
    def build(source: Path | str) -> tuple[Any, Prepare]:
        path = source if isinstance(source, Path) else Path(hf_hub_download(source, file))
        model = build_clip(read_checkpoint(path), path)
        side = model.config.vision_config.image_size
        return model, lambda image: preprocess(image, side)

    kind = ClipKind(name, _REPOSITORY, _TOKENIZER, build, lambda cosines, _: cosines, file)
    return partial(ClipReward, kind)


hps_v21, hps_v20 = _reward("hps", "HPS_v2.1_compressed.pt"), _reward("hps_v20", "HPS_v2_compressed.pt")
"""Each makes its reward from options. Raises InputError for an option that is wrong."""
