"""The first half of a step: sample answers and images from the current policy and score them (paper 3). No gradients.

Nothing with a gradient outlives a side's sampling, so that no graph is held while the other side is sampled. What is
learnt from the result is step.py.
Shapes: B halves of one side on this process, R rollouts per half (r of them here where a group spans processes),
T actions.
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
from pairuni.data.mixing import UNWEIGHTED
from pairuni.dist import all_gather
from pairuni.policies.base import Sampler
from pairuni.policies.sampling import counter_seed
from pairuni.rewards.base import Reward, RewardInput
from pairuni.rewards.combined import held_out_names, normalised_parts, raw_scores, total
from pairuni.types import Half, Prompt, Rollouts, SamplingSpec, Side

ImageLoader = Callable[[str], np.ndarray]
"""From a record's image_path to uint8 [H, W, 3]."""


@dataclass(frozen=True)
class SideBatch:
    """What one process sampled of one side, with its rewards."""

    side: Side
    halves: tuple[Half, ...]
    calls: tuple[Rollouts, ...]
    """Of consecutive halves; several where `rollout.prompts_per_call` limits how many are sampled together."""
    columns: range | None
    """Of each group's rollouts, those that are in `calls`; the rest is on other processes. None: all of them."""
    rewards_BR: Tensor
    """float64, of whole groups, what is trained: NaN where a remote reward did not answer."""
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

    def own(self, values_BR: Tensor) -> Tensor:
        """[B, r] of a group's values, those of the rollouts in `calls`."""
        return values_BR if self.columns is None else values_BR[:, self.columns.start : self.columns.stop]

    def texts(self) -> list[str]:
        """The answers in `calls`, empty on the generation side."""
        return [text for call in self.calls if call.texts is not None for row in call.texts for text in row]

    def images(self) -> list[np.ndarray]:
        """The images in `calls`, empty on the understanding side."""
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
    columns: Mapping[Side, range | None] | None = None,
) -> dict[Side, SideBatch]:
    """Samples `config.rollout.rollouts` outputs per half, side by side, and scores them.

    A rollout depends on the weights and on (config.seed, step, pair, side, rollout) alone: not on the other halves or
    on how they are spread over processes and calls.

    Args:
        halves: this process' halves; the sides among them are sampled in the order of `rewards`.
        rewards: one per side that is trained.
        step: the optimiser step, from 1 (sample grids use 0).
        columns: which rollouts of its halves this process samples, where a side's groups span processes
            (`dist.own_part`); their rewards are gathered, so that all processes must call it.

    Returns:
        One batch per side of `rewards`, B = 0 included.

    Raises:
        InputError: an image cannot be read, or a reward returns something it must not. Exceptions of a reward pass.
    """
    # A remote reward scores what is there while the next prompts, or the other side's, are sampled.
    with ThreadPoolExecutor(max_workers=1) as pool:
        run = (config, step, load_image)
        sampled = {
            side: _sample_side(policy, side, (halves[side], (columns or {}).get(side)), reward, run, pool)
            for side, reward in rewards.items()
        }
        return {side: _scored(one, rewards[side], config) for side, one in sampled.items()}


@dataclass(frozen=True)
class _Sampled:
    """A side's rollouts, and where its scores come from."""

    side: Side
    halves: Sequence[Half]
    columns: range | None
    calls: list[Rollouts]
    scores: list[Callable[[], dict[str, np.ndarray]]]
    """Per call: waits for its rewards by name, [n] each."""
    seconds: float


def _sample_side(
    policy: Sampler,
    side: Side,
    share: tuple[Sequence[Half], range | None],
    reward: Reward,
    run: tuple[TrainConfig, int, ImageLoader],
    pool: ThreadPoolExecutor,
) -> _Sampled:
    (halves, columns), (config, step, load_image) = share, run
    own_r = range(config.rollout.rollouts) if columns is None else columns
    spec = sampling_spec(config.rollout)
    started = time.perf_counter()
    calls: list[Rollouts] = []
    scores: list[Callable[[], dict[str, np.ndarray]]] = []
    size = config.rollout.prompts_per_call or max(len(halves), 1)
    items: list[RewardInput] = []
    for start in range(0, len(halves), size):
        part = halves[start : start + size]
        prompts = [_prompt(side, half, load_image) for half in part]
        # A pair that occurs again in the same batch takes the next R counters: its group is a new one.
        firsts = [half.repeat * config.rollout.rollouts for half in part]
        seeds_Br = [
            [counter_seed(config.seed, step, half.pair_id, side, first + r) for r in own_r]
            for half, first in zip(part, firsts, strict=True)
        ]
        call = policy.sample(side, prompts, len(own_r), spec, np.array(seeds_Br, np.uint64))
        calls.append(call)
        inputs = list(_reward_inputs(call, part))
        if reward.remote:
            scores.append(pool.submit(raw_scores, reward, inputs).result)
        items += inputs
    if not reward.remote:
        scores.append(lambda: raw_scores(reward, items))
    return _Sampled(side, halves, columns, calls, scores, time.perf_counter() - started)


def _scored(sampled: _Sampled, reward: Reward, config: TrainConfig) -> SideBatch:
    started = time.perf_counter()
    parts = [scores() for scores in sampled.scores] or [raw_scores(reward, [])]
    rollouts = config.rollout.rollouts
    shape = len(sampled.halves), rollouts if sampled.columns is None else len(sampled.columns)
    raw_BR = {name: np.concatenate([part[name] for part in parts]).reshape(shape) for name in parts[0]}
    if sampled.columns is not None:
        raw_BR = _whole_groups(sampled.halves, raw_BR, rollouts)
    scheme = "none" if config.pairing.mode in UNWEIGHTED else config.weighting
    similarity_B = torch.tensor([half.similarity for half in sampled.halves], dtype=torch.float64)
    aligned_B = torch.tensor([half.aligned for half in sampled.halves], dtype=torch.bool)
    return SideBatch(
        side=sampled.side,
        halves=tuple(sampled.halves),
        calls=tuple(sampled.calls),
        columns=sampled.columns,
        rewards_BR=torch.from_numpy(total(reward, raw_BR)),
        weights_B=pair_weights(similarity_B, aligned_B, scheme),
        raw_BR=raw_BR,
        normalised_BR=normalised_parts(reward, raw_BR),
        held_out=held_out_names(reward),
        rollout_seconds=sampled.seconds,
        reward_seconds=time.perf_counter() - started,
    )


def _whole_groups(halves: Sequence[Half], raw_Br: Mapping[str, np.ndarray], rollouts: int) -> dict[str, np.ndarray]:
    """[B, R] of the groups that this process has columns of, put together from all processes that have some."""
    groups = [(half.pair_id, half.repeat) for half in halves]
    parts = [(group, {name: scores[b] for name, scores in raw_Br.items()}) for b, group in enumerate(groups)]
    # By rank, and so in the order of columns.
    there = [part for parts_of_one in all_gather(parts) for part in parts_of_one]
    rows = {name: [[part[name] for group, part in there if group == own] for own in groups] for name in raw_Br}
    return {name: np.array([np.concatenate(row) for row in of]).reshape(-1, rollouts) for name, of in rows.items()}


def _prompt(side: Side, half: Half, load_image: ImageLoader) -> Prompt:
    if side is Side.GENERATION:
        return Prompt(side, half.quadruple.prompt)
    return Prompt(side, half.quadruple.question, (load_image(half.quadruple.image_path),))


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
