"""Rewards of another machine are waited for while sampling goes on; local ones and their order are as before."""

import dataclasses
import threading
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch

from pairuni.config import DataConfig, RolloutConfig, TrainConfig
from pairuni.errors import InputError
from pairuni.rewards.base import Reward, RewardInput
from pairuni.train.rollout import Share, SideBatch, collect
from pairuni.types import Half, Prompt, Quadruple, Rollouts, SamplingSpec, Side

CONFIG = TrainConfig(output="", data=DataConfig(pairs="none"), rollout=RolloutConfig(rollouts=2, prompts_per_call=2))


class Sampler:
    """Draws the prompt's length; says when each call begins."""

    edits_images = False
    positions = 0

    def __init__(self) -> None:
        self.begun: list[tuple[Side, int]] = []
        self.calls = [threading.Event() for _ in range(9)]

    def sample(
        self, side: Side, prompts: Sequence[Prompt], rollouts: int, spec: SamplingSpec, seeds_BR: np.ndarray
    ) -> Rollouts:
        self.calls[len(self.begun)].set()
        self.begun.append((side, len(prompts)))
        texts = tuple(tuple(f"{p.text} {r}" for r in range(rollouts)) for p in prompts)
        pixels = np.stack([np.full((rollouts, 4, 4, 3), len(p.text), np.uint8) for p in prompts])
        empty = torch.zeros(len(prompts), rollouts, 1)
        shown = (texts, None) if side is Side.UNDERSTANDING else (None, pixels)
        return Rollouts(side, spec, tuple(prompts), empty.long(), empty.bool(), empty, empty, *shown)


@dataclasses.dataclass
class Slow:
    """Answers its n-th batch once the sampler's call `after[n]` has begun: never, unless sampling goes on meanwhile."""

    sampler: Sampler
    after: Sequence[int]
    remote: bool = True
    name: str = "slow"
    sides: frozenset[Side] = frozenset(Side)
    seen: list[int] = dataclasses.field(default_factory=list)

    def __call__(self, items: Sequence[RewardInput]) -> Sequence[float]:
        if self.remote and len(self.seen) < len(self.after):
            assert self.sampler.calls[self.after[len(self.seen)]].wait(10), "sampling did not go on"
        self.seen.append(len(items))
        return [float(item.quadruple.id) for item in items]


def halves(count: int) -> list[Half]:
    made = [Quadruple(str(n), None, "a.png", "p" * (n + 1), "q" * (n + 1), "A") for n in range(count)]
    return [Half(q.id, q, 1.0, True) for q in made]


def draw(sampler: Sampler, items: list[Half], rewards: Mapping[Side, Reward]) -> dict[Side, SideBatch]:
    def image(path: str) -> np.ndarray:
        return np.zeros((4, 4, 3), np.uint8)

    return collect(sampler, dict.fromkeys(Side, Share(items)), rewards, CONFIG.rollout, "sqrt", CONFIG.seed, 1, image)


def test_sampling_goes_on_while_a_remote_reward_is_waited_for() -> None:
    sampler = Sampler()
    rewards = {Side.UNDERSTANDING: Slow(sampler, (1, 2)), Side.GENERATION: Slow(sampler, (3, 3))}
    batch = draw(sampler, halves(3), rewards)
    assert sampler.begun == [(side, n) for side in (Side.UNDERSTANDING, Side.GENERATION) for n in (2, 1)]
    for side in Side:
        assert rewards[side].seen == [4, 2]  # the rollouts of each call
        assert batch[side].rewards_BR.tolist() == [[0, 0], [1, 1], [2, 2]]


def test_a_local_reward_gets_a_sides_rollouts_at_once() -> None:
    sampler = Sampler()
    rewards = {side: Slow(sampler, (), remote=False) for side in Side}
    batch = draw(sampler, halves(3), rewards)
    assert [reward.seen for reward in rewards.values()] == [[6], [6]]
    assert all(b.rewards_BR.tolist() == [[0, 0], [1, 1], [2, 2]] for b in batch.values())


@pytest.mark.parametrize("remote", [False, True])
def test_errors_of_a_reward_and_a_side_without_halves(remote: bool) -> None:
    class Broken(Slow):
        def __call__(self, items: Sequence[RewardInput]) -> Sequence[float]:
            return [1.0] if items else []

    sampler = Sampler()
    rewards = {side: Broken(sampler, (), remote=remote) for side in Side}
    empty = draw(sampler, [], rewards)
    assert all(b.rewards_BR.shape == (0, 2) and not b.calls for b in empty.values())
    with pytest.raises(InputError, match="1 numbers for 4 items"):
        draw(sampler, halves(2), rewards)
