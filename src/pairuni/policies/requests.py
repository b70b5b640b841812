"""What every family does with a request before and around its own sampling: checks, lengths, special tokens, eval mode.

No model here. A prompt and its answer may not reach beyond the positions that a model was trained with: what comes
after them is noise, slowly.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import numpy as np
from torch import nn

from pairuni.errors import InputError
from pairuni.policies.base import Sampler
from pairuni.types import Prompt, Side

PIXEL_BATCH = 32
"""Images that are seen, or made from codes, at a time: these models' activations dwarf a row of the language model."""
_GROWTH = 12
"""A token has a byte at least, and normalisation makes at most 11 bytes of one (U+FDFA): a text of so many fewer bytes
than there are positions need not be tokenised."""


def check_request(side: Side, prompts: Sequence[Prompt], rollouts: int, seeds_BR: np.ndarray) -> None:
    """Raises ValueError: no prompts, one of another side, no rollouts, or seeds of another shape."""
    if not prompts or any(prompt.side is not side for prompt in prompts):
        raise ValueError(f"at least one prompt, all of side {side}, is needed")
    if rollouts < 1 or seeds_BR.shape != (len(prompts), rollouts) or seeds_BR.dtype.kind not in "ui":
        raise ValueError(f"integer seeds [{len(prompts)}, {rollouts}] are needed, not {seeds_BR.shape}")


def check_images(side: Side, prompts: Iterable[Prompt]) -> None:
    """Raises ValueError: an understanding prompt without an image, or an image that is not uint8 [height, width, 3]."""
    for prompt in prompts:
        if any(i.ndim != 3 or i.shape[2] != 3 or i.dtype != "uint8" for i in prompt.images):
            raise ValueError("an image must be uint8 [height, width, 3]")
        if side is Side.UNDERSTANDING and not prompt.images:
            raise ValueError("an understanding prompt needs one or more images")


def check_budgets(rows: int, tokens: int) -> None:
    """Raises ValueError: no rows, or negative tokens."""
    if rows < 1 or tokens < 0:
        raise ValueError(f"a chunk needs at least one row and no negative tokens, not {rows}, {tokens}")


def rows_within(rows: int, tokens: int, cost: int) -> int:
    """Rows of a chunk of at most `rows` rows and `tokens` tokens (0: any number), `cost` a row; at least one."""
    return max(1, min(rows, tokens // cost)) if tokens else rows


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; every sub-module's own mode afterwards (eval mode also rests gradient checkpointing)."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        yield
    finally:
        for part, training in modes:
            part.training = training


def without(text: str, names: Iterable[str]) -> str:
    """`text` without the special tokens that it spells out, also those that appear once others are gone.

    A tokenizer would take them for real ones.
    """
    longest_first = sorted(set(names), key=lambda name: (-len(name), name))
    before = None
    while before != text:
        before = text
        for name in longest_first:
            text = text.replace(name, "")
    return text


def too_long(sampler: Sampler, prompts: Iterable[Prompt], max_new_tokens: int) -> dict[int, int]:
    """Tokens of each prompt that does not fit with its answer, by its place. Images are counted, and may be absent."""
    limit, found = sampler.positions, {}
    frames: dict[tuple[Side, int], int] = {}
    for n, prompt in enumerate(prompts) if limit else ():
        kind = prompt.side, len(prompt.images)
        if kind not in frames:
            frames[kind] = sampler.tokens(Prompt(prompt.side, "", prompt.images), max_new_tokens)
        if frames[kind] + _GROWTH * len(prompt.text.encode()) > limit:
            tokens = sampler.tokens(prompt, max_new_tokens)
            if tokens > limit:
                found[n] = tokens
    return found


def refuse_long(sampler: Sampler, prompt: Prompt, max_new_tokens: int, field: str | None = None) -> None:
    """Raises InputError where a prompt does not fit with its answer, naming `field`."""
    for tokens in too_long(sampler, [prompt], max_new_tokens).values():
        _refuse(tokens, sampler.positions, field)


def refuse_lengths(prompts: Sequence[int], answer: int, positions: int) -> None:
    """Raises InputError where one of these numbers of tokens and `answer` are more than `positions` (0: any number)."""
    longest = max(prompts) + answer
    if positions and longest > positions:
        _refuse(longest, positions, None)


def _refuse(tokens: int, positions: int, field: str | None) -> NoReturn:
    what = f"a prompt takes {tokens} tokens with its images and its answer"
    raise InputError(f"{what}, more than the {positions} positions of the model (max_position_embeddings)", field=field)
