"""Prompts of both sides as Janus reads them: through the checkpoint's own chat template, tokenizer and image processor.

Understanding: chat turn with image and question; the placeholder becomes BOI, n image tokens, EOI. Generation: chat
turn with the caption, then BOI. Nothing is hard-coded: every id is the tokenizer's (they differ between 1B and 7B).
Special tokens that a caption or question spells out are removed, since the tokenizer would take them for real ones.
Shapes: B prompts, L tokens of a prompt, D distinct images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jinja2 import TemplateError
from PIL import Image
from torch import Tensor, nn
from transformers import JanusProcessor

from pairuni.errors import InputError
from pairuni.policies.requests import check_images, without
from pairuni.types import Prompt, Side


@dataclass(frozen=True)
class Seen:
    """What a frozen vision encoder makes of D images."""

    tower: nn.Module
    """The encoder. Another one would see something else."""
    states_DIV: Tensor
    """On the CPU, I tokens of the encoder's width V per image."""


@dataclass(frozen=True)
class Encoded:
    """B prompts of one side on the CPU; what a Janus rollout keeps to be scored again."""

    ids: tuple[Tensor, ...]
    """B times int64 [L_b], BOS first, never padded."""
    image_index: tuple[tuple[int, ...], ...]
    """Rows of `pixels_DCHW` of each prompt's images; empty on the generation side."""
    pixels_DCHW: Tensor | None
    """fp32, each distinct image once."""
    seen: Seen | None = None
    """Kept from sampling for scoring."""

    def key(self, prompt: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Equal for prompts that the model cannot tell apart."""
        return tuple(self.ids[prompt].tolist()), self.image_index[prompt] if self.image_index else ()


class JanusPrompts:
    """Turns prompts into ids and answers back into text."""

    def __init__(self, processor: JanusProcessor) -> None:
        """Raises InputError: a special token is missing, texts begin without BOS, or the chat template is broken."""
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.bos, self.eos, self.pad = (
            self._id(name) for name in (self.tokenizer.bos_token, self.tokenizer.eos_token, self.tokenizer.pad_token)
        )
        self.image, self.boi, self.eoi = (
            self._id(name) for name in (processor.image_token, processor.image_start_token, processor.image_end_token)
        )
        self.image_tokens: int = processor.num_image_tokens
        # An answer with one of these could not be read back: a placeholder without an image, a text without an end.
        self.banned = tuple(sorted({self.image, self.boi, self.eoi, self.pad, self.bos} - {self.eos}))
        # Only those marked special: DeepSeek's tokenizers also list ordinary letters among their added tokens.
        added = self.tokenizer.added_tokens_decoder.values()
        names = {str(token.content) for token in added if token.special} | set(self.tokenizer.all_special_tokens)
        names |= {processor.image_token, processor.image_start_token, processor.image_end_token}
        self._specials = names
        if self.tokenizer("a")["input_ids"][0] != self.bos:
            raise InputError("the tokenizer does not begin a text with its BOS token", field="tokenizer")
        self._check_template()

    def encode(self, side: Side, prompts: Sequence[Prompt]) -> Encoded:
        """Ids of each prompt and pixels of each distinct image.

        Raises:
            ValueError: an understanding prompt without an image, a generation prompt with one, or one that is not uint8
                [height, width, 3].
        """
        check_images(side, prompts)
        if side is Side.GENERATION:
            if any(prompt.images for prompt in prompts):
                raise ValueError("Janus cannot edit images: a generation prompt has none")
            return Encoded(tuple(self._generation(p.text) for p in prompts), (), None)
        ids: list[Tensor] = []
        index: list[tuple[int, ...]] = []
        pixels: list[Tensor] = []
        seen: dict[tuple[tuple[int, ...], bytes], int] = {}
        for prompt in prompts:
            row, values = self._understanding(prompt.text, [Image.fromarray(image) for image in prompt.images])
            places = []
            for image, value in zip(prompt.images, values, strict=True):
                places.append(seen.setdefault((image.shape, image.tobytes()), len(pixels)))
                if places[-1] == len(pixels):
                    pixels.append(value)
            ids.append(row)
            index.append(tuple(places))
        return Encoded(tuple(ids), tuple(index), torch.stack(pixels))

    def length(self, prompt: Prompt) -> int:
        """Tokens of a prompt; no image is looked at. A question without an image counts with one."""
        if prompt.side is Side.GENERATION:
            return len(self._generation(prompt.text))
        images = max(1, len(prompt.images))
        text = self._chat([{"type": "image"}] * images + [{"type": "text", "text": self.clean(prompt.text)}])
        # The processor puts BOI, the image's tokens and EOI in the place of each placeholder.
        return len(self.tokenizer(text)["input_ids"]) + images * (self.image_tokens + 1)

    def unconditional(self, ids_L: Tensor) -> Tensor:
        """A generation prompt with everything but its first token (BOS) and last one (BOI) replaced by pad."""
        out = torch.full_like(ids_L, self.pad)
        out[0], out[-1] = ids_L[0], ids_L[-1]
        return out

    def text(self, ids: Sequence[int]) -> str:
        """An answer's text, without special tokens and surrounding space."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def clean(self, text: str) -> str:
        """`text` without the special tokens that it spells out."""
        return without(text, self._specials)

    def _generation(self, caption: str) -> Tensor:
        text = self._chat([{"type": "text", "text": self.clean(caption)}]) + self.processor.image_start_token
        ids = torch.tensor(self.tokenizer(text)["input_ids"], dtype=torch.int64)
        assert ids[-1] == self.boi and (ids == self.boi).sum() == 1 and (ids == self.bos).sum() == 1, text
        return ids

    def _understanding(self, question: str, images: list[Image.Image]) -> tuple[Tensor, list[Tensor]]:
        text = self._chat([{"type": "image"}] * len(images) + [{"type": "text", "text": self.clean(question)}])
        inputs = self.processor(text=[text], images=images)
        ids = torch.as_tensor(inputs["input_ids"][0])
        expected = len(images) * self.image_tokens
        assert (ids == self.image).sum() == expected and (ids == self.bos).sum() == 1, text
        return ids, [torch.from_numpy(np.asarray(pixels, dtype=np.float32)) for pixels in inputs["pixel_values"]]

    def _chat(self, content: list[dict[str, str]]) -> str:
        messages = [{"role": "user", "content": content}]
        return str(self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))

    def _check_template(self) -> None:
        if not self.processor.chat_template:
            raise InputError("the processor has no chat template", field="chat_template")
        try:
            text = self._chat([{"type": "image"}, {"type": "text", "text": "probe"}])
        except TemplateError as err:
            raise InputError(f"is not a Jinja template ({err})", field="chat_template") from None
        if text.count(self.processor.image_token) != 1 or "probe" not in text:
            raise InputError(f"drops the image or the text of a message, giving {text!r}", field="chat_template")

    def _id(self, token: str | None) -> int:
        vocabulary = self.tokenizer.get_vocab()
        if token is None or token not in vocabulary:
            raise InputError(f"the tokenizer has no token {token!r}", field="tokenizer")
        return int(vocabulary[token])
