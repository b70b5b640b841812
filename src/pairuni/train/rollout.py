"""The first half of a step: sample answers and images from the current policy and score them (paper 3). No gradients.

Nothing with a gradient outlives a side's sampling, so that no graph is held while the other side is sampled. What is
learnt from the result is step.py.
Shapes: B halves of one side on this process, R rollouts per half, T decisions.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
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
    """Waited for scores once everything was sampled."""

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
    # A remote reward scores what is there while the next prompts, or the other side's, are sampled.
    with ThreadPoolExecutor(max_workers=1) as pool:
        run = (config, step, load_image)
        sampled = {
            side: _sample_side(policy, side, halves[side], reward, run, pool) for side, reward in rewards.items()
        }
        return {side: _scored(one, rewards[side], config) for side, one in sampled.items()}


@dataclass(frozen=True)
class _Sampled:
    """A side's rollouts, and where its scores come from."""

    side: Side
    halves: Sequence[Half]
    calls: list[Rollouts]
    scores: list[Callable[[], dict[str, np.ndarray]]]
    """Per call: waits for its rewards by name, [n] each."""
    seconds: float


def _sample_side(
    policy: Sampler,
    side: Side,
    halves: Sequence[Half],
    reward: Reward,
    run: tuple[TrainConfig, int, ImageLoader],
    pool: ThreadPoolExecutor,
) -> _Sampled:
    config, step, load_image = run
    spec = sampling_spec(config.rollout)
    started = time.perf_counter()
    calls: list[Rollouts] = []
    scores: list[Callable[[], dict[str, np.ndarray]]] = []
    size = config.rollout.prompts_per_call or max(len(halves), 1)
    items: list[RewardInput] = []
    for start in range(0, len(halves), size):
        part = halves[start : start + size]
        prompts = [_prompt(side, half, load_image) for half in part]
        seeds_BR = np.array(
            [_seeds(config.seed, step, half, side, config.rollout.rollouts) for half in part], np.uint64
        )
        call = policy.sample(side, prompts, config.rollout.rollouts, spec, seeds_BR)
        calls.append(call)
        inputs = list(_reward_inputs(call, part))
        if reward.remote:
            scores.append(pool.submit(raw_scores, reward, inputs).result)
        items += inputs
    if not reward.remote:
        scores.append(lambda: raw_scores(reward, items))
    return _Sampled(side, halves, calls, scores, time.perf_counter() - started)


def _scored(sampled: _Sampled, reward: Reward, config: TrainConfig) -> SideBatch:
    started = time.perf_counter()
    parts = [scores() for scores in sampled.scores] or [raw_scores(reward, [])]
    shape = len(sampled.halves), config.rollout.rollouts
    raw_BR = {name: np.concatenate([part[name] for part in parts]).reshape(shape) for name in parts[0]}
    scheme = "none" if config.pairing.mode in UNWEIGHTED else config.weighting
    similarity_B = torch.tensor([half.similarity for half in sampled.halves], dtype=torch.float64)
    aligned_B = torch.tensor([half.aligned for half in sampled.halves], dtype=torch.bool)
    return SideBatch(
        side=sampled.side,
        halves=tuple(sampled.halves),
        calls=tuple(sampled.calls),
        rewards_BR=torch.from_numpy(total(reward, raw_BR)),
        weights_B=pair_weights(similarity_B, aligned_B, scheme),
        raw_BR=raw_BR,
        normalised_BR=normalised_parts(reward, raw_BR),
        held_out=held_out_names(reward),
        rollout_seconds=sampled.seconds,
        reward_seconds=time.perf_counter() - started,
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
