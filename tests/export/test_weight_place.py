"""Where docs/exporters.md says that a pair's weight may enter, and what undoes it, in NumPy of this file's own."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from pairuni.algo.pair_grpo import weighted_advantages
from pairuni.algo.surrogate import clipped_surrogate

PAIRS, ROLLOUTS, LENGTH, EPS = 5, 4, 7, 0.2


class Batch:
    """Rollouts of one side: group-normalised advantages, pair weights, ratios on both sides of the clip range."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.rewards_BR = rng.normal(size=(PAIRS, ROLLOUTS))
        self.advantage_BR = normalised(self.rewards_BR)
        self.weight_B = np.array([1.0, *np.sqrt(rng.uniform(0.3, 0.99, PAIRS - 1))])
        self.old_NT = rng.normal(size=(PAIRS * ROLLOUTS, LENGTH))
        self.logp_NT = self.old_NT + rng.normal(scale=0.3, size=self.old_NT.shape)
        self.mask_NT = np.arange(LENGTH) < rng.integers(1, LENGTH + 1, (PAIRS * ROLLOUTS, 1))

    @property
    def weight_N(self) -> np.ndarray:
        return np.repeat(self.weight_B, ROLLOUTS)


def normalised(rewards_BR: np.ndarray) -> np.ndarray:
    return (rewards_BR - rewards_BR.mean(1, keepdims=True)) / rewards_BR.std(1, keepdims=True)


def terms(logp_NT: np.ndarray, old_NT: np.ndarray, advantage_N: np.ndarray) -> np.ndarray:
    """The clipped loss of every token."""
    ratio_NT, advantage_N1 = np.exp(logp_NT - old_NT), advantage_N[:, None]
    return np.maximum(-advantage_N1 * ratio_NT, -advantage_N1 * np.clip(ratio_NT, 1 - EPS, 1 + EPS))


def token_mean(terms_NT: np.ndarray, mask_NT: np.ndarray) -> float:
    return float((terms_NT * mask_NT).sum() / mask_NT.sum())


def sequence_mean(terms_NT: np.ndarray, mask_NT: np.ndarray) -> float:
    return float(((terms_NT * mask_NT).sum(1) / mask_NT.sum(1)).mean())


def token_sum(terms_NT: np.ndarray, mask_NT: np.ndarray) -> float:
    return float((terms_NT * mask_NT).sum())


AGGREGATIONS: list[Callable[[np.ndarray, np.ndarray], float]] = [token_mean, sequence_mean, token_sum]


def on_advantage(batch: Batch, logp_NT: np.ndarray, aggregate: Callable, weight_N: np.ndarray) -> float:
    return aggregate(terms(logp_NT, batch.old_NT, weight_N * batch.advantage_BR.ravel()), batch.mask_NT)


def on_loss(batch: Batch, logp_NT: np.ndarray, aggregate: Callable, weight_N: np.ndarray) -> float:
    return aggregate(weight_N[:, None] * terms(logp_NT, batch.old_NT, batch.advantage_BR.ravel()), batch.mask_NT)


def gradient(function: Callable[[np.ndarray], float], at: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """By central differences; no ratio lies within `step` of the clip range."""
    found = np.zeros_like(at)
    for place in np.ndindex(at.shape):
        moved = np.zeros_like(at)
        moved[place] = step
        found[place] = (function(at + moved) - function(at - moved)) / (2 * step)
    return found


@pytest.mark.parametrize("aggregate", AGGREGATIONS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("seed", range(3))
def test_a_weight_on_the_advantage_is_a_weight_on_the_loss(seed: int, aggregate: Callable) -> None:
    batch = Batch(seed)
    clipped = np.abs(np.exp(batch.logp_NT - batch.old_NT) - 1) > EPS
    assert 0.1 < clipped.mean() < 0.9  # both branches of the surrogate are there
    either = [
        lambda logp_NT, place=place: place(batch, logp_NT, aggregate, batch.weight_N)
        for place in (on_advantage, on_loss)
    ]
    assert either[0](batch.logp_NT) == pytest.approx(either[1](batch.logp_NT), rel=1e-12)
    gradients = [gradient(function, batch.logp_NT) for function in either]
    np.testing.assert_allclose(gradients[0], gradients[1], atol=1e-8)
    unweighted = gradient(
        lambda logp_NT: on_loss(batch, logp_NT, aggregate, np.ones_like(batch.weight_N)), batch.logp_NT
    )
    assert np.abs(gradients[0] - unweighted).max() > 1e-3  # the weights do something


def test_it_is_not_for_negative_weights() -> None:
    """max(-wAr, -wA clip(r)) turns into a minimum."""
    batch = Batch(0)
    weight_N = -batch.weight_N
    assert on_advantage(batch, batch.logp_NT, token_mean, weight_N) != pytest.approx(
        on_loss(batch, batch.logp_NT, token_mean, weight_N), rel=1e-3
    )


def test_it_is_what_pairuni_does() -> None:
    batch = Batch(1)
    credit_N = weighted_advantages(batch.rewards_BR, torch.tensor(batch.weight_B), std_eps=1e-12).double().flatten()
    tensors = [torch.tensor(each) for each in (batch.logp_NT, batch.old_NT)]
    loss, _ = clipped_surrogate(*tensors, credit_N, torch.tensor(batch.mask_NT), EPS)
    assert float(loss) == pytest.approx(on_advantage(batch, batch.logp_NT, token_sum, batch.weight_N), rel=1e-5)
    assert float(loss) == pytest.approx(on_loss(batch, batch.logp_NT, token_sum, batch.weight_N), rel=1e-5)


def test_whitening_afterwards_undoes_it() -> None:
    """Within groups wholly. Over the batch, whose mean is 0 already, pairs keep their ratio and the scale is lost."""
    batch = Batch(2)
    weighted_BR = batch.weight_B[:, None] * batch.advantage_BR
    np.testing.assert_allclose(normalised(weighted_BR), batch.advantage_BR)
    whitened_BR = (weighted_BR - weighted_BR.mean()) / weighted_BR.std()
    later = token_mean(terms(batch.logp_NT, batch.old_NT, whitened_BR.ravel()), batch.mask_NT)
    expected = on_loss(batch, batch.logp_NT, token_mean, batch.weight_N)
    assert later != pytest.approx(expected, rel=0.02)
    np.testing.assert_allclose(whitened_BR / weighted_BR, 1 / weighted_BR.std())
    assert weighted_BR.std() < 0.95


def test_whitening_over_tokens_changes_the_ratios_too() -> None:
    """Where long rollouts are better or worse ones, the mean over tokens is not 0."""
    batch = Batch(2)
    weighted_N = batch.weight_N * batch.advantage_BR.ravel()
    length_N = batch.mask_NT.sum(1)
    mean = (weighted_N * length_N).sum() / length_N.sum()
    ratio_N = (weighted_N - mean) / weighted_N
    assert np.ptp(length_N) > 2 and abs(mean) > 0.01 and np.ptp(ratio_N) > 0.05


def test_a_weight_on_the_reward_is_lost() -> None:
    """Division by the group's deviation; without it (Dr. GRPO) the reward is as good a place."""
    batch = Batch(3)
    scaled_BR = batch.weight_B[:, None] * batch.rewards_BR
    np.testing.assert_allclose(normalised(scaled_BR), batch.advantage_BR)
    centred_BR = batch.rewards_BR - batch.rewards_BR.mean(1, keepdims=True)
    np.testing.assert_allclose(scaled_BR - scaled_BR.mean(1, keepdims=True), batch.weight_B[:, None] * centred_BR)


def test_a_clamp_afterwards_matters_beyond_its_bound_only() -> None:
    weight, bound = 0.8, 5.0
    for advantage, same in ((-4.9, True), (2.0, True), (5.5, False), (-7.0, False)):
        clamped_later = np.clip(weight * advantage, -bound, bound)
        assert np.isclose(clamped_later, weight * np.clip(advantage, -bound, bound)) == same


def test_a_kl_term_stays_outside() -> None:
    batch, beta = Batch(4), 0.1
    log_ratio_NT = batch.old_NT - batch.logp_NT
    kl_NT = beta * (np.exp(log_ratio_NT) - log_ratio_NT - 1)
    outside = on_advantage(batch, batch.logp_NT, token_mean, batch.weight_N) + token_mean(kl_NT, batch.mask_NT)
    policy_NT = terms(batch.logp_NT, batch.old_NT, batch.advantage_BR.ravel())
    whole = token_mean(batch.weight_N[:, None] * (policy_NT + kl_NT), batch.mask_NT)
    part = token_mean(batch.weight_N[:, None] * policy_NT + kl_NT, batch.mask_NT)
    assert part == pytest.approx(outside, rel=1e-12) and whole != pytest.approx(outside, rel=1e-3)


def test_a_loss_that_is_not_linear_in_the_advantage_has_no_such_place() -> None:
    """DiffusionNFT mixes two losses by r = 1/2 + A / (2 bound): a weight on A leaves their common part whole."""
    positive, negative, advantage, weight, bound = 0.7, 1.9, 1.5, 0.6, 5.0

    def mixed(advantage: float) -> float:
        share = 0.5 + advantage / (2 * bound)
        return share * positive + (1 - share) * negative

    assert mixed(weight * advantage) != pytest.approx(weight * mixed(advantage), rel=0.1)
