"""The estimators of Lumina-DiMOO's log-probs: what each sees, what each is exact for, and that masks do not change."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from dimoo_world import by_hand, sampled
from pairuni.policies.dimoo import estimators
from pairuni.policies.dimoo.policy import DimooPolicy
from pairuni.types import Rollouts, SamplingSpec, Side

SPEC = SamplingSpec(guidance=3.0, logprob_mode="cfg", max_new_tokens=6)
ESTIMATORS = list(estimators.ESTIMATORS)


def scored(policy: DimooPolicy, rollouts: Rollouts, budget: int = 100, tokens: int = 0) -> tuple[Tensor, Tensor]:
    """Log-probs [n, N] of all chunks, and how often each slot is in one."""
    logp = torch.zeros(rollouts.mask_BRT.flatten(0, 1).shape)
    count = torch.zeros(logp.shape, dtype=torch.int64)
    for chunk in policy.chunks(rollouts, budget, tokens):
        rows = list(chunk.rows)
        logp[rows] += policy.logprobs(rollouts, chunk).detach()
        count[rows] += chunk.mask_kN
    return logp, count


def brute_force(policy: DimooPolicy, rollouts: Rollouts, row: int, shown: np.ndarray) -> np.ndarray:
    """Log-probs [N] of a row's actions at all slots where a NumPy forward sees only the slots of `shown`."""
    c, spec, side = policy.module.language.config, rollouts.spec, rollouts.side
    understand = side is Side.UNDERSTANDING
    layout = policy.prompts.answer(spec.max_new_tokens) if understand else policy.prompts.image()
    first, last = (0, c.image_offset) if understand else (c.image_offset, c.embedding_size)
    actions = rollouts.actions_BRT.flatten(0, 1)[row].numpy()
    encoded, b = rollouts.context.encoded, row // rollouts.shape[1]
    logits = []
    for prompt in (encoded.ids[b], encoded.unconditional[b]) if rollouts.scored_guided else (encoded.ids[b],):
        answer = layout.ids_A.numpy().copy()
        slots = layout.slots_N.numpy()
        answer[slots[shown]] = actions[shown] + first
        read = by_hand(policy.module.language, np.concatenate([prompt.numpy(), answer]))
        logits.append(read[len(prompt) + slots, first:last])
    mixed = logits[0] if len(logits) == 1 else logits[1] + spec.guidance * (logits[0] - logits[1])
    if understand:
        mixed[:, policy.prompts.banned().numpy()] = -np.inf
    mixed = mixed - mixed.max(1, keepdims=True)
    return (mixed - np.log(np.exp(mixed).sum(1, keepdims=True)))[np.arange(len(actions)), actions]


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_log_probs_are_those_of_a_forward_that_sees_what_it_should(
    tiny_dimoo: DimooPolicy, side: Side, estimator: str
) -> None:
    c = tiny_dimoo.module.language.config
    c.estimator, c.masked_prompt = estimator, 0.0
    rollouts = sampled(tiny_dimoo, side, SPEC)
    logp, count = scored(tiny_dimoo, rollouts)
    mask, steps = rollouts.mask_BRT.flatten(0, 1), rollouts.context.steps_nN
    assert torch.equal(count, mask.long()), "each action is in one chunk"
    for row in range(len(logp)):
        own, when = mask[row].numpy(), steps[row].numpy()
        groups = rollouts.context.groups_nN[row].numpy()
        for group in np.unique(groups[own]):
            at = own & (groups == group)
            shown = {
                "trace": when < group,
                "mean_field": np.zeros_like(own),
                "random_mask": ~own,
                "coupled": groups != group,
            }[estimator]
            expected = brute_force(tiny_dimoo, rollouts, row, shown)
            np.testing.assert_allclose(logp[row].numpy()[at], expected[at], atol=2e-4)


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_all_are_exact_where_slots_do_not_depend_on_one_another(
    tiny_dimoo: DimooPolicy, side: Side, estimator: str
) -> None:
    c = tiny_dimoo.module.language.config
    c.estimator, c.masked_prompt = estimator, 0.5
    with torch.no_grad():
        for block in tiny_dimoo.module.language.blocks:
            block.attn_out.weight.zero_()  # pyright: ignore
    rollouts = sampled(tiny_dimoo, side, SPEC)
    logp, _ = scored(tiny_dimoo, rollouts)
    torch.testing.assert_close(logp, rollouts.logp_BRT.flatten(0, 1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize(("estimator", "exact"), [("trace", True), ("mean_field", True), ("coupled", False)])
def test_mean_field_is_exact_for_a_single_step(
    tiny_dimoo: DimooPolicy, side: Side, estimator: str, exact: bool
) -> None:
    c = tiny_dimoo.module.language.config
    c.estimator, c.masked_prompt, c.image_steps, c.text_steps = estimator, 0.0, 1, 1
    rollouts = sampled(tiny_dimoo, side, SPEC)
    gap = (scored(tiny_dimoo, rollouts)[0] - rollouts.logp_BRT.flatten(0, 1)).abs().max()
    assert gap < 1e-5 if exact else gap > 0.01


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_old_new_and_reference_see_the_same_masks(tiny_dimoo: DimooPolicy, estimator: str) -> None:
    """A second update, another model and other chunks read the same tokens."""
    tiny_dimoo.module.language.config.estimator = estimator
    reference = tiny_dimoo.reference()
    for side in Side:
        rollouts = sampled(tiny_dimoo, side, SPEC)
        logp, _ = scored(tiny_dimoo, rollouts)
        again = sampled(tiny_dimoo, side, SPEC)
        assert torch.equal(again.mask_BRT, rollouts.mask_BRT)
        for policy, budget, tokens in (
            (tiny_dimoo, 100, 0),
            (reference, 100, 0),
            (tiny_dimoo, 2, 0),
            (tiny_dimoo, 9, 1),
        ):
            torch.testing.assert_close(scored(policy, rollouts, budget, tokens)[0], logp, atol=1e-5, rtol=0)


def test_mean_field_masks_some_of_the_prompt(tiny_dimoo: DimooPolicy) -> None:
    ids = torch.arange(20_000)
    masked = estimators.masked_prompt(ids, 0.15, -1, 7)
    assert torch.equal(masked, estimators.masked_prompt(ids, 0.15, -1, 7))
    assert not torch.equal(masked, estimators.masked_prompt(ids, 0.15, -1, 8))
    assert float((masked == -1).float().mean()) == pytest.approx(0.15, abs=0.01)
    assert torch.equal(masked[masked != -1], ids[masked != -1])
    c = tiny_dimoo.module.language.config
    c.estimator = "mean_field"
    rollouts = sampled(tiny_dimoo, Side.GENERATION, SPEC)
    some, c.masked_prompt = scored(tiny_dimoo, rollouts)[0], 0.0
    assert (some - scored(tiny_dimoo, rollouts)[0]).abs().max() > 0.01


def test_shares_of_masked_slots() -> None:
    """random_mask: a uniform share, never nothing. coupled: both sets between a tenth and nine tenths on average."""
    n, slots = 4000, 50
    steps, seeds = torch.zeros(n, slots, dtype=torch.int64), np.arange(n, dtype=np.uint64)
    whole = torch.full((n,), slots)
    made = estimators.scoring("random_mask", steps, whole, 0, seeds)
    groups, mask = made.groups_nN, made.mask_nN
    share = mask.float().mean(1).numpy()
    assert mask.any(1).all() and torch.equal(groups == 0, mask)
    np.testing.assert_allclose(np.quantile(share, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.04)
    made = estimators.scoring("coupled", steps, whole, 0, seeds)
    groups, mask = made.groups_nN, made.mask_nN
    first = (groups == 0).float().mean(1).numpy()
    assert mask.all() and set(groups.unique().tolist()) == {0, 1}
    np.testing.assert_allclose(np.quantile(first, [0.1, 0.5, 0.9]), [0.18, 0.5, 0.82], atol=0.04)


def test_the_estimator_does_not_change_what_is_drawn(tiny_dimoo: DimooPolicy) -> None:
    drawn = []
    for estimator in ESTIMATORS:
        tiny_dimoo.module.language.config.estimator = estimator
        drawn.append(replace(sampled(tiny_dimoo, Side.GENERATION, SPEC), context=None).actions_BRT)
    assert all(torch.equal(drawn[0], other) for other in drawn[1:])
