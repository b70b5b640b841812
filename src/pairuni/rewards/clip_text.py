"""Captions for a CLIP: cleaned as OpenAI's own tokenizer does it, cut to the model's length, padded with 0.

transformers' CLIPTokenizer has the byte pairs; it lacks the cleaning of broken encodings, curly quotes and HTML
entities that open_clip and HPSv2 do first, which is `clean`.
"""

import html
from collections.abc import Sequence
from typing import Any

import ftfy
import torch
from torch import Tensor

from pairuni.errors import InputError


def clean(text: str) -> str:
    """`text` as OpenAI's tokenizer, and open_clip's and HPSv2's after it, clean it before splitting it into words.

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
