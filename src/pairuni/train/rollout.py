"""The first half of a step: sample answers and images from the current policy and score them (paper 3). No gradients.

Rewards are computed right after a side's sampling and nothing with a gradient outlives it, so that no graph is held
while the other side is sampled. What is learnt from the result is step.py.
Shapes: B halves of one side on this process, R rollouts per half, T decisions.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pairuni.algo.weights import pair_weights
from pairuni.config import RolloutConfig, TrainConfig
from pairuni.data.dataset import Half
from pairuni.data.mixing import UNWEIGHTED
from pairuni.policies.base import Rollouts, Sampler, SamplingSpec
from pairuni.policies.sampling import counter_seed
from pairuni.records import Prompt, Side
from pairuni.rewards.base import Reward, RewardInput
from pairuni.rewards.combined import held_out_names, normalised_parts, raw_scores, total

ImageLoader = Callable[[str], np.ndarray]
"""From a record's image_path to uint8 [H, W, 3]."""


@dataclass(frozen=True)
class SideBatch:
    """What one process sampled of one side, with its rewards."""

    side: Side
    halves: tuple[Half, ...]
    calls: tuple[Rollouts, ...]
    """Of consecutive halves; several where `rollout.prompts_per_call` limits how many are sampled together."""
    rewards_BR: Tensor
    """float64, what is trained: NaN where a remote reward did not answer."""
    weights_B: Tensor
    """float64 pair weights."""
    raw_BR: Mapping[str, np.ndarray]
    """float64 [B, R] of each reward by its name, those that are only watched included."""
    normalised_BR: Mapping[str, np.ndarray]
    """The trained ones of `raw_BR` normalised within their groups, where `rewards.normalise` says so; else empty."""
    held_out: frozenset[str]
    """The names of those in `raw_BR` that are only watched."""
    rollout_seconds: float
    reward_seconds: float

    def texts(self) -> list[str]:
        """The B * R answers, empty on the generation side."""
        return [text for call in self.calls if call.texts is not None for row in call.texts for text in row]

    def images(self) -> list[np.ndarray]:
        """The B * R images, empty on the understanding side."""
        calls = [call.images_BRHWC for call in self.calls if call.images_BRHWC is not None]
        return [image for images in calls for row in images for image in row]


def trained_sides(config: TrainConfig) -> tuple[Side, ...]:
    """The sides that `config.sides` names."""
    return tuple(side for side in Side if config.sides in ("both", side))


def sampling_spec(config: RolloutConfig) -> SamplingSpec:
    """How rollouts for training are drawn: never truncated, so that recorded log-probs are those that are trained."""
    spec = SamplingSpec(
        temperature=config.temperature,
        guidance=config.guidance,
        score=config.score,
        max_new_tokens=config.max_new_tokens,
    )
    assert spec.trainable, f"rollouts for training must be drawn from the whole distribution, not {spec}"
    return spec


def collect(
    policy: Sampler,
    halves: Mapping[Side, Sequence[Half]],
    rewards: Mapping[Side, Reward],
    config: TrainConfig,
    step: int,
    load_image: ImageLoader,
) -> dict[Side, SideBatch]:
    """Samples `config.rollout.rollouts` outputs per half, side by side, and scores them.

    A rollout depends on the weights and on (config.seed, step, pair, side, rollout) alone: not on the other halves or
    on how they are spread over processes and calls.

    Args:
        halves: this process' halves; the sides among them are sampled in the order of `rewards`.
        rewards: one per side that is trained.
        step: the optimiser step, from 1 (sample grids use 0).

    Returns:
        One batch per side of `rewards`, B = 0 included.

    Raises:
        InputError: an image cannot be read, or a reward returns something it must not. Exceptions of a reward pass.
    """
    return {
        side: _collect_side(policy, side, halves[side], reward, (config, step, load_image))
        for side, reward in rewards.items()
    }


def _collect_side(
    policy: Sampler,
    side: Side,
    halves: Sequence[Half],
    reward: Reward,
    run: tuple[TrainConfig, int, ImageLoader],
) -> SideBatch:
    config, step, load_image = run
    rollouts = config.rollout.rollouts
    spec = sampling_spec(config.rollout)
    started = time.perf_counter()
    calls = []
    size = config.rollout.prompts_per_call or max(len(halves), 1)
    for start in range(0, len(halves), size):
        part = halves[start : start + size]
        prompts = [_prompt(side, half, load_image) for half in part]
        seeds_BR = np.array([_seeds(config.seed, step, half, side, rollouts) for half in part], dtype=np.uint64)
        calls.append(policy.sample(side, prompts, rollouts, spec, seeds_BR))
    sampled = time.perf_counter()
    items = [
        item
        for call, start in zip(calls, range(0, len(halves), size), strict=True)
        for item in _reward_inputs(call, halves[start : start + size])
    ]
    shape = len(halves), rollouts
    raw_BR = {name: scores.reshape(shape) for name, scores in raw_scores(reward, items).items()}
    scheme = "none" if config.pairing.mode in UNWEIGHTED else config.weighting
    similarity_B = torch.tensor([half.similarity for half in halves], dtype=torch.float64)
    aligned_B = torch.tensor([half.aligned for half in halves], dtype=torch.bool)
    return SideBatch(
        side=side,
        halves=tuple(halves),
        calls=tuple(calls),
        rewards_BR=torch.from_numpy(total(reward, raw_BR)),
        weights_B=pair_weights(similarity_B, aligned_B, scheme),
        raw_BR=raw_BR,
        normalised_BR=normalised_parts(reward, raw_BR),
        held_out=held_out_names(reward),
        rollout_seconds=sampled - started,
        reward_seconds=time.perf_counter() - sampled,
    )


def _prompt(side: Side, half: Half, load_image: ImageLoader) -> Prompt:
    if side is Side.GENERATION:
        return Prompt(side, half.quadruple.prompt)
    return Prompt(side, half.quadruple.question, (load_image(half.quadruple.image_path),))


def _seeds(run: int, step: int, half: Half, side: Side, rollouts: int) -> list[int]:
    # A pair that occurs again in the same batch takes the next R counters: its group is a new one.
    first = half.repeat * rollouts
    return [counter_seed(run, step, half.pair_id, side, first + r) for r in range(rollouts)]


def _reward_inputs(rollouts: Rollouts, halves: Sequence[Half]) -> list[RewardInput]:
    texts, images = rollouts.texts, rollouts.images_BRHWC
    return [
        RewardInput(
            rollouts.side,
            half.quadruple,
            text=None if texts is None else texts[b][r],
            image=None if images is None else images[b, r],
        )
        for b, half in enumerate(halves)
        for r in range(rollouts.shape[1])
    ]
