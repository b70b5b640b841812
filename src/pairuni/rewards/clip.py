"""Shared by the rewards with a CLIP: loading its weights, and cosines of images and captions, in batches.

A reward loads its model on the first call, so that a config can be checked without it. hps.py and clip_scores.py choose
the model, prepare images and turn cosines into scores.
"""

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ftfy
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pairuni.config import RewardOptions
from pairuni.errors import InputError
from pairuni.preparation import loading
from pairuni.rewards.base import RewardInput
from pairuni.types import Side

_BATCH = 32

Prepare = Callable[[np.ndarray], Tensor]
"""From uint8 [H, W, 3] to float32 [3, S, S], what a vision tower takes."""


@dataclass(frozen=True)
class ClipKind:
    """One reward with a CLIP, without its options."""

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
    """Whether captions go through `clean`."""


@dataclass
class ClipReward:
    """Scores images by a CLIP and the prompt of their half."""

    kind: ClipKind
    options: RewardOptions = field(default_factory=RewardOptions)
    sides: frozenset[Side] = frozenset({Side.GENERATION})
    remote: bool = False
    model: Any = field(default=None, init=False, repr=False, compare=False)
    """transformers' CLIPModel, from `load` on."""

    def __post_init__(self) -> None:
        """Raises InputError for what can be known to be wrong without loading: a local path, the device."""
        self._weights = find(self.options.weights or self.kind.weights, self.kind.file, self._field("weights"))
        self._tokenizer = find(self.options.tokenizer or self.kind.tokenizer, None, self._field("tokenizer"))
        self._device = find_device(self.options.device or "auto", self._field("device"))

    @property
    def name(self) -> str:
        return self.kind.name

    @property
    def published(self) -> dict[str, str]:
        """Hub ids that stand for options that are not set."""
        return {"weights": self.kind.weights, "tokenizer": self.kind.tokenizer}

    def __call__(self, items: Sequence[RewardInput]) -> Sequence[float]:
        self.load()
        captions = [self.kind.prefix + item.quadruple.prompt for item in items]
        return self.kind.score(self._cosines([item.pixels for item in items], captions), self.model).tolist()

    def load(self) -> "ClipReward":
        """Loads the model where that is not done yet, and returns the reward.

        Raises:
            InputError: weights or tokenizer cannot be had, are broken or of another model.
        """
        if self.model is None:
            from transformers import CLIPTokenizer  # here, since it takes seconds
            from transformers.utils.logging import disable_progress_bar

            disable_progress_bar()  # its bars would break into ours
            with loading(self._weights, self._field("weights")):
                model, self._prepare = self.kind.build(self._weights)
            config = model.config.text_config
            with loading(self._tokenizer, self._field("tokenizer")):
                tokenizer = CLIPTokenizer.from_pretrained(self._tokenizer)
                if len(tokenizer) < 256:  # transformers makes an empty one of files that are not there
                    raise InputError("holds no vocabulary of a CLIP, or cannot be fetched")
                length, end = config.max_position_embeddings, config.vocab_size - 1
                self._ids = CaptionIds(tokenizer, length, end, self.kind.cleaned)
            self.model = model.eval().to(self._device)
        return self

    def _cosines(self, images: Sequence[np.ndarray], captions: Sequence[str]) -> np.ndarray:
        """float64 [n], in [-1, 1]: of each image, uint8 [H, W, 3], with its caption.

        The towers run under fp16 autocast on CUDA and in fp32 elsewhere; the cosine itself is fp32.
        """
        if not images:
            return np.zeros(0)
        size = self.options.batch or _BATCH
        different = list(dict.fromkeys(captions))  # a caption comes again for each rollout
        images_nD, texts_nD = [], []
        half = torch.autocast("cuda", torch.float16, enabled=self._device.type == "cuda")
        with torch.inference_mode(), half:
            for start in range(0, len(images), size):
                pixels = torch.stack([self._prepare(image) for image in images[start : start + size]])
                seen = self.model.vision_model(pixel_values=pixels.to(self._device)).pooler_output
                images_nD.append(functional.normalize(self.model.visual_projection(seen).float(), dim=1))
            for start in range(0, len(different), size):
                ids = self._ids(different[start : start + size]).to(self._device)
                read = self.model.text_model(input_ids=ids).pooler_output
                texts_nD.append(functional.normalize(self.model.text_projection(read).float(), dim=1))
            place_of = {text: n for n, text in enumerate(different)}
            texts_ND = torch.cat(texts_nD)[[place_of[text] for text in captions]]
            cosines = (torch.cat(images_nD) * texts_ND).sum(dim=1)
        return cosines.double().clamp(-1, 1).cpu().numpy()

    def _field(self, option: str) -> str:
        return f"rewards.options.{self.name}.{option}"


def clean(text: str) -> str:
    """Cleans a caption as the tokenizers of OpenAI, open_clip and HPSv2 do, and transformers' CLIPTokenizer does not.

    ftfy mends wrongly decoded text and makes curly quotes straight; HTML entities are unescaped twice, because captions
    from the web hold `&amp;quot;`. Lower case is Python's, which knows the Greek final sigma; spaces are left to the
    tokenizer.
    """
    return html.unescape(html.unescape(ftfy.fix_text(text))).strip().lower()


class CaptionIds:
    """Token ids of captions."""

    def __init__(self, tokenizer: Any, length: int, end: int, cleaned: bool = True) -> None:
        """
        Args:
            tokenizer: transformers' CLIPTokenizer.
            length: tokens of the model's text input.
            end: id of the end token, at which the model reads.
            cleaned: whether captions go through `clean` first.

        Raises:
            InputError: the tokenizer is of another model.
        """
        if tokenizer.eos_token_id != end:
            raise InputError(f"ends texts with token {tokenizer.eos_token_id}; the model reads at {end}")
        self._tokenizer, self._length, self._cleaned = tokenizer, length, cleaned

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """int64 [len(texts), length]: start, at most length - 2 tokens, end, zeros.

        The text tower is causal and read at the end token, so what comes after it has no effect.
        """
        texts = [clean(text) for text in texts] if self._cleaned else list(texts)
        # A caption that spells out the end token is text to open_clip; transformers would end the caption there.
        options: dict[str, Any] = {"max_length": self._length, "split_special_tokens": self._cleaned}
        rows = self._tokenizer(texts, truncation=True, **options)["input_ids"]
        ids = torch.zeros(len(rows), self._length, dtype=torch.int64)
        for row, tokens in zip(ids, rows, strict=True):
            row[: len(tokens)] = torch.tensor(tokens)
        return ids


def find(source: str, file: str | None, field_name: str) -> Path | str:
    """A local path where there is one: of the file, or of the folder where `file` is None; otherwise the hub id.

    Raises:
        InputError: it is neither an existing path nor in the form of a hub id.
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
