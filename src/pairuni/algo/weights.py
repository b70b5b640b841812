"""Pair weights w_p: 1 for an aligned pair, sqrt(similarity) for a retrieved one (paper section 3)."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

Weighting = Literal["none", "linear", "sqrt"]


def pair_weights(
    similarity_B: Tensor | np.ndarray | Sequence[float],
    aligned_B: Tensor | np.ndarray | Sequence[bool],
    scheme: Weighting,
) -> Tensor:
    """The weight of each pair, for both of its halves.

    Args:
        similarity_B: [B] cosine similarity of the two images, in [0, 1].
        aligned_B: [B] True where both halves are one quadruple; the similarity is then not used.
        scheme: sqrt is the paper's; linear (w = s) and none (w = 1) are its ablations.

    Returns:
        weights_B [B], floating.

    Raises:
        ValueError: an unknown scheme, shapes that differ, or a similarity that is NaN or outside [0, 1].
    """
    if scheme not in get_args(Weighting):
        raise ValueError(f"weighting must be one of {', '.join(get_args(Weighting))}, not {scheme!r}")
    similarity_B = torch.as_tensor(similarity_B)
    if not similarity_B.is_floating_point():
        similarity_B = similarity_B.float()
    aligned_B = torch.as_tensor(aligned_B, device=similarity_B.device).bool()
    if similarity_B.ndim != 1 or aligned_B.shape != similarity_B.shape:
        shapes = f"{tuple(similarity_B.shape)} and {tuple(aligned_B.shape)}"
        raise ValueError(f"similarity and aligned must both be [pairs], not {shapes}")
    inside_B = (similarity_B >= 0) & (similarity_B <= 1)  # False for NaN
    if not bool(inside_B.all()):
        raise ValueError(f"similarity must be in [0, 1], not {float(similarity_B[~inside_B][0])}")
    if scheme == "none":
        return torch.ones_like(similarity_B)
    weights_B = similarity_B.sqrt() if scheme == "sqrt" else similarity_B
    return weights_B.masked_fill(aligned_B, 1.0)
