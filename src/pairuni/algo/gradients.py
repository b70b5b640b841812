"""How far understanding's and generation's gradients agree: the cosine of the paper's gradient analysis (section 5)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def gradient_cosine(grads_a: Sequence[Tensor | None], grads_b: Sequence[Tensor | None]) -> float:
    """The cosine between two gradients over the same parameters, each taken as one long vector.

    Args:
        grads_a, grads_b: one tensor per parameter, in the same order and of any shapes; None counts as zeros.

    Returns:
        A value in [-1, 1], summed in float64; 0 where one of them is zero everywhere.

    Raises:
        ValueError: they are not over the same number of parameters.
    """
    if len(grads_a) != len(grads_b):
        raise ValueError(f"gradients of {len(grads_a)} and of {len(grads_b)} parameters")
    dot = sum(_dot(a, b) for a, b in zip(grads_a, grads_b, strict=True))
    norms = (math.sqrt(sum(_dot(g, g) for g in grads)) for grads in (grads_a, grads_b))
    size = math.prod(norms)
    return max(-1.0, min(1.0, dot / size)) if size > 0 else 0.0


def _dot(a: Tensor | None, b: Tensor | None) -> float:
    if a is None or b is None:
        return 0.0
    return float(torch.dot(a.detach().flatten().double(), b.detach().flatten().double()))
