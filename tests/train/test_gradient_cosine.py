"""The gradient cosine of a step: that of both sides' gradients, without a trace in the update."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from pairuni.config import LogConfig, OptimConfig, TrainConfig
from pairuni.errors import InputError
from pairuni.policies import load_policy
from pairuni.policies.base import Policy
from pairuni.train.optim import Optimizer
from pairuni.train.rollout import SideBatch
from pairuni.types import Side
from train_world import make_config, read_halves, roll_out, take_step

Batch = dict[Side, SideBatch]


@pytest.fixture
def config(tiny_config: TrainConfig) -> TrainConfig:
    """Several chunks per side and two updates; gradients are not clipped."""
    optim = OptimConfig(lr=1e-3, max_grad_norm=0)
    return dataclasses.replace(tiny_config, micro_batch=3, updates_per_rollout=2, optim=optim)


def step(config: TrainConfig, batch: Batch, every: int, number: int = 1) -> tuple[Policy, dict[str, float]]:
    """A fresh policy after one step, and the metrics."""
    policy = load_policy(config.model.path, device="cpu")
    config = dataclasses.replace(config, log=LogConfig(gradient_cosine_every=every))
    return policy, take_step(policy, batch, Optimizer(policy.trainable(), config.optim), config, number)


def long_gradient(config: TrainConfig, batch: Batch, side: Side) -> np.ndarray:
    """The gradient of one side's loss alone, as one vector."""
    policy, _ = step(dataclasses.replace(config, updates_per_rollout=1), {side: batch[side]}, 0)
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for _, p in policy.trainable()]
    return torch.cat([grad.flatten() for grad in grads]).double().numpy()


def test_it_is_that_of_both_sides_and_changes_nothing(config: TrainConfig) -> None:
    policy = load_policy(config.model.path, device="cpu")
    batch = roll_out(policy, read_halves(Path(config.data.pairs)), config)
    a, b = (long_gradient(config, batch, side) for side in Side)
    expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert 0.001 < abs(expected) < 0.999
    (plain, without), (measured, row) = (step(config, batch, every) for every in (0, 1))
    assert row["gradient_cosine"] == pytest.approx(expected, abs=1e-6) and "gradient_cosine" not in without
    weights = dict(plain.trainable())
    assert all(torch.equal(weights[name], p) for name, p in measured.trainable())
    before = dict(policy.trainable())
    assert not all(torch.equal(before[name], p) for name, p in measured.trainable())


def test_it_is_measured_when_asked_and_zero_without_a_side(config: TrainConfig) -> None:
    policy = load_policy(config.model.path, device="cpu")
    batch = roll_out(policy, read_halves(Path(config.data.pairs)), config)
    assert ["gradient_cosine" in step(config, batch, 3, n)[1] for n in (1, 3, 4)] == [False, True, False]
    flat = dataclasses.replace(batch[Side.GENERATION], rewards_BR=torch.ones_like(batch[Side.GENERATION].rewards_BR))
    assert step(config, batch | {Side.GENERATION: flat}, 1)[1]["gradient_cosine"] == 0.0


def test_one_side_has_nothing_to_compare(tmp_path: Path) -> None:
    log = LogConfig(gradient_cosine_every=1)
    with pytest.raises(InputError, match="compares both sides"):
        make_config(tmp_path, tmp_path, tmp_path / "pairs.jsonl", log=log, sides="generation")
