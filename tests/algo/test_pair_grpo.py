"""The assembled objective: denominators, chunking, pair weights on both sides, missing rewards."""

import math

import numpy as np
import pytest
import torch

from pairuni.algo.pair_grpo import (
    LossDenominators,
    loss_scales,
    merge_stats,
    side_denominators,
    weighted_advantages,
)
from pairuni.algo.surrogate import clipped_surrogate, kl_estimate, ratio_statistics
from pairuni.algo.weights import pair_weights

NORMS = ["sequence_mean", "token_sum", "token_mean", "constant"]
B, R, T, EPS, LENGTH = 4, 2, 6, 0.2, 9


def side_loss(logp, old, advantage, mask, scale, eps, ref=None, beta=0.0, drawn=None, estimator="k3"):
    """One chunk of one side's loss as the step composes it: scale * (-L_clip + beta * KL), and its statistics."""
    scale = scale if scale.ndim == 2 else scale[:, None]
    loss, cut = clipped_surrogate(logp, old, advantage[:, None] * scale.to(advantage), mask, eps)
    stats = ratio_statistics(logp, old, mask) | {"clip_fraction": cut, "actions": mask.sum()}
    if ref is not None:
        weight = scale if drawn is None else scale * drawn
        loss = loss + beta * kl_estimate(logp, ref, mask, estimator, weight)
    return loss, stats


def rollouts(seed: int = 0):
    """Flat rows of one side: [B * R, T] log-probs, old and reference ones, a ragged mask, and rewards [B, R]."""
    rng = np.random.default_rng(seed)
    logp = torch.from_numpy(-rng.random((B * R, T)) * 2)
    old, ref = (logp + torch.from_numpy(rng.normal(size=(B * R, T))) * 0.3 for _ in range(2))
    mask = torch.arange(T) < torch.tensor([6, 1, 3, 2, 5, 5, 4, 1])[:, None]
    rewards = rng.random((B, R))
    return logp, old, ref, mask, rewards


def loss_in_chunks(rows_per_chunk, norm, beta=0.0, seed=0):
    logp, old, ref, mask, rewards = rollouts(seed)
    logp.requires_grad_()
    credit = weighted_advantages(rewards, torch.tensor([1.0, 0.8, 0.5, 1.0])).flatten()
    totals = side_denominators(mask.view(B, R, T).sum(-1))
    loss, parts = torch.zeros((), dtype=torch.float64), []
    for start in range(0, B * R, rows_per_chunk):
        k = slice(start, start + rows_per_chunk)
        scale = loss_scales(mask[k].sum(-1), norm, totals, LENGTH)
        part, stats = side_loss(logp[k], old[k], credit[k], mask[k], scale, EPS, ref[k] if beta else None, beta)
        part.backward()
        loss += part.detach()
        parts.append(stats)
    return float(loss), logp.grad, merge_stats(parts)


def by_hand(norm, beta):
    logp, old, ref, mask, rewards = (np.asarray(x) for x in rollouts())
    weight = [1.0, 0.8, 0.5, 1.0]
    sums, lengths = [], []
    for row in range(B * R):
        b, r = divmod(row, R)
        a = weight[b] * (rewards[b, r] - rewards[b].mean()) / (rewards[b].std() + 1e-6)
        total = 0.0
        for t in np.flatnonzero(mask[row]):
            rho, d = math.exp(logp[row, t] - old[row, t]), ref[row, t] - logp[row, t]
            total += -min(rho * a, np.clip(rho, 1 - EPS, 1 + EPS) * a) + beta * (math.exp(d) - d - 1)
        sums.append(total)
        lengths.append(mask[row].sum())
    return {
        "sequence_mean": np.mean([s / n for s, n in zip(sums, lengths, strict=True)]),
        "token_sum": np.mean(sums),
        "token_mean": np.sum(sums) / np.sum(lengths),
        "constant": np.sum(sums) / (B * R * LENGTH),
    }[norm]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_each_denominator_equals_the_formula(norm, beta):
    loss, _, stats = loss_in_chunks(B * R, norm, beta)
    assert loss == pytest.approx(by_hand(norm, beta), abs=1e-7)
    assert stats["actions"] == 27


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_chunking_changes_nothing(norm, beta):
    """1 x 8 == 2 x 4 == 4 x 2 == 8 x 1 micro-batches, and an uneven split: value, gradient and statistics."""
    whole = loss_in_chunks(8, norm, beta)
    for rows in (4, 2, 1, 3):
        loss, grad, stats = loss_in_chunks(rows, norm, beta)
        assert loss == pytest.approx(whole[0], abs=1e-12)
        np.testing.assert_allclose(grad, whole[1], atol=1e-12)
        assert stats == pytest.approx(whole[2], abs=1e-12)


def test_a_rollout_scored_in_several_steps_has_one_scale():
    """A chunk may hold part of a rollout's actions; the scale is that of the whole rollout."""
    logp, old, _, mask, rewards = rollouts()
    credit = weighted_advantages(rewards, torch.ones(B)).flatten()
    scale = loss_scales(mask.sum(-1), "sequence_mean", side_denominators(mask.view(B, R, T).sum(-1)))
    whole, _ = side_loss(logp, old, credit, mask, scale, EPS)
    first = mask & (torch.arange(T) % 2 == 0)
    parts = [side_loss(logp, old, credit, part, scale, EPS)[0] for part in (first, mask & ~first)]
    assert float(sum(parts)) == pytest.approx(float(whole), abs=1e-12)


def test_ranks_add_up():
    masks = [torch.arange(5) < torch.tensor([[2], [5]]), torch.arange(5) < torch.tensor([[1], [0]])]
    total = side_denominators(masks[0][None].sum(-1)) + side_denominators(masks[1][None].sum(-1))
    assert total == LossDenominators(rollouts=4, actions=8)
    scales = torch.cat([loss_scales(m.sum(-1), "sequence_mean", total) for m in masks])
    np.testing.assert_allclose(scales, [1 / 8, 1 / 20, 1 / 4, 0], atol=1e-7)


def test_short_answers_weigh_as_much_as_long_ones():
    lengths, totals = torch.tensor([5, 576]), LossDenominators(2, 581)
    for norm, ratio in (("sequence_mean", 1.0), ("token_mean", 576 / 5), ("token_sum", 576 / 5)):
        weight = lengths * loss_scales(lengths, norm, totals)
        assert float(weight[1] / weight[0]) == pytest.approx(ratio)


def test_pair_weights_scale_both_sides_and_their_gradients():
    similarity, aligned = [1.0, 0.64], [True, False]
    weights = pair_weights(similarity, aligned, "sqrt")
    rng = np.random.default_rng(5)
    for rewards in (rng.integers(0, 2, (2, 4)) * 1.0 + np.eye(4)[:2], rng.random((2, 4))):
        plain, weighted = weighted_advantages(rewards, torch.ones(2)), weighted_advantages(rewards, weights)
        np.testing.assert_allclose(weighted[0], plain[0], atol=1e-12)
        np.testing.assert_allclose(weighted[1], 0.8 * plain[1], atol=1e-7)
        grads = []
        for credit in (plain, weighted):
            logp = torch.zeros(8, 3, dtype=torch.float64, requires_grad=True)
            mask = torch.ones(8, 3, dtype=torch.bool)
            scale = loss_scales(mask.sum(-1), "sequence_mean", LossDenominators(8, 24))
            side_loss(logp, logp.detach(), credit.flatten(), mask, scale, EPS)[0].backward()
            grads.append(logp.grad)
        np.testing.assert_allclose(grads[1][4:], 0.8 * grads[0][4:], atol=1e-7)


def test_the_epsilon_of_the_spread_is_the_one_given():
    """Rewards 0 and 1 have a spread of 1/2: a = 1/2 / (1/2 + eps)."""
    credit = weighted_advantages(np.array([[0.0, 1.0]]), torch.tensor([0.8]), std_eps=0.5)
    np.testing.assert_allclose(credit, [[-0.4, 0.4]], atol=1e-7)


def test_text_rewards_do_not_touch_image_credit():
    """The two halves are two groups: other text rewards, same image advantages."""
    images, weights = np.array([[0.2, 0.9, 0.4]]), torch.tensor([0.8])
    credit = {}
    for text in ([[1.0, 0.0, 0.0]], [[0.0, 1.0, 1.0]]):
        sides = {"understanding": np.array(text), "generation": images}
        credit[str(text)] = {side: weighted_advantages(rewards, weights) for side, rewards in sides.items()}
    one, other = credit.values()
    assert torch.equal(one["generation"], other["generation"])
    assert not torch.equal(one["understanding"], other["understanding"])


@pytest.mark.parametrize("norm", NORMS)
def test_missing_rewards_and_empty_rollouts_never_give_nan(norm):
    logp = torch.full((4, 3), -1.0, requires_grad=True)
    mask = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 1, 1], [1, 0, 0]], dtype=torch.bool)
    credit = weighted_advantages(np.array([[1.0, np.nan, 0.0, np.nan]]), torch.ones(1)).flatten()
    scale = loss_scales(mask.sum(-1), norm, side_denominators(mask[None].sum(-1)), LENGTH)
    loss, stats = side_loss(logp, logp.detach(), credit, mask, scale, EPS, logp.detach() - 0.5, 0.1)
    loss.backward()
    assert logp.grad is not None and bool(torch.isfinite(logp.grad).all()) and math.isfinite(float(loss.detach()))
    assert all(math.isfinite(float(v)) for v in stats.values())
    assert bool((logp.grad[~mask] == 0).all())


def test_merging_chunks_without_decisions():
    mask = torch.zeros(2, 3, dtype=torch.bool)
    scale = loss_scales(mask.sum(-1), "sequence_mean", side_denominators(mask[None].sum(-1)))
    loss, stats = side_loss(torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(2), mask, scale, EPS)
    assert float(loss) == 0
    assert merge_stats([stats]) == {"ratio_mean": 1, "ratio_max": 1, "clip_fraction": 0, "actions": 0}
    full = {"ratio_mean": 0.5, "ratio_max": 0.7, "clip_fraction": 0.25, "actions": 4.0}
    assert merge_stats([stats, full]) == full


def test_bad_arguments():
    lengths, totals = torch.tensor([1, 2]), LossDenominators(2, 3)
    with pytest.raises(ValueError, match="sequence_mean"):
        loss_scales(lengths, "mean", totals)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="norm_length"):
        loss_scales(lengths, "constant", totals, 0)
    with pytest.raises(ValueError, match="totals count 1"):
        loss_scales(lengths, "token_mean", LossDenominators(1, 3))
