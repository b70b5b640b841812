"""Leaves out pairs whose prompt and answer exceed the model's positions, and names them."""

from collections.abc import Sequence
from typing import Any

from pairuni import dist
from pairuni.errors import InputError
from pairuni.files import read_jsonl
from pairuni.policies.base import Sampler
from pairuni.policies.requests import too_long
from pairuni.progress import say
from pairuni.types import Pair, Prompt, Side

FILE = "too_long.jsonl"
"""In the run directory, where there are any."""
_SHOWN = 3
_TEXT = {Side.GENERATION: "prompt", Side.UNDERSTANDING: "question"}


def without_long(
    pairs: list[Pair], policy: Sampler, sides: Sequence[Side], max_new_tokens: int, file: str
) -> tuple[list[Pair], list[dict[str, Any]]]:
    """Returns the pairs whose trained halves fit the model, and for each half that does not its line, field and tokens.

    Raises:
        InputError: none is left.
    """
    beyond: dict[Side, dict[int, int]] = {}
    for side in sides:
        prompts = (Prompt(side, vars(pair.half(side))[_TEXT[side]]) for pair in pairs)
        beyond[side] = too_long(policy, prompts, max_new_tokens)
    left_out = {n for found in beyond.values() for n in found}
    if not left_out:
        return pairs, []
    rows = _named([(pairs[n], side, tokens) for side, found in beyond.items() for n, tokens in found.items()], file)
    what = f"beyond the model's {policy.positions} positions with an answer: {_listed(rows)}"
    if len(left_out) == len(pairs):
        raise InputError(f"none of the {len(pairs)} pairs can be trained on: {what}", file=file)
    if dist.is_main():
        say(f"note: {len(left_out)} of {len(pairs)} pairs are left out, {what}")
    return [pair for n, pair in enumerate(pairs) if n not in left_out], rows


def _named(found: Sequence[tuple[Pair, Side, int]], file: str) -> list[dict[str, Any]]:
    """Where each half stands in the file, in its order; mixing has joined halves anew, so it is looked for by text."""
    places: dict[tuple[str, str], tuple[int, str]] = {}
    for line, row in read_jsonl(file):
        for side in Side:
            own = "generate_ann" if side is Side.GENERATION else "understand_ann"
            for half in (own, "understand_ann", "generate_ann"):
                name = _TEXT[side]
                places.setdefault((name, row[half][name]), (line, f"{half}.{name}"))
    rows = []
    for pair, side, tokens in found:
        line, field = places[_TEXT[side], vars(pair.half(side))[_TEXT[side]]]
        rows.append({"line": line, "field": field, "tokens": tokens})
    return sorted(rows, key=lambda row: (row["line"], row["field"]))


def _listed(rows: Sequence[dict[str, Any]]) -> str:
    shown = [f"line {row['line']}, {row['field']}: {row['tokens']} tokens" for row in rows[:_SHOWN]]
    more = [f"and {len(rows) - _SHOWN} more ({FILE})"] if len(rows) > _SHOWN else []
    return "; ".join([*shown, *more])
