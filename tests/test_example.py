"""The algorithm written out by hand gives the library's numbers, in the first update and in the second."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from pairuni.algo.advantages import group_advantages
from pairuni.algo.pair_grpo import loss_scales, merge_stats, side_denominators, weighted_advantages
from pairuni.algo.surrogate import clipped_surrogate, ratio_statistics
from pairuni.algo.weights import pair_weights

EXAMPLE = Path(__file__).parent.parent / "examples" / "pair_grpo_by_hand.py"
SIDES = ("understanding", "generation")


@pytest.fixture(scope="module")
def hand():
    with torch.random.fork_rng():
        return runpy.run_path(str(EXAMPLE))


def test_advantages_and_weights(hand):
    weights = pair_weights(hand["SIMILARITY"], hand["ALIGNED"], "sqrt")
    np.testing.assert_allclose(weights, hand["weights"], atol=1e-6)
    for side in SIDES:
        rewards = hand["rewards"][side]
        np.testing.assert_allclose(group_advantages(rewards, hand["STD_EPS"]), hand["advantages"][side], atol=1e-9)
        np.testing.assert_allclose(
            weighted_advantages(rewards, weights, hand["STD_EPS"]), hand["credit"][side], atol=1e-6
        )


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("update", [0, 1])
def test_losses_gradients_and_statistics(hand, side, update):
    record, mask, actions = hand["history"][update][side], hand["mask"][side], hand["actions"][side]
    logits = record["logits"].clone().requires_grad_()
    logp = torch.log_softmax(logits, -1)[:, None, None].expand(*actions.shape, -1).gather(3, actions[..., None])[..., 0]
    logp, old, rows = logp.flatten(0, 1), hand["old_logp"][side].flatten(0, 1), mask.flatten(0, 1)
    credit = hand["credit"][side].flatten()
    loss, parts = torch.zeros((), dtype=torch.float64), []
    for k in (slice(0, 3), slice(3, 8)):
        scale = loss_scales(rows[k].sum(-1), "sequence_mean", side_denominators(mask.sum(-1)))
        part, cut = clipped_surrogate(logp[k], old[k], credit[k][:, None] * scale[:, None], rows[k], hand["CLIP_EPS"])
        stats = ratio_statistics(logp[k], old[k], rows[k]) | {"clip_fraction": cut, "actions": rows[k].sum()}
        loss = loss + part
        parts.append(stats)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(record["loss"], abs=1e-6)
    np.testing.assert_allclose(logits.grad, record["shared_grad"], atol=1e-6)
    merged = merge_stats(parts)
    for name in ("ratio_mean", "ratio_max", "clip_fraction"):
        assert merged[name] == pytest.approx(record[name], abs=1e-6)


def test_it_shows_what_it_says(hand):
    """The first update has ratio 1, the second does not and clips; what was rewarded becomes likelier on both sides."""
    first, second = hand["history"]
    for side in SIDES:
        assert first[side]["ratio_max"] == pytest.approx(1) and first[side]["clip_fraction"] == 0
        assert second[side]["ratio_max"] > 1.05
        after = torch.softmax((hand["shared"] + hand["own"][side]).detach(), -1)[:, hand["WANTED"][side]]
        assert bool((after > hand["wanted_before"][side]).all())
    assert sum(second[side]["clip_fraction"] for side in SIDES) > 0
