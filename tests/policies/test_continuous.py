"""A training step on a policy whose actions are floats (gaussian_policy.py), against a loop written out here."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm

from gaussian_policy import GaussianPolicy, make_gaussian
from pairuni.config import OptimConfig, RolloutConfig, TrainConfig
from pairuni.train.optim import Optimizer
from pairuni.types import Side
from train_world import make_config, read_halves, roll_out, take_step, write_pairs


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    base = make_config(tmp_path / "run", tmp_path, write_pairs(tmp_path / "data"))
    rollout = RolloutConfig(rollouts=4, guidance=2.0, temperature=0.7)
    return dataclasses.replace(base, rollout=rollout, optim=OptimConfig(lr=1e-2, max_grad_norm=0), micro_batch=3)


@pytest.fixture
def policy() -> GaussianPolicy:
    return make_gaussian()


def test_densities_are_those_of_the_normal_distribution(policy: GaussianPolicy, config: TrainConfig) -> None:
    batch = roll_out(policy, read_halves(Path(config.data.pairs)), config)
    for side, sampled in batch.items():
        (call,) = sampled.calls
        assert call.actions_BRT.is_floating_point() and call.actions_BRT.ndim == 4
        mean = policy._means(side, call.prompts, 4, call.spec)[0].detach().numpy()
        density = norm.logpdf(call.actions_BRT.flatten(0, 1).numpy(), mean, 0.7).sum(-1)
        np.testing.assert_allclose(call.cond_logp_BRT.flatten(0, 1), density, atol=1e-4)


def test_one_step_follows_the_rewards(policy: GaussianPolicy, config: TrainConfig) -> None:
    """The gradient is that of -sum over rollouts of w A log p / (rollouts * actions), and likelier actions follow."""
    batch = roll_out(policy, read_halves(Path(config.data.pairs)), config)
    before = {name: parameter.detach().clone() for name, parameter in policy.module.named_parameters()}
    loss = torch.zeros(())
    for sampled in batch.values():
        rewards = sampled.rewards_BR.numpy()
        spread = rewards.std(axis=1, keepdims=True) + config.advantage.std_eps
        advantages = (rewards - rewards.mean(axis=1, keepdims=True)) / spread * sampled.weights_B.numpy()[:, None]
        (call,), size = sampled.calls, rewards.size
        (chunk,) = policy.chunks(call, size)
        logp_n = policy.logprobs(call, chunk).sum(-1)
        loss = loss - (torch.from_numpy(advantages.reshape(-1)) * logp_n).sum() / (size * chunk.mask_kN.shape[1])
    loss.backward()
    expected = {name: p.grad.clone() for name, p in policy.trainable() if p.grad is not None}
    row = take_step(policy, batch, Optimizer(policy.trainable(), config.optim), config, 1)
    got = {name: p.grad for name, p in policy.trainable() if p.grad is not None}
    assert got.keys() == expected.keys() and max(float(grad.abs().max()) for grad in expected.values()) > 1e-3
    for name, grad in expected.items():
        assert (got[name] - grad).abs().max() < 1e-5, name
    for side in Side:
        assert row[f"ratio_mean/{side}"] == pytest.approx(1, abs=1e-4) and row[f"logp_gap_max/{side}"] < 1e-4
    after = dict(policy.module.named_parameters())
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {name for name, _ in policy.trainable()}
