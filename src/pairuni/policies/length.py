"""Prompts that reach beyond the positions that a model was trained with: what comes after them is noise, slowly."""

from collections.abc import Iterable, Sequence
from typing import NoReturn

from pairuni.errors import InputError
from pairuni.policies.base import Sampler
from pairuni.types import Prompt, Side

_GROWTH = 12
"""A token has a byte at least, and normalisation makes at most 11 bytes of one (U+FDFA): a text of so many fewer bytes
than there are positions need not be tokenised."""


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
    what = f"a prompt takes {tokens:,} tokens with its images and its answer".replace(",", "")
    raise InputError(f"{what}, more than the {positions} positions of the model (max_position_embeddings)", field=field)
