"""The supervised loss of Lumina-DiMOO, and the masks that it draws."""

import numpy as np
import pytest
import torch

from dimoo_world import by_hand
from pairuni.policies.dimoo.policy import DimooPolicy
from pairuni.policies.dimoo.supervised import draw_blocks, draw_masks, supervised_loss


def test_it_is_the_mean_of_what_is_masked(tiny_dimoo: DimooPolicy) -> None:
    """Against NumPy: prompts of unequal lengths, all ids compete, what is not masked is seen and not scored."""
    language, layout, rng = tiny_dimoo.module.language, tiny_dimoo.prompts.image(), np.random.default_rng(0)
    prompts = [torch.arange(5), torch.arange(11), torch.arange(7)]
    slots = layout.slots_N.numpy()
    targets = rng.integers(300, 348, (3, len(slots)))
    masks = rng.random((3, len(slots))) < 0.4
    weights = rng.random((3, len(slots)))
    losses = []
    for prompt, target, mask in zip(prompts, targets, masks, strict=True):
        answer = layout.ids_A.numpy().copy()
        answer[slots[~mask]] = target[~mask]
        logits = by_hand(language, np.concatenate([prompt.numpy(), answer]))[len(prompt) + slots[mask]]
        logits -= logits.max(1, keepdims=True)
        losses += list(np.log(np.exp(logits).sum(1)) - logits[np.arange(mask.sum()), target[mask]])
    loss = supervised_loss(language, prompts, layout, torch.tensor(targets), torch.tensor(masks))
    assert float(loss.detach()) == pytest.approx(np.mean(losses), abs=1e-4)
    arguments = (torch.tensor(targets), torch.tensor(masks), torch.tensor(weights))
    weighted = supervised_loss(language, prompts, layout, *arguments)
    assert float(weighted.detach()) == pytest.approx(np.average(losses, weights=weights[masks]), abs=1e-4)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for _, p in tiny_dimoo.trainable())


def test_shares_of_masked_slots() -> None:
    """cos(pi / 2 * u): mean 2 / pi, median cos(pi / 4); short texts are masked altogether; never nothing."""
    masks = draw_masks([6] * 4000, 100, np.random.default_rng(0))
    share = masks.float().mean(1).numpy()
    assert masks.any(1).all() and share.mean() == pytest.approx(2 / np.pi, abs=0.02)
    assert np.median(share) == pytest.approx(np.cos(np.pi / 4), abs=0.02)
    assert masks.float().mean(0).std() < 0.02, "no place is masked more often than another"
    assert draw_masks([5, 1, 0], 16, np.random.default_rng(0)).all()
    assert draw_masks([1] * 50, 1, np.random.default_rng(0), short=0).all()


def test_rows_are_masked_as_a_sampler_by_blocks_meets_them() -> None:
    """One block under way, those in front of it filled, those behind it not; what is learnt is of that block alone."""
    slots, block, lengths = 7, 2, [3] * 3000 + [7] * 3000
    masks, learnt = draw_blocks(lengths, slots, block, np.random.default_rng(0))
    under_way = np.array([int(row.nonzero()[0, 0]) // block for row in learnt])
    for mask, own, b in zip(masks.numpy(), learnt.numpy(), under_way, strict=True):
        stop = min((b + 1) * block, slots)
        assert not own[: b * block].any() and not own[stop:].any()
        assert (mask[: b * block] == 0).all() and mask[stop:].all() and (mask[:stop] == own[:stop]).all()
    short, long = np.bincount(under_way[:3000], minlength=4), np.bincount(under_way[3000:], minlength=4)
    assert short / 3000 == pytest.approx([0.45, 0.45, 0.05, 0.05], abs=0.03), "nine of ten where the tokens are"
    assert long / 3000 == pytest.approx([0.25] * 4, abs=0.03)
    first = learnt[under_way == 0].float()
    assert first[:, :2].mean(0).numpy() == pytest.approx([0.75, 0.75], abs=0.03)
    assert (first.sum(1) == 2).float().mean() == pytest.approx(0.5, abs=0.03)


def test_some_steps_lower_it(tiny_dimoo: DimooPolicy) -> None:
    language, layout = tiny_dimoo.module.language, tiny_dimoo.prompts.answer(6)
    targets, rng = torch.randint(0, 280, (4, 6), generator=torch.Generator().manual_seed(0)), np.random.default_rng(0)
    prompts = [torch.arange(n, n + 8) for n in range(4)]
    optimizer = torch.optim.AdamW(language.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = supervised_loss(language, prompts, layout, targets, draw_masks([6] * 4, 6, rng))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-10:]) < 0.3 * np.mean(losses[:5])
