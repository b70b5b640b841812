"""The cosine between the gradients of the two sides (paper section 5)."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pairuni.streams import Stream, generator

_BLOCK = 1 << 20


def gradient_cosine(grads_a: Sequence[Tensor | None], grads_b: Sequence[Tensor | None]) -> float:
    """The cosine between two gradients over the same parameters, each taken as one long vector.

    Args:
        grads_a, grads_b: one tensor per parameter, in the same order and of any shapes; None counts as zeros.

    Returns:
        A value in [-1, 1], summed in float64; 0 where one of them is zero everywhere, NaN where one is not finite.

    Raises:
        ValueError: they are not over the same number of parameters.
    """
    if len(grads_a) != len(grads_b):
        raise ValueError(f"gradients of {len(grads_a)} and of {len(grads_b)} parameters")
    dot = sum(_dot(a, b) for a, b in zip(grads_a, grads_b, strict=True))
    norms = (math.sqrt(sum(_dot(g, g) for g in grads)) for grads in (grads_a, grads_b))
    size = math.prod(norms)
    if not (math.isfinite(dot) and math.isfinite(size)):
        return math.nan  # min and max would make it 1
    return max(-1.0, min(1.0, dot / size)) if size > 0 else 0.0


def count_sketch(vector: Tensor, size: int, seed: int) -> Tensor:
    """Maps a gradient linearly to `size` numbers that keep dot products in expectation, to save memory.

    Every entry is added to one place, with a sign; both are random, and the same for the same seed and number of
    entries. The dot product of two sketches has a standard deviation of at most |a| |b| sqrt(2 / size) about that of
    the vectors, so a cosine is off by about 1 / sqrt(size). (Charikar, Chen, Farach-Colton 2002; feature hashing.)

    Args:
        vector: any shape; read in blocks, so that the random numbers take little memory.

    Returns:
        float64 [size] on the CPU.

    Raises:
        ValueError: size < 1.
    """
    if size < 1:
        raise ValueError(f"a sketch needs a positive size, not {size}")
    rng = generator(seed, Stream.GRADIENT_SKETCH)
    sketch = np.zeros(size)
    for block in vector.detach().flatten().split(_BLOCK):
        # One draw for both: the lowest bit is the sign.
        drawn = rng.integers(2 * size, size=len(block))
        signed = block.double().cpu().numpy() * (2 * (drawn % 2) - 1)
        sketch += np.bincount(drawn // 2, signed, minlength=size)
    return torch.from_numpy(sketch)


def _dot(a: Tensor | None, b: Tensor | None) -> float:
    if a is None or b is None:
        return 0.0
    return float(torch.dot(a.detach().flatten().double(), b.detach().flatten().double()))
