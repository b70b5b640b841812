"""CLIPScore and PickScore: how well an image fits its prompt, as a CLIP sees it, and as people's choices do.

CLIPScore (Hessel et al. 2021): 2.5 max(cos, 0), in [0, 2.5], of OpenAI's ViT-B-32 and "A photo depicts " + prompt.
PickScore (Kirstain et al. 2023, "Pick-a-Pic"): exp(logit_scale) cos, about 15 to 25, of a ViT-H-14 tuned on choices.
Both take CLIP's own preparation: shorter side, crop of the centre. Checkpoints are in transformers' layout.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pairuni.preparation import OPENAI, Preparation, whole_model
from pairuni.rewards.clip import ClipKind, ClipReward, Prepare


def _build(source: Path | str) -> tuple[Any, Prepare]:
    model = whole_model("CLIPModel", source, ("clip",))
    side = model.config.vision_config.image_size
    preparation = Preparation(side, side, *OPENAI)
    return model, lambda image: torch.from_numpy(preparation.pixels(image))


_CLIP_SCORE = ClipKind(
    "clip_score",
    weights="openai/clip-vit-base-patch32",
    tokenizer="openai/clip-vit-base-patch32",
    build=_build,
    score=lambda cosines, model: 2.5 * np.maximum(cosines, 0),
    prefix="A photo depicts ",
)
_PICK_SCORE = ClipKind(
    "pick_score",
    weights="yuvalkirstain/PickScore_v1",
    tokenizer="laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    build=_build,
    score=lambda cosines, model: float(model.logit_scale.detach().double().exp()) * cosines,
    cleaned=False,  # it is published with transformers' processor, which does not
)
clip_score, pick_score = partial(ClipReward, _CLIP_SCORE), partial(ClipReward, _PICK_SCORE)
"""Each makes its reward from options. Raises InputError for an option that is wrong."""
