"""The loop learns: a reward for one property rises on each side, and does not where rewards are shuffled.

The random VQ decoder draws nearly the same grey for any codes, so it is first taught that half of them are bright.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pairuni.config import LogConfig, OptimConfig, RewardConfig, RolloutConfig
from pairuni.policies.janus.policy import JanusPolicy
from pairuni.rewards.base import RewardInput
from pairuni.rewards.pixel_rewards import brightness
from pairuni.runs import RunDir
from pairuni.train.loop import train
from pairuni.types import Side
from train_world import letter_share, make_config

_rng = np.random.default_rng(0)


def bright(items: Sequence[RewardInput]) -> list[float]:
    return [brightness(item.image) for item in items if item.image is not None]


def shuffled_letters(items: Sequence[RewardInput]) -> list[float]:
    return _rng.permutation(letter_share(items)).tolist()


def shuffled_bright(items: Sequence[RewardInput]) -> list[float]:
    return _rng.permutation(bright(items)).tolist()


def teach_brightness(policy: JanusPolicy) -> None:
    """Trains the decoder so that codes of the lower half of the codebook become bright patches, the others dark."""
    model = policy.module.model
    generator = torch.Generator().manual_seed(0)
    embedding = model.vqmodel.quantize.embedding.weight
    low_C = torch.arange(len(embedding)) < len(embedding) // 2
    direction = torch.randn(embedding.shape[1], generator=generator)
    with torch.no_grad():
        embedding.copy_(torch.where(low_C[:, None], direction, -direction))
    parameters = [*model.vqmodel.decoder.parameters(), *model.vqmodel.post_quant_conv.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(parameters, lr=2e-3)
    side, patch = 4, policy.image_size // 4
    for _ in range(40):
        share = torch.rand(16, 1, generator=generator)
        bright_BI = torch.rand(16, side * side, generator=generator) < share
        codes = torch.where(bright_BI, 0, len(embedding) - 1)
        target = bright_BI.view(16, side, side).repeat_interleave(patch, 1).repeat_interleave(patch, 2)
        pixels = policy.module.decode_image_tokens(codes)
        loss = (pixels - (2.0 * target - 1)[..., None]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    policy.module.requires_grad_(True)


def rise(folder: Path, model: Path, pairs: Path, rewards: RewardConfig) -> dict[Side, float]:
    """Mean reward of the last three steps minus that of the first three."""
    config = dataclasses.replace(
        make_config(folder, model, pairs),
        steps=15,
        micro_batch=48,
        rewards=rewards,
        rollout=RolloutConfig(rollouts=24, guidance=1.0, max_new_tokens=3),
        optim=OptimConfig(lr=1e-2),
        log=LogConfig(samples_every=0, checkpoint_every=0),
    )
    train(config)
    rows = RunDir(folder).read_metrics()
    means = {side: [row[f"reward_mean/{side}"] for row in rows] for side in Side}
    return {side: float(np.mean(values[-3:]) - np.mean(values[:3])) for side, values in means.items()}


def test_rewards_rise_on_both_sides_and_not_when_shuffled(
    tiny_janus: JanusPolicy, tmp_path: Path, pairs_file: Path
) -> None:
    teach_brightness(tiny_janus)
    tiny_janus.save(tmp_path / "model")
    args = (tmp_path / "model", pairs_file)
    learned = rise(tmp_path / "a", *args, RewardConfig("train_world:letter_share", "test_learning:bright"))
    control = rise(
        tmp_path / "b", *args, RewardConfig("test_learning:shuffled_letters", "test_learning:shuffled_bright")
    )
    for side in Side:
        assert learned[side] > 0.2, (side, learned)
        # Shuffled rewards make the weights drift, in no direction.
        assert control[side] < learned[side] / 2, (side, control)
