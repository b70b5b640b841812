"""What one rollout weighs: the denominators of each mode against flat loops over single rollouts."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pairuni.config import NormLength, OptimConfig, PairSelectionConfig, SideWeights, TrainConfig
from pairuni.policies.janus.policy import JanusPolicy
from pairuni.train.optim import Optimizer
from pairuni.train.rollout import SideBatch
from pairuni.types import Side
from train_world import read_halves, roll_out, take_step

U, G = Side.UNDERSTANDING, Side.GENERATION
NORMS = ["sequence_mean", "token_sum", "token_mean", "constant"]
LENGTHS = {U: 7, G: 11}


def step_gradients(policy: JanusPolicy, batch: dict[Side, SideBatch], config: TrainConfig) -> dict[str, Tensor]:
    """The gradients of a step, which leaves the weights as they were."""
    before = {name: p.detach().clone() for name, p in policy.trainable()}
    take_step(policy, batch, Optimizer(policy.trainable(), config.optim), config, 1)
    grads = {name: p.grad.clone() for name, p in policy.trainable() if p.grad is not None}
    with torch.no_grad():
        for name, parameter in policy.trainable():
            parameter.copy_(before[name])
            parameter.grad = None
    return grads


def mixed_loop(
    policy: JanusPolicy, batch: dict[Side, SideBatch], norm: str, weights: dict[Side, float]
) -> dict[str, Tensor]:
    """Plain GRPO at ratio 1: one list of all the batch's rollouts, whatever their side, and one denominator over it."""
    flat: list[tuple[float, Tensor, int]] = []
    lengths: list[int] = []
    for side, sampled in batch.items():
        for call in sampled.calls:
            for row in range(call.shape[0] * call.shape[1]):
                b, r = divmod(row, call.shape[1])
                rewards = sampled.rewards_BR[b].numpy()
                credit = (rewards[r] - rewards.mean()) / (rewards.std() + 1e-6)
                (chunk,) = (c for c in policy.chunks(call, 1) if c.rows == (row,))
                length = int(call.mask_BRT[b, r].sum())
                lengths.append(LENGTHS[side])
                flat.append((weights[side] * float(credit), policy.logprobs(call, chunk).sum(), length))
    half = {
        "sequence_mean": len(flat) / 2,
        "token_sum": len(flat) / 2,
        "token_mean": sum(length for _, _, length in flat) / 2,
        "constant": len(flat) / 2,
    }[norm]
    loss = torch.zeros(())
    for (credit, logp, length), constant in zip(flat, lengths, strict=True):
        loss = loss - credit * logp / {"sequence_mean": length, "constant": constant}.get(norm, 1) / half
    loss.backward()
    grads = {name: p.grad.clone() for name, p in policy.trainable() if p.grad is not None}
    policy.module.zero_grad()
    return grads


def close(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert max(float(g.abs().max()) for g in expected.values()) > 100 * tolerance
    zero = torch.zeros(())
    for name in got.keys() | expected.keys():
        assert (got.get(name, zero) - expected.get(name, zero)).abs().max() <= tolerance, name


def vanilla(config: TrainConfig, norm: Any, **changes: Any) -> TrainConfig:
    return dataclasses.replace(
        config,
        pair_selection=PairSelectionConfig(mode="vanilla"),
        loss_norm=norm,
        norm_length=NormLength(LENGTHS[U], LENGTHS[G]),
        micro_batch=3,
        optim=OptimConfig(lr=1e-4, max_grad_norm=0),
        **changes,
    )


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("counts", [(3, 1), (1, 3), (0, 2), (2, 0)])
def test_vanilla_has_one_denominator_over_the_mixed_batch(
    tiny_janus: JanusPolicy, tiny_config: TrainConfig, pairs_file: Path, norm: str, counts: tuple[int, int]
) -> None:
    config = vanilla(tiny_config, norm, side_weights=SideWeights(understanding=0.5, generation=2.0))
    halves = read_halves(pairs_file)
    batch = roll_out(tiny_janus, {side: halves[side][:n] for side, n in zip(Side, counts, strict=True)}, config)
    assert tuple(len(batch[side].halves) for side in Side) == counts
    expected = mixed_loop(tiny_janus, batch, norm, {U: 0.5, G: 2.0})
    close(step_gradients(tiny_janus, batch, config), expected, 1e-5)


@pytest.mark.parametrize("norm", ["sequence_mean", "token_sum", "constant"])
def test_a_balanced_draw_of_vanilla_has_the_gradient_of_pairs(
    tiny_janus: JanusPolicy, tiny_config: TrainConfig, pairs_file: Path, norm: str
) -> None:
    config = vanilla(tiny_config, norm)
    batch = roll_out(tiny_janus, {side: items[:2] for side, items in read_halves(pairs_file).items()}, config)
    pairs = dataclasses.replace(config, pair_selection=PairSelectionConfig(mode="pairs"))
    close(step_gradients(tiny_janus, batch, config), step_gradients(tiny_janus, batch, pairs), 1e-7)


def test_vanilla_with_one_side_is_plain_grpo_on_that_side(
    tiny_janus: JanusPolicy, tiny_config: TrainConfig, pairs_file: Path
) -> None:
    config = vanilla(tiny_config, "sequence_mean", sides="generation")
    batch = roll_out(tiny_janus, {G: read_halves(pairs_file)[G][:2]}, config)
    pairs = dataclasses.replace(config, pair_selection=PairSelectionConfig(mode="pairs"))
    close(step_gradients(tiny_janus, batch, config), step_gradients(tiny_janus, batch, pairs), 1e-7)


def test_a_rollout_of_a_mixed_batch_weighs_the_same_whatever_the_draw(
    tiny_janus: JanusPolicy, tiny_config: TrainConfig, pairs_file: Path
) -> None:
    """The same image group beside one, three or no question: its gradient changes with the batch's size alone."""
    config = vanilla(tiny_config, "sequence_mean")
    halves = read_halves(pairs_file)
    grads = []
    for questions in (0, 1, 3):
        batch = roll_out(tiny_janus, {U: halves[U][:questions], G: halves[G][:1]}, config)
        silent = {U: dataclasses.replace(batch[U], rewards_BR=torch.ones_like(batch[U].rewards_BR)), G: batch[G]}
        grads.append({name: (questions + 1) * g for name, g in step_gradients(tiny_janus, silent, config).items()})
    close(grads[1], grads[0], 1e-6)
    close(grads[2], grads[0], 1e-6)
