"""Objects in an image with their colours, as GenEval's rules want them (arXiv 2310.11513): Mask2Former and CLIP.

transformers' Mask2Former with COCO's classes stands in for the authors' mmdet one; the weights are others, so scores
are approximate and say so. Colours are named as the authors do: the object on grey, cropped, between ten colours in
three phrases. N queries, C classes, K objects.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from pairuni.errors import InputError
from pairuni.preparation import IMAGENET, OPENAI, Preparation, loading

# COCO's 80 classes in order, three of them under GenEval's names.
_CLASSES = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, "
    "parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, "
    "handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, "
    "surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, "
    "broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, "
    "laptop, computer mouse, tv remote, computer keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, "
    "book, clock, vase, scissors, teddy bear, hair drier, toothbrush"
)
CLASSES = tuple(_CLASSES.split(", "))
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
_PHRASES = ("a photo of a {colour} {name}", "a photo of a {colour}-colored {name}", "a photo of a {colour} object")
_GREY = 0x99  # behind the object whose colour is asked
_LEAST = 0.3  # scores at or below it never count, not in any task


@dataclass(frozen=True)
class Found:
    """One object."""

    name: str
    box: tuple[float, float, float, float]
    """x1, y1, x2, y2 in pixels."""
    score: float
    mask_HW: np.ndarray
    """bool."""


class Mask2FormerDetector:
    """Calls: image uint8 [H, W, 3] and the classes whose colour matters -> GenEval's detections."""

    approximate = True

    def __init__(self, detector: str, colours: str, device: torch.device | None = None, side: int = 384) -> None:
        """Hub ids or local folders; `side` of the detector's input. The device is a GPU by default, where there is one.

        Raises InputError: a model cannot be loaded.
        """
        import transformers  # here, since it takes seconds

        with loading(detector, "detector"):
            self._model: Any = transformers.Mask2FormerForUniversalSegmentation.from_pretrained(detector)
        with loading(colours, "colours"):
            self._clip: Any = transformers.CLIPModel.from_pretrained(colours)
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(colours)
        if self._model.config.num_labels != len(CLASSES):
            raise InputError(f"{detector} knows {self._model.config.num_labels} classes, not COCO's {len(CLASSES)}")
        self._device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        for model in (self._model, self._clip):
            model.eval().to(self._device)
        self._prepared = Preparation(side, None, *IMAGENET, Image.Resampling.BILINEAR)
        self._texts: dict[str, torch.Tensor] = {}

    def __call__(self, image: np.ndarray, coloured: Sequence[str] = ()) -> list[dict[str, Any]]:
        """[{"class", "box", "score", "color"}]; color is None for classes that are not in `coloured`."""
        return [
            {
                "class": found.name,
                "box": list(found.box),
                "score": found.score,
                "color": self.colour(image, found) if found.name in coloured else None,
            }
            for found in self.objects(image)
        ]

    @torch.inference_mode()
    def objects(self, image: np.ndarray) -> list[Found]:
        """The most likely (query, class) places, as many as queries, whose score is above 0.3, falling."""
        out = self._model(pixel_values=self._input(image, self._prepared))
        likely_NC = out.class_queries_logits[0].softmax(dim=-1)[:, :-1]  # the last is "nothing"
        score_K, place_K = likely_NC.flatten().topk(len(likely_NC))
        found = []
        for score, place in zip(score_K.tolist(), place_K.tolist(), strict=True):
            query, name = divmod(place, likely_NC.shape[1])
            logits_HW = functional.interpolate(
                out.masks_queries_logits[0, query][None, None].float(),
                size=image.shape[:2],
                mode="bilinear",
                align_corners=False,
            )[0, 0]
            mask_HW = logits_HW > 0
            if not mask_HW.any():
                continue
            sure = score * float(logits_HW[mask_HW].sigmoid().mean())
            if sure > _LEAST:
                mask = mask_HW.cpu().numpy()
                rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
                box = float(columns[0]), float(rows[0]), float(columns[-1]), float(rows[-1])
                found.append(Found(CLASSES[name], box, sure, mask))
        return sorted(found, key=lambda each: -each.score)

    @torch.inference_mode()
    def colour(self, image: np.ndarray, found: Found) -> str:
        """The nearest of COLOURS."""
        alone = np.where(found.mask_HW[..., None], image, np.uint8(_GREY))
        x1, y1, x2, y2 = (int(edge) for edge in found.box)
        side = self._clip.config.vision_config.image_size
        pixels = self._input(alone[y1 : y2 + 1, x1 : x2 + 1], Preparation(side, side, *OPENAI))
        seen_D = _unit(self._clip.get_image_features(pixel_values=pixels))[0]
        return COLOURS[int((self._colours(found.name) @ seen_D).argmax())]

    def _input(self, image: np.ndarray, preparation: Preparation) -> torch.Tensor:
        return torch.from_numpy(preparation.pixels(image))[None].to(self._device)

    def _colours(self, name: str) -> torch.Tensor:
        """Unit embeddings [10, D] of the ten colours of a thing; phrases are averaged."""
        if name not in self._texts:
            rows = []
            for colour in COLOURS:
                phrases = [phrase.format(colour=colour, name=name) for phrase in _PHRASES]
                words = self._tokenizer(phrases, padding=True, return_tensors="pt").to(self._device)
                rows.append(_unit(_unit(self._clip.get_text_features(**words)).mean(dim=0)))
            self._texts[name] = torch.stack(rows)
        return self._texts[name]


def _unit(features: Any) -> torch.Tensor:
    tensor = features if isinstance(features, torch.Tensor) else features.pooler_output
    return functional.normalize(tensor.float(), dim=-1)


def coloured_classes(metadata: Mapping[str, Any]) -> list[str]:
    """The classes whose colour a prompt asks for."""
    return sorted({str(each["class"]) for each in metadata.get("include", []) if "color" in each})
