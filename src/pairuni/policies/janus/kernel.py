"""One token's attention as one GPU kernel per layer: rotate, append to the cache, attend to prompt and own tokens.

Needs Triton, which comes with torch's CUDA builds; cache.py has the same in plain torch for where there is none. The
number of filled tokens is read from a tensor, so that the launch is the same at every step.
Shapes: n rows, D prefixes, P prompt tokens, C tokens of room, A query heads, K key heads, W width of a head.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

Pair = tuple[Tensor, Tensor]
# Tokens that a program takes at a time, and its warps: the fastest of ten choices on an H100 (docs/performance.md).
BLOCK, WARPS = 8, 1


def attend(
    token: tuple[Tensor, Tensor, Tensor],
    turn: Pair,
    prefix: Pair,
    own: Pair,
    slots_n: Tensor,
    filled_1: Tensor,
    scale: float,
) -> Tensor:
    """[n, A, W] in the values' dtype. Appends the token's key and value at filled_1.

    Args:
        token: query [n, A, W], key and value [n, K, W], not yet rotated.
        turn: cosines and sines [W]; their halves are equal.
        prefix: keys (rotated) and values [D, K, P, W].
        own: the same [n, K, C, W], of which filled_1 tokens are read.
        slots_n: int64, the prefix of each row.
        filled_1: int64 [1].
        scale: of the scores.
    """
    query, key, value = (x.contiguous() for x in token)
    (n, heads, width), shared = query.shape, prefix[0].shape
    mixed = torch.empty(query.shape, dtype=own[1].dtype, device=query.device)
    turns = [x.contiguous() for x in turn]
    launch: Any = _attend[(n, heads)]
    launch(
        query, key, value, *turns, *prefix, *own, slots_n, filled_1, mixed, shared[2], own[0].shape[2], scale,
        HEADS=heads, KEYS=shared[1], WIDTH=width, BLOCK=BLOCK, num_warps=WARPS,
    )  # fmt: skip
    return mixed


@triton.jit(do_not_specialize=["prompt", "room"])  # else compiled again for lengths that divide by 16
def _attend(
    query, key, value, cos, sin, prompt_keys, prompt_values, own_keys, own_values, slots, filled, mixed,
    prompt, room, scale,
    HEADS: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program per row and query head. The softmax is taken online, in fp32; one pass over keys and values.

    The heads that share a key head all append the same numbers. The new token is attended to from registers, so that
    nothing that this launch writes is read by it.
    """
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    key_head = head // (HEADS // KEYS)
    whole = tl.arange(0, WIDTH)
    partner = (whole + WIDTH // 2) % WIDTH
    cosine = tl.load(cos + whole).to(tl.float32)
    sine = tl.load(sin + whole).to(tl.float32) * tl.where(whole < WIDTH // 2, -1.0, 1.0)

    mine = query + (row * HEADS + head) * WIDTH
    asked = tl.load(mine + whole).to(tl.float32) * cosine + tl.load(mine + partner).to(tl.float32) * sine
    asked *= scale
    mine = key + (row * KEYS + key_head) * WIDTH
    new_key = tl.load(mine + whole).to(tl.float32) * cosine + tl.load(mine + partner).to(tl.float32) * sine
    new_key = new_key.to(own_keys.dtype.element_ty)  # rounded as it is kept: later tokens see it so
    new_value = tl.load(value + (row * KEYS + key_head) * WIDTH + whole).to(own_values.dtype.element_ty)

    count = tl.load(filled)
    own = (row * KEYS + key_head) * room * WIDTH
    tl.store(own_keys + own + count * WIDTH + whole, new_key)
    tl.store(own_values + own + count * WIDTH + whole, new_value)
    shared = (tl.load(slots + row) * KEYS + key_head) * prompt * WIDTH

    top = tl.sum(asked * new_key.to(tl.float32), 0)
    weight = tl.full([], 1.0, tl.float32)
    total = new_value.to(tl.float32)
    top, weight, total = _over(
        top, weight, total, asked, prompt_keys + shared, prompt_values + shared, prompt.to(tl.int64), WIDTH, BLOCK
    )
    top, weight, total = _over(top, weight, total, asked, own_keys + own, own_values + own, count, WIDTH, BLOCK)
    tl.store(mixed + (row * HEADS + head) * WIDTH + whole, (total / weight).to(mixed.dtype.element_ty))


@triton.jit
def _over(top, weight, total, asked, keys, values, length, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """The softmax so far (highest score, sum of weights, weighted values), taken on over `length` tokens."""
    full = length // BLOCK * BLOCK
    for start in range(0, full, BLOCK):
        top, weight, total = _block(top, weight, total, asked, keys, values, start, length, False, WIDTH, BLOCK)  # pyright: ignore
    if full < length:
        top, weight, total = _block(top, weight, total, asked, keys, values, full, length, True, WIDTH, BLOCK)  # pyright: ignore
    return top, weight, total


@triton.jit
def _block(
    top, weight, total, asked, keys, values, start, length,
    MASKED: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    token = start + tl.arange(0, BLOCK)
    tile = token[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    if MASKED:
        there = token < length
        k = tl.load(keys + tile, mask=there[:, None], other=0.0)
        v = tl.load(values + tile, mask=there[:, None], other=0.0)
        scores = tl.where(there, tl.sum(k.to(tl.float32) * asked[None, :], 1), float("-inf"))
    else:
        k, v = tl.load(keys + tile), tl.load(values + tile)
        scores = tl.sum(k.to(tl.float32) * asked[None, :], 1)
    highest = tl.maximum(top, tl.max(scores, 0))
    fade, shares = tl.exp(top - highest), tl.exp(scores - highest)
    total = total * fade + tl.sum(shares[:, None] * v.to(tl.float32), 0)
    return highest, weight * fade + tl.sum(shares, 0), total
