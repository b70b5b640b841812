"""What rewards with a CLIP share: where weights come from, and the cosine of images and captions, in batches.

A reward loads its model on the first call, so that a config can be checked without it. Which model, how an image is
prepared and what becomes of the cosine is each reward's own: hps.py, clip_scores.py.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional

from pairuni.config import RewardOptions
from pairuni.errors import InputError
from pairuni.rewards.base import RewardInput
from pairuni.rewards.clip_text import CaptionIds
from pairuni.types import Side

# What transformers, tokenizers, safetensors and the hub raise for what is absent, cut off or of another model.
_BROKEN = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    RuntimeError,
    AttributeError,
    SafetensorError,
    StrictDataclassError,
)
_BATCH = 32
_CAPTIONS = 4096
"""Captions whose embedding is kept: a step's captions come again for each rollout, a run's in each epoch."""

Prepare = Callable[[np.ndarray], Tensor]
"""From uint8 [H, W, 3] to float32 [3, S, S], what a vision tower takes."""


@dataclass(frozen=True)
class ClipKind:
    """What tells one reward with a CLIP from another."""

    name: str
    weights: str
    """Hub id of the published weights."""
    tokenizer: str
    """Hub id of the published tokenizer."""
    build: Callable[[Path | str], tuple[Any, Prepare]]
    """From where the weights are (a local path or a hub id) to transformers' CLIPModel in fp32 and its `Prepare`."""
    score: Callable[[np.ndarray, Any], np.ndarray]
    """(cosines float64 [n], the CLIPModel) -> scores float64 [n]."""
    file: str | None = None
    """The one file of the weights in their folder or on the hub; None: a folder in transformers' layout."""
    prefix: str = ""
    """Stands before each prompt."""
    cleaned: bool = True
    """Whether captions are cleaned as OpenAI's tokenizer does (clip_text.py)."""


@dataclass
class ClipReward:
    """Scores images by a CLIP and the prompt of their half."""

    kind: ClipKind
    options: RewardOptions = field(default_factory=RewardOptions)
    sides: frozenset[Side] = frozenset({Side.GENERATION})
    remote: bool = False
    _scorer: "ClipScorer | None" = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raises InputError for what can be known to be wrong without loading: a local path, the device."""
        self._weights = find(self.options.weights or self.kind.weights, self.kind.file, self._field("weights"))
        self._tokenizer = find(self.options.tokenizer or self.kind.tokenizer, None, self._field("tokenizer"))
        self._device = find_device(self.options.device or "auto", self._field("device"))

    @property
    def name(self) -> str:
        return self.kind.name

    def __call__(self, items: Sequence[RewardInput]) -> Sequence[float]:
        images = [item.image for item in items if item.image is not None]
        assert len(images) == len(items)  # RewardInput grants it on the generation side
        captions = [self.kind.prefix + item.quadruple.prompt for item in items]
        scorer = self.load()
        return self.kind.score(scorer.cosines(images, captions), scorer.model).tolist()

    def load(self) -> "ClipScorer":
        """The model, which is loaded where it is not yet.

        Raises:
            InputError: weights or tokenizer cannot be had, are broken or of another model.
        """
        if self._scorer is None:
            from transformers.utils.logging import disable_progress_bar  # here, since it takes seconds

            disable_progress_bar()  # its bars would break into ours
            model, prepare = self._tried("weights", self._weights, self.kind.build)
            config = model.config.text_config
            ids = self._tried("tokenizer", self._tokenizer, lambda source: self._caption_ids(source, config))
            self._scorer = ClipScorer(model, ids, prepare, self._device, self.options.batch or _BATCH)
        return self._scorer

    def _caption_ids(self, source: Path | str, config: Any) -> CaptionIds:
        from transformers import CLIPTokenizer

        tokenizer = CLIPTokenizer.from_pretrained(source)
        if len(tokenizer) < 256:  # transformers makes an empty one of files that are not there
            raise InputError("holds no vocabulary of a CLIP, or cannot be fetched")
        return CaptionIds(tokenizer, config.max_position_embeddings, config.vocab_size - 1, self.kind.cleaned)

    def _tried(self, option: str, source: Path | str, load: Callable[[Path | str], Any]) -> Any:
        try:
            return load(source)
        except InputError as err:
            raise InputError(err.message, file=err.file or source, field=err.field or self._field(option)) from None
        except _BROKEN as err:
            reason = " ".join(str(err).split())[:300] or type(err).__name__
            raise InputError(f"cannot be loaded ({reason})", file=source, field=self._field(option)) from None

    def _field(self, option: str) -> str:
        return f"rewards.options.{self.name}.{option}"


class ClipScorer:
    """A CLIP that is loaded, and its cosines."""

    def __init__(self, model: Any, caption_ids: CaptionIds, prepare: Prepare, device: torch.device, batch: int) -> None:
        """
        Args:
            model: transformers' CLIPModel.
            batch: images, or captions, per forward pass.
        """
        self.model = model.eval().to(device)
        self._ids, self._prepare, self._device, self._batch = caption_ids, prepare, device, batch
        self._captions: OrderedDict[str, Tensor] = OrderedDict()

    def cosines(self, images: Sequence[np.ndarray], captions: Sequence[str]) -> np.ndarray:
        """float64 [n], in [-1, 1]: of each image, uint8 [H, W, 3], with its caption.

        The towers run under fp16 autocast on CUDA and in fp32 elsewhere; the cosine itself is fp32.
        """
        if not images:
            return np.zeros(0)
        with torch.inference_mode():
            captions_ND = self._caption_features(captions)
            images_ND = torch.cat([self._image_features(part) for part in self._parts(images)])
            cosines = (images_ND * captions_ND).sum(dim=1)
        return cosines.double().clamp(-1, 1).cpu().numpy()

    def _precision(self) -> Any:
        return torch.autocast("cuda", torch.float16) if self._device.type == "cuda" else nullcontext()

    def _parts(self, items: Sequence[Any]) -> list[Sequence[Any]]:
        return [items[start : start + self._batch] for start in range(0, len(items), self._batch)]

    def _image_features(self, images: Sequence[np.ndarray]) -> Tensor:
        pixels = torch.stack([self._prepare(image) for image in images]).to(self._device)
        with self._precision():
            features = self.model.visual_projection(self.model.vision_model(pixel_values=pixels).pooler_output)
        return functional.normalize(features.float(), dim=1)

    def _caption_features(self, captions: Sequence[str]) -> Tensor:
        known = {text: self._captions[text] for text in captions if text in self._captions}
        new = [text for text in dict.fromkeys(captions) if text not in known]
        for part in self._parts(new):
            with self._precision():
                ids = self._ids(part).to(self._device)
                features = self.model.text_projection(self.model.text_model(input_ids=ids).pooler_output)
            known |= zip(part, functional.normalize(features.float(), dim=1), strict=True)
        for text, feature in known.items():
            self._captions[text] = feature
            self._captions.move_to_end(text)
        while len(self._captions) > _CAPTIONS:
            self._captions.popitem(last=False)
        return torch.stack([known[text] for text in captions])


def find(source: str, file: str | None, field_name: str) -> Path | str:
    """A local path where there is one: of the file, or of the folder where `file` is None; otherwise the hub id.

    Raises:
        InputError: neither a path that is there nor in the form of a hub id.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        if file is not None and not (path / file).is_file():
            raise InputError(f"{path} has no {file}", field=field_name)
        return path if file is None else path / file
    if path.exists():
        if file is None:
            raise InputError(f"{path} is a file; a folder is needed here", field=field_name)
        return path
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise InputError(f"there is no {path}", field=field_name)
    return source


def fetch(source: Path | str, file: str) -> Path:
    """The file at `source`, from the hub's cache or the hub where that is a hub id."""
    return source if isinstance(source, Path) else Path(hf_hub_download(source, file))


def find_device(name: str, field_name: str) -> torch.device:
    """The device of that name; auto is the process' GPU where there is one. Raises InputError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"{name!r} is no device", field=field_name) from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"{name!r}: this machine has {torch.cuda.device_count()} CUDA devices", field=field_name)
    return device
