"""Group-relative advantages A = (r - mean) / std over each half's own group (paper section 3).

A group is one row of a [B, R] array: the R rollouts of one side of one pair. Nothing is pooled over rows, so prompts
of different difficulty never mix and two pairs with the same prompt stay two groups. Pair weights are weights.py.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_ROUNDING = 8  # a spread of this many units in the last place of the largest reward is rounding, not a preference


@dataclass(frozen=True)
class GroupStats:
    """Counts over the groups of one side of a batch."""

    groups: int
    """B."""
    zero_std: int
    """Groups whose rewards are all equal (or of which fewer than two are known): every advantage is 0."""
    missing: int
    """Rewards that are not finite."""


def group_advantages(rewards_BR: Tensor | np.ndarray, std_eps: float = 1e-6) -> Tensor:
    """(r - mean) / (population std + std_eps) within each row, computed in float64.

    A reward that is not finite is missing: left out of mean and std, with advantage 0. Rows whose known rewards are
    equal up to rounding, or with fewer than two known rewards, are exactly 0. Finite rewards of any size have their
    advantage: a row is brought near 1 before anything is added or squared.

    Args:
        rewards_BR: [B, R]; bool and integer rewards give float32 advantages.
        std_eps: positive. The paper names none.

    Returns:
        advantages_BR [B, R], on the device and in the floating dtype of the rewards.

    Raises:
        ValueError: rewards are not two-dimensional, or std_eps is not positive.
    """
    rewards_BR = _as_rows(rewards_BR)
    if not std_eps > 0:
        raise ValueError(f"std_eps must be positive, not {std_eps}")
    known_BR = rewards_BR.isfinite()
    exact_BR = rewards_BR.double().where(known_BR, 0)
    unit_B1 = _unit(exact_BR)
    exact_BR = exact_BR / unit_B1
    count_B1 = known_BR.sum(dim=1, keepdim=True).clamp(min=1)
    mean_B1 = exact_BR.sum(dim=1, keepdim=True) / count_B1
    centred_BR = (exact_BR - mean_B1).where(known_BR, 0)
    std_B1 = (centred_BR.square().sum(dim=1, keepdim=True) / count_B1).sqrt()
    advantages_BR = centred_BR / (std_B1 + std_eps / unit_B1)
    dtype = rewards_BR.dtype if rewards_BR.dtype.is_floating_point else torch.float32
    return advantages_BR.masked_fill(_no_spread(rewards_BR)[:, None], 0.0).to(dtype)


def group_stats(rewards_BR: Tensor | np.ndarray) -> GroupStats:
    """Counts groups without a signal and missing rewards. Raises ValueError as `group_advantages` does."""
    rewards_BR = _as_rows(rewards_BR)
    missing = int((~rewards_BR.isfinite()).sum())
    return GroupStats(len(rewards_BR), int(_no_spread(rewards_BR).sum()), missing)


def _as_rows(rewards_BR: Tensor | np.ndarray) -> Tensor:
    rewards_BR = torch.as_tensor(rewards_BR)
    if rewards_BR.ndim != 2:
        raise ValueError(f"rewards must be [pairs, rollouts], not of shape {tuple(rewards_BR.shape)}")
    return rewards_BR.detach()


def _unit(values_BR: Tensor) -> Tensor:
    """[B, 1] a power of two near each row's largest absolute value: dividing by it rounds nothing. 1 for zeros."""
    if values_BR.shape[1] == 0:
        return values_BR.new_ones(len(values_BR), 1)
    largest_B1 = values_BR.abs().amax(dim=1, keepdim=True)
    mantissa_B1, _ = torch.frexp(largest_B1)  # in [1/2, 1): halved, so that the unit itself does not overflow
    return (largest_B1 / (2 * mantissa_B1)).where(largest_B1 > 0, 1.0)


def _no_spread(rewards_BR: Tensor) -> Tensor:
    """[B] True where the known rewards differ by rounding only: 0.1 + 0.2 and 0.3 are one reward."""
    if rewards_BR.shape[1] == 0:
        return torch.ones(len(rewards_BR), dtype=torch.bool, device=rewards_BR.device)
    ulp = torch.finfo(rewards_BR.dtype).eps if rewards_BR.dtype.is_floating_point else 0.0
    exact_BR = rewards_BR.double()
    known_BR = exact_BR.isfinite()
    low_B = exact_BR.where(known_BR, torch.inf).amin(dim=1)
    high_B = exact_BR.where(known_BR, -torch.inf).amax(dim=1)
    size_B = torch.maximum(low_B.abs(), high_B.abs())
    return (high_B - low_B <= _ROUNDING * ulp * size_B) | (known_BR.sum(dim=1) < 2)
