"""J: the Pair-GRPO objective (paper section 3), put together from advantages, pair weights and the surrogate.

    J = E_p[ sum over understanding actions of L_clip(rho, w A_u) + sum over image actions of L_clip(rho, w A_g) ]
        - beta * KL

The paper names no denominator. Here each side has its own (576 image codes must not drown 5 answer tokens), chosen by
`loss_norm`; a mixed batch without pairs has one for both. It is spread over the rows as one scale per rollout that
depends on global totals alone, so chunk losses are simply added: over chunks, micro-batches and ranks (undo a
wrapper's averaging over ranks). Side weights and the optimiser step are the trainer's.
Shapes: B pairs, R rollouts, k rows of a chunk, N actions of a chunk.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from pairuni.algo.advantages import group_advantages

LossNorm = Literal["sequence_mean", "token_sum", "token_mean", "constant"]


@dataclass(frozen=True)
class LossDenominators:
    """Counts for a denominator over all micro-batches and ranks, of one side or of all sides that share it."""

    rollouts: int
    """Sampled rollouts; those with a missing reward count."""
    actions: int
    """All of theirs, scored or not (`Rollouts.length_BR`)."""
    sides: int = 1
    """Sides that share the denominator. Counts are then averaged over sides, so that equal draws weigh as before."""

    def __add__(self, other: "LossDenominators") -> "LossDenominators":
        """Adds the counts of two ranks."""
        return LossDenominators(self.rollouts + other.rollouts, self.actions + other.actions)


def shared_denominators(totals: Sequence[LossDenominators]) -> LossDenominators:
    """One denominator for a batch of unrelated rollouts of several sides: plain GRPO on mixed batches (paper 3).

    A rollout of one side then weighs what one of the other does, however many of each were drawn: with sequence_mean,
    token_sum and constant half the batch's rollouts take the place of the side's own. With token_mean half the batch's
    actions do, so that a token weighs what an image code weighs, as in plain GRPO: long rollouts weigh more, and
    equal draws have the gradient of separate denominators only where both sides have as many actions.
    """
    return LossDenominators(sum(t.rollouts for t in totals), sum(t.actions for t in totals), len(totals))


def side_denominators(length_BR: Tensor) -> LossDenominators:
    """Counts of one rank's rollouts of one side, from their lengths [B, R]. Add them over ranks."""
    return LossDenominators(length_BR.numel(), int(length_BR.sum()))


def weighted_advantages(rewards_BR: Tensor | np.ndarray, weights_B: Tensor, std_eps: float = 1e-6) -> Tensor:
    """w_p * A [B, R] of one side: `group_advantages` times the pair's weight, which both sides share."""
    advantages_BR = group_advantages(rewards_BR, std_eps)
    return advantages_BR * weights_B.to(advantages_BR)[:, None]


def loss_scales(lengths_k: Tensor, loss_norm: LossNorm, totals: LossDenominators, norm_length: int = 1) -> Tensor:
    """The factor of each rollout's sum in its side's loss.

    sequence_mean: 1 / (rollouts * own length), the mean over rollouts of each one's mean; token_sum: 1 / rollouts, the
    paper's formula as printed, its expectation taken as the mean over sampled rollouts (long outputs weigh more);
    token_mean: 1 / actions; constant: 1 / (rollouts * norm_length). Where sides share a denominator, rollouts and
    actions are the mean over sides.

    Args:
        lengths_k: [k] actions of the whole rollout each row belongs to (a chunk may hold only some of them, and some
            may not be scored at all).
        totals: of the side, or `shared_denominators`; global.
        norm_length: of `constant`.

    Returns:
        scale_k [k] float32, finite; 0 for a rollout without actions.

    Raises:
        ValueError: an unknown loss_norm, a norm_length that is not positive, or rows that the totals do not count.
    """
    if loss_norm not in get_args(LossNorm):
        raise ValueError(f"loss_norm must be one of {', '.join(get_args(LossNorm))}, not {loss_norm!r}")
    if norm_length < 1:
        raise ValueError(f"norm_length must be positive, not {norm_length}")
    if totals.rollouts < len(lengths_k):
        raise ValueError(f"{len(lengths_k)} rows, but the totals count {totals.rollouts} rollouts")
    empty_k = lengths_k == 0
    rollouts = max(totals.rollouts, 1) / totals.sides
    actions = max(totals.actions, 1) / totals.sides
    if loss_norm == "sequence_mean":
        scale_k = 1.0 / (rollouts * lengths_k.clamp(min=1).float())
    else:
        sizes = {"token_sum": rollouts, "token_mean": actions, "constant": rollouts * norm_length}
        scale_k = torch.full_like(lengths_k, 1.0 / sizes[loss_norm], dtype=torch.float32)
    return scale_k.masked_fill(empty_k, 0.0)


def merge_stats(parts: Sequence[Mapping[str, Tensor | float]]) -> dict[str, float]:
    """Merges statistics of chunks: means weighted by actions, the largest ratio_max.

    The result can be merged again (over ranks). Without any action: ratios 1, fractions 0.
    """
    rows = [{name: float(value) for name, value in part.items()} for part in parts]
    rows = [row for row in rows if row["actions"] > 0]
    if not rows:
        return {"ratio_mean": 1.0, "ratio_max": 1.0, "clip_fraction": 0.0, "actions": 0.0}
    total = sum(row["actions"] for row in rows)
    merged = {"ratio_max": max(row["ratio_max"] for row in rows), "actions": total}
    means = {name: sum(row[name] * row["actions"] for row in rows) / total for name in rows[0] if name not in merged}
    return means | merged
