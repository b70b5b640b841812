"""The first half of a step: sample answers and images from the current policy and score them (paper 3). No gradients.

No graph outlives a side's sampling, so that none takes memory while the other side is sampled. step.py learns from the
result.
Shapes: B halves of one side on this process, R rollouts per half (r of them here where a group spans processes),
T actions.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pairuni.algo.weights import Weighting, pair_weights
from pairuni.config import RolloutConfig
from pairuni.dist import all_gather
from pairuni.policies.base import Sampler
from pairuni.policies.sampling import counter_seed
from pairuni.rewards.base import Reward, RewardInput
from pairuni.rewards.combined import held_out_names, normalised_parts, raw_scores, total
from pairuni.types import Half, Prompt, Rollouts, SamplingSpec, Side

ImageLoader = Callable[[str], np.ndarray]
"""From a record's image_path to uint8 [H, W, 3]."""


@dataclass(frozen=True)
class Share:
    """What one process samples of one side."""

    halves: Sequence[Half]
    columns: range | None = None
    """Which rollouts of each half's group, where groups span processes (`dist.own_part`); None: all of them."""


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
        """Selects from a group's values [B, R] those of the rollouts in `calls`: [B, r]."""
        return values_BR if self.columns is None else values_BR[:, self.columns.start : self.columns.stop]

    def texts(self) -> list[str]:
        """The answers in `calls`, empty on the generation side."""
        return [text for call in self.calls if call.texts is not None for row in call.texts for text in row]

    def images(self) -> list[np.ndarray]:
        """The images in `calls`, empty on the understanding side."""
        calls = [call.images_BRHWC for call in self.calls if call.images_BRHWC is not None]
        return [image for images in calls for row in images for image in row]


def sampling_spec(config: RolloutConfig) -> SamplingSpec:
    """The sampling of training rollouts. It never truncates: recorded log-probs must equal the trained ones."""
    spec = SamplingSpec(
        temperature=config.temperature,
        guidance=config.guidance,
        logprob_mode=config.logprob_mode,
        max_new_tokens=config.max_new_tokens,
    )
    assert spec.trainable, f"rollouts for training must be drawn from the whole distribution, not {spec}"
    return spec


def collect(
    policy: Sampler,
    shares: Mapping[Side, Share],
    rewards: Mapping[Side, Reward],
    config: RolloutConfig,
    weighting: Weighting,
    seed: int,
    step: int,
    load_image: ImageLoader,
) -> dict[Side, SideBatch]:
    """Samples `config.rollouts` outputs per half, side by side, and scores them.

    A rollout depends on the weights and on (seed, step, pair, side, rollout) alone: not on the other halves or on how
    they are spread over processes and calls.

    Args:
        shares: of this process; the sides are sampled in the order of `rewards`. Where groups span processes, all
            processes must call it, because the rewards of a group are gathered.
        rewards: one per side that is trained.
        weighting: of retrieved pairs.
        step: the optimiser step, from 1 (sample grids use 0).

    Returns:
        One batch per side of `rewards`, B = 0 included.

    Raises:
        InputError: an image cannot be read, or a reward returns something it must not. Exceptions of a reward pass.
    """
    sampled: dict[Side, _Sampled] = {}
    # A remote reward scores the first outputs while the next prompts, or the other side's, are sampled.
    with ThreadPoolExecutor(max_workers=1) as pool:
        for side, reward in rewards.items():
            share = shares[side]
            sampled[side] = part = _Sampled(side, share)
            columns = range(config.rollouts) if share.columns is None else share.columns
            started = time.perf_counter()
            size = config.prompts_per_call or max(len(share.halves), 1)
            for start in range(0, len(share.halves), size):
                halves = share.halves[start : start + size]
                prompts = [
                    Prompt(side, half.quadruple.prompt)
                    if side is Side.GENERATION
                    else Prompt(side, half.quadruple.question, (load_image(half.quadruple.image_path),))
                    for half in halves
                ]
                # A pair that occurs again in the same batch takes the next R counters: its group is a new one.
                seeds_Br = [
                    [counter_seed(seed, step, half.pair_id, side, half.repeat * config.rollouts + r) for r in columns]
                    for half in halves
                ]
                call = policy.sample(side, prompts, len(columns), sampling_spec(config), np.array(seeds_Br, np.uint64))
                part.calls.append(call)
                texts, images = call.texts, call.images_BRHWC
                inputs = [
                    RewardInput(
                        side,
                        half.quadruple,
                        text=None if texts is None else texts[b][r],
                        image=None if images is None else images[b, r],
                    )
                    for b, half in enumerate(halves)
                    for r in range(len(columns))
                ]
                if reward.remote:
                    part.scores.append(pool.submit(raw_scores, reward, inputs).result)
                part.inputs += inputs
            part.seconds = time.perf_counter() - started
        return {side: _scored(part, rewards[side], config.rollouts, weighting) for side, part in sampled.items()}


@dataclass
class _Sampled:
    """A side's rollouts, and where their scores come from."""

    side: Side
    share: Share
    calls: list[Rollouts] = field(default_factory=list)
    inputs: list[RewardInput] = field(default_factory=list)
    scores: list[Callable[[], dict[str, np.ndarray]]] = field(default_factory=list)
    """Of a remote reward, per call: waits for the scores by name, [n] each."""
    seconds: float = 0.0


def _scored(sampled: _Sampled, reward: Reward, rollouts: int, weighting: Weighting) -> SideBatch:
    started = time.perf_counter()
    halves, columns = sampled.share.halves, sampled.share.columns
    parts = [scores() for scores in sampled.scores] or [raw_scores(reward, sampled.inputs)]
    shape = len(halves), rollouts if columns is None else len(columns)
    raw_BR = {name: np.concatenate([part[name] for part in parts]).reshape(shape) for name in parts[0]}
    if columns is not None:
        raw_BR = _whole_groups(halves, raw_BR, rollouts)
    similarity_B = torch.tensor([half.similarity for half in halves], dtype=torch.float64)
    aligned_B = torch.tensor([half.aligned for half in halves], dtype=torch.bool)
    return SideBatch(
        side=sampled.side,
        halves=tuple(halves),
        calls=tuple(sampled.calls),
        columns=columns,
        rewards_BR=torch.from_numpy(total(reward, raw_BR)),
        weights_B=pair_weights(similarity_B, aligned_B, weighting),
        raw_BR=raw_BR,
        normalised_BR=normalised_parts(reward, raw_BR),
        held_out=held_out_names(reward),
        rollout_seconds=sampled.seconds,
        reward_seconds=time.perf_counter() - started,
    )


def _whole_groups(halves: Sequence[Half], raw_Br: Mapping[str, np.ndarray], rollouts: int) -> dict[str, np.ndarray]:
    """[B, R] for the groups of which this process has columns, gathered from all processes that share them."""
    groups = [(half.pair_id, half.repeat) for half in halves]
    parts = [(group, {name: scores[b] for name, scores in raw_Br.items()}) for b, group in enumerate(groups)]
    # By rank, and so in the order of columns.
    there = [part for parts_of_one in all_gather(parts) for part in parts_of_one]
    rows = {name: [[part[name] for group, part in there if group == own] for own in groups] for name in raw_Br}
    return {name: np.array([np.concatenate(row) for row in of]).reshape(-1, rollouts) for name, of in rows.items()}
