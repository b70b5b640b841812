"""Several rewards of one side as one: a weighted sum, with held-out rewards beside it that are only logged.

In a plain sum the reward with the largest spread decides. Where each is normalised within its group first, its weight
counts whatever its scale. Shapes: B groups, R rollouts each, n = B * R items.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pairuni.rewards.base import Reward, RewardInput, score_all
from pairuni.types import Side

_STD_EPS = 1e-6
_ROUNDING = 8 * np.finfo(np.float64).eps
"""A spread of this share of the largest score is rounding."""


@dataclass(frozen=True)
class Part:
    """A reward of the sum."""

    reward: Reward
    weight: float


@dataclass(frozen=True)
class Combined:
    """A `Reward` whose score is the sum of its parts as they are; `total` is what is trained, and needs the groups."""

    parts: tuple[Part, ...]
    held_out: tuple[Reward, ...] = ()
    normalise: bool = False

    @property
    def name(self) -> str:
        return "+".join(part.reward.name for part in self.parts)

    @property
    def sides(self) -> frozenset[Side]:
        return frozenset.intersection(*(part.reward.sides for part in self.parts))

    @property
    def remote(self) -> bool:
        return any(part.reward.remote for part in self.parts)

    def __call__(self, items: Sequence[RewardInput]) -> Sequence[float]:
        return sum(part.weight * score_all(part.reward, items) for part in self.parts).tolist()  # pyright: ignore


def raw_scores(reward: Reward, items: Sequence[RewardInput]) -> dict[str, np.ndarray]:
    """float64 [n] of each reward by its name, held-out ones included; none is called without items.

    Raises InputError as `score_all`.
    """
    every = [reward]
    if isinstance(reward, Combined):
        every = [part.reward for part in reward.parts] + list(reward.held_out)
    return {each.name: score_all(each, items) if items else np.zeros(0) for each in every}


def held_out_names(reward: Reward) -> frozenset[str]:
    """The names of those that are not trained."""
    return frozenset(each.name for each in reward.held_out) if isinstance(reward, Combined) else frozenset()


def total(reward: Reward, raw_BR: Mapping[str, np.ndarray]) -> np.ndarray:
    """float64 [B, R]: the score that is trained. NaN where any part is missing."""
    if not isinstance(reward, Combined):
        return raw_BR[reward.name]
    values = {**raw_BR, **normalised_parts(reward, raw_BR)}
    return np.sum([p.weight * values[p.reward.name] for p in reward.parts], axis=0)


def normalised_parts(reward: Reward, raw_BR: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """float64 [B, R] of each part as it is added, before its weight; empty where they are added as they are."""
    if not isinstance(reward, Combined) or not reward.normalise:
        return {}
    return {part.reward.name: normalised(raw_BR[part.reward.name]) for part in reward.parts}


def normalised(raw_BR: np.ndarray) -> np.ndarray:
    """Mean 0 and population deviation 1 within each row; rows of equal scores are 0, missing scores stay missing.

    Scores are equal where their deviation is below 1e-6 or is rounding. Finite ones may be of any size.
    """
    known_BR = np.isfinite(raw_BR)
    exact_BR = np.where(known_BR, raw_BR, 0)
    # In units of a power of two near the largest: nothing overflows when added or squared, and nothing is rounded.
    largest_B1 = np.abs(exact_BR).max(axis=1, keepdims=True, initial=0.0)
    unit_B1 = np.where(largest_B1 > 0, largest_B1 / np.maximum(2 * np.frexp(largest_B1)[0], 1.0), 1.0)
    exact_BR = exact_BR / unit_B1
    count_B1 = np.maximum(known_BR.sum(axis=1, keepdims=True), 1)
    mean_B1 = exact_BR.sum(axis=1, keepdims=True) / count_B1
    away_BR = np.where(known_BR, exact_BR - mean_B1, 0)
    std_B1 = np.sqrt((away_BR**2).sum(axis=1, keepdims=True) / count_B1)
    apart_B1 = (std_B1 > _STD_EPS / unit_B1) & (std_B1 > _ROUNDING)
    return np.where(known_BR, np.where(apart_B1, away_BR / np.where(apart_B1, std_B1, 1), 0), np.nan)
