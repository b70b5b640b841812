"""The input of rewards, their protocol, and the check of every score.

A reward sees outputs (texts, images) and the half that was asked, never tokens. algo/advantages.py turns rewards into
advantages. A reward that raises stops the run: no error is ever scored 0.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pairuni.errors import InputError
from pairuni.types import Quadruple, Side


@dataclass(frozen=True)
class RewardInput:
    """One rollout to score."""

    side: Side
    quadruple: Quadruple
    """The half it was sampled for: prompt, question and answer."""
    text: str | None = None
    """The answer as sampled (understanding)."""
    image: np.ndarray | None = None
    """uint8 [H, W, 3] (generation)."""

    def __post_init__(self) -> None:
        wanted, other = (self.text, self.image) if self.side is Side.UNDERSTANDING else (self.image, self.text)
        if wanted is None or other is not None:
            raise ValueError(f"an input of the {self.side} side has a text or an image, the one of its side")
        if self.image is not None and (
            self.image.dtype != np.uint8 or self.image.ndim != 3 or self.image.shape[2] != 3 or not self.image.size
        ):
            raise ValueError(f"expected a uint8 image [H, W, 3], got {self.image.dtype} {self.image.shape}")

    @property
    def pixels(self) -> np.ndarray:
        """The image, on the generation side."""
        assert self.image is not None
        return self.image


class Reward(Protocol):
    """Scores rollouts of one step, any number of them, in order."""

    @property
    def name(self) -> str:
        """In metrics: reward/<name>."""
        ...

    @property
    def sides(self) -> frozenset[Side]:
        """The sides it can score."""
        ...

    @property
    def remote(self) -> bool:
        """True where a score may be missing (NaN) because another machine did not answer."""
        ...

    def __call__(self, items: Sequence[RewardInput]) -> Sequence[float]:
        """One number per item."""
        ...


@dataclass(frozen=True)
class ItemReward:
    """A reward that scores each rollout by itself, with a function of one `RewardInput`."""

    name: str
    function: Callable[[RewardInput], float]
    sides: frozenset[Side]
    remote: bool = False

    def __call__(self, items: Sequence[RewardInput]) -> Sequence[float]:
        return [self.function(item) for item in items]


@dataclass(frozen=True)
class FunctionReward:
    """A function of a list of `RewardInput` as a reward. It is local: the scores must be finite."""

    name: str
    function: Callable[[list[RewardInput]], Any]
    sides: frozenset[Side] = frozenset(Side)
    remote: bool = False

    def __call__(self, items: Sequence[RewardInput]) -> Sequence[float]:
        return self.function(list(items))


def score_all(reward: Reward, items: Sequence[RewardInput]) -> np.ndarray:
    """The scores of `reward` as float64 [len(items)], checked. NaN marks a missing score of a remote reward.

    Raises:
        InputError: it returned something else than one number per item, or a local reward returned NaN or infinity.
            Exceptions of the reward itself are passed on.
    """
    returned = reward(items)
    field = f"reward {reward.name}"
    try:
        array = np.asarray(returned)
    except (TypeError, ValueError, RuntimeError):  # ragged lists, tensors on a GPU or with a gradient
        array = np.asarray(None)
    if array.size and array.dtype.kind not in "biuf":
        found = f"{type(returned).__name__} {returned!r:.80}"
        raise InputError(f"must return a list of numbers, one per item, not {found}", field=field)
    if array.shape != (len(items),):
        found = f"{len(array)} numbers" if array.ndim == 1 else f"an array of shape {array.shape}"
        raise InputError(f"returned {found} for {len(items)} items", field=field)
    scores = array.astype(np.float64)
    for item, score in zip(items, scores, strict=True):
        if not math.isfinite(score) and not (reward.remote and math.isnan(score)):
            raise InputError(f"returned {score} for {item.quadruple.id!r} ({item.side})", field=field)
    return scores
