"""Prompts of both sides as Lumina-DiMOO reads them, and the part that is filled in: an answer's slots around it.

`<system>..</system><user>..</user>`, the ids of an image before the last id; then `<answer>`, slots, `</answer>`. An
image is `<IMAGE>`, its codes row by row with a newline id after each row, `</IMAGE>`. Newlines and brackets are never
actions. Ids are those of config.json. Special tokens that a user's text spells out are removed.
Shapes: B prompts, P tokens of a prompt, A tokens of the answer part, N slots, D distinct images, h x w codes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from pairuni.errors import InputError
from pairuni.policies.dimoo.model import Dimoo
from pairuni.policies.requests import check_images, without
from pairuni.types import Prompt, Side

UNDERSTAND = (
    "You are a multimodal model that can process both text and images. Answer the following question based on the "
    "provided images. Analyze each image and combine relevant details to answer."
)
GENERATE = "Generate an image according to the text prompt."
EDIT = "Generate an image applying the following editing instruction based on the original image."
UNCONDITION = "<uncondition>"


@dataclass(frozen=True)
class Encoded:
    """B prompts of one side, on the CPU."""

    ids: tuple[Tensor, ...]
    """B times int64 [P_b], never padded."""
    unconditional: tuple[Tensor, ...]
    """The same without what the image depends on; empty on the understanding side."""


@dataclass(frozen=True)
class Layout:
    """The answer part."""

    ids_A: Tensor
    """int64, the mask id at the slots."""
    slots_N: Tensor
    """Places of the slots in it, in reading order."""


class DimooPrompts:
    """Turns prompts into ids and answers back into text."""

    def __init__(self, module: Dimoo, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raises InputError: the tokenizer gives a special token another id than config.json does."""
        self.module, self.tokenizer, self.config = module, tokenizer, module.language.config
        self.ends = frozenset({self.config.answer_end_id, self.config.eos_id, self.config.padding_id})
        """Ids of which the first ends an answer."""
        known = tokenizer.get_vocab()
        for name, number in self.config.tokens().items():
            if known.get(name, number) != number:
                raise InputError(f"the tokenizer gives {name} the id {known[name]}, not {number}", field="tokenizer")
        added = {str(token.content) for token in tokenizer.added_tokens_decoder.values() if token.special}
        self._specials = added | set(self.config.tokens()) | {"<system>", "</system>", "<user>", "</user>"}

    def encode(self, side: Side, prompts: Sequence[Prompt]) -> Encoded:
        """Ids of each prompt.

        Raises:
            ValueError: an understanding prompt without an image, or an image that is not uint8 [height, width, 3].
        """
        check_images(side, prompts)
        size, step, encode = self.module.image_size, self.module.step, self.module.encode_pixels
        rows = [[self.image_ids(encode(fit(image, size, step))) for image in prompt.images] for prompt in prompts]
        if side is Side.UNDERSTANDING:
            ids = (self.chat(UNDERSTAND, p.text, images) for p, images in zip(prompts, rows, strict=True))
            return Encoded(tuple(ids), ())
        systems = [EDIT if images else GENERATE for images in rows]
        texts = zip(systems, prompts, rows, strict=True)
        ids = tuple(self.chat(system, prompt.text, images) for system, prompt, images in texts)
        nothing = (self.chat(system, None, images) for system, images in zip(systems, rows, strict=True))
        return Encoded(ids, tuple(nothing))

    def length(self, prompt: Prompt) -> int:
        """Tokens of a prompt; no image is encoded. A question without an image counts with a square one."""
        understanding = prompt.side is Side.UNDERSTANDING
        square = np.zeros((1, 1, 3), np.uint8)
        images = prompt.images or (square,) * understanding
        system = UNDERSTAND if understanding else EDIT if images else GENERATE
        step, size = self.module.step, self.module.image_size
        sides = [np.array(fit_size(image.shape[0], image.shape[1], size, step)) for image in images]
        codes = [side // self.module.downsample for side in sides]
        return len(self.chat(system, prompt.text, [])) + sum(int(h) * (int(w) + 1) + 2 for h, w in codes)

    def answer(self, length: int) -> Layout:
        """A text of `length` slots."""
        c = self.config
        ids = [c.answer_id, *[c.mask_token_id] * length, c.answer_end_id]
        return Layout(torch.tensor(ids), torch.arange(1, length + 1))

    def image(self) -> Layout:
        """An image of the model's own size."""
        c, side = self.config, self.module.codes_per_side
        rows = [*[c.mask_token_id] * side, c.newline_id] * side
        ids = torch.tensor([c.answer_id, c.image_id, *rows, c.image_end_id, c.answer_end_id])
        return Layout(ids, (ids == c.mask_token_id).nonzero()[:, 0])

    def text(self, ids: Sequence[int]) -> str:
        """An answer's text, up to the first id that ends it."""
        kept = next((n for n, number in enumerate(ids) if number in self.ends), len(ids))
        return str(self.tokenizer.decode(list(ids[:kept]), skip_special_tokens=True)).strip()

    def lengths(self, ids_nN: Tensor) -> Tensor:
        """int64 [n]: slots of each answer, the id that ends it included; N where none does."""
        ended_nN = torch.isin(ids_nN, torch.tensor(sorted(self.ends), device=ids_nN.device)).long().cumsum(1) > 0
        return ((~ended_nN).sum(1) + 1).clamp(max=ids_nN.shape[1])

    def banned(self) -> Tensor:
        """int64: ids below the image codes that no answer may hold, since it could not be read back."""
        c = self.config
        return torch.tensor(sorted(set(c.tokens().values()) - self.ends))

    def chat(self, system: str, text: str | None, images: Sequence[Tensor]) -> Tensor:
        """int64 [P]: a prompt with the ids of its images; without text it is the unconditional one."""
        user = UNCONDITION if text is None else without(text, self._specials)
        whole = f"<system>{system}</system><user>{user}</user>"
        ids = torch.tensor(self.tokenizer(whole, add_special_tokens=False)["input_ids"], dtype=torch.int64)
        return torch.cat([ids[:-1], *images, ids[-1:]])

    def image_ids(self, codes_hw: Tensor) -> Tensor:
        """int64: an image as it stands in a prompt."""
        c = self.config
        newline = torch.full((len(codes_hw), 1), c.newline_id)
        rows = torch.cat([codes_hw + c.image_offset, newline], 1).flatten()
        return torch.cat([torch.tensor([c.image_id]), rows, torch.tensor([c.image_end_id])])


def fit(pixels_HWC: np.ndarray, target: int, step: int) -> np.ndarray:
    """uint8 [h, w, 3]: scaled and cropped at its centre to a size of multiples of `step` and at most target^2 pixels.

    The size is the one whose shape is nearest, the larger one of two; no side is more than four times the other.
    """
    height, width = pixels_HWC.shape[:2]
    h, w = fit_size(height, width, target, step)
    scale = max(h / height, w / width)
    scaled = max(w, round(width * scale)), max(h, round(height * scale))
    image = Image.fromarray(pixels_HWC).resize(scaled, Image.Resampling.BICUBIC)
    left, top = (scaled[0] - w) // 2, (scaled[1] - h) // 2
    return np.asarray(image.crop((left, top, left + w, top + h)))


def fit_size(height: int, width: int, target: int, step: int) -> tuple[int, int]:
    """Height and width that `fit` gives an image."""
    sides = range(step, 4 * target + 1, step)
    sizes = [(h, w) for h in sides for w in sides if h * w <= target**2 and max(h, w) <= 4 * min(h, w)]

    def distance(size: tuple[int, int]) -> tuple[float, int]:
        return round(abs(float(np.log(size[1] / size[0] * height / width))), 6), -size[0] * size[1]

    return min(sizes, key=distance)
