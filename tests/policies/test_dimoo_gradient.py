"""The gradient of Lumina-DiMOO's rollouts against loops written here: where an answer ends, and steps left unscored.

The loops call nothing of the package but the transformer's forward and its head.
"""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dimoo_world import sampled
from pairuni.config import NormLength, TrainConfig
from pairuni.policies.dimoo import decode, estimators
from pairuni.policies.dimoo.policy import DimooPolicy
from pairuni.train.rollout import SideBatch
from pairuni.train.step import add_side_gradient
from pairuni.types import Prompt, Rollouts, SamplingSpec, Side
from train_world import make_config

U, G = Side.UNDERSTANDING, Side.GENERATION
NORMS = ["sequence_mean", "token_sum", "token_mean", "constant"]
LENGTH = 5


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return make_config(tmp_path / "run", tmp_path, tmp_path / "pairs.jsonl", norm_length=NormLength(LENGTH, LENGTH))


def gradient(policy: DimooPolicy, rollouts: Rollouts, credit_BR: Tensor, config: TrainConfig) -> Tensor:
    """Of the side's loss, over all that is trained, as one vector."""
    policy.module.zero_grad(set_to_none=True)
    zeros, ones = torch.zeros(rollouts.shape), torch.ones(rollouts.shape[0])
    batch = SideBatch(rollouts.side, (), (rollouts,), None, zeros, ones, {}, {}, frozenset(), 0.0, 0.0)
    add_side_gradient(policy, batch, credit_BR, config.objective)
    return flat(policy)


def flat(policy: DimooPolicy) -> Tensor:
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for _, p in policy.trainable()]
    policy.module.zero_grad(set_to_none=True)
    return torch.cat([part.flatten().clone() for part in parts])


def schedule(rows: int, slots: int, steps: int, block: int, rng: np.random.Generator) -> np.ndarray:
    """The step [rows, slots] that fills each slot: blocks one after the other, each in any order."""
    filled = np.zeros((rows, slots), dtype=np.int64)
    for row in filled:
        done = 0
        for start in range(0, slots, block or slots):
            own = start + rng.permutation(min(block or slots, slots - start))
            parts = np.array_split(own, min(steps, len(own)))
            for part in parts:
                row[part] = done
                done += 1
    return filled


def fixed(
    policy: DimooPolicy, actions: np.ndarray, filled: np.ndarray, spec: SamplingSpec, patch: pytest.MonkeyPatch
) -> Rollouts:
    """Rollouts of one question that hold these answers, filled in these steps."""
    nothing = torch.zeros(actions.shape)
    made = decode.Filled(torch.from_numpy(actions), nothing, nothing, torch.from_numpy(filled))
    patch.setattr(decode, "fill", lambda *_: made)
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    seeds = np.arange(len(actions), dtype=np.uint64)[None]
    return policy.sample(U, [Prompt(U, "a circle?", (image,))], len(actions), spec, seeds)


def answers(policy: DimooPolicy, slots: int) -> tuple[np.ndarray, list[int]]:
    """Six answers in `slots` slots, with anything behind their ends, and the slots that each has with its end."""
    c, rng = policy.module.language.config, np.random.default_rng(1)
    ends = [c.answer_end_id, c.eos_id, c.padding_id]
    words = [i for i in range(c.image_offset) if i not in {*policy.prompts.banned().tolist(), *ends}]
    actions, lengths = rng.choice(words, (6, slots)), [2, 1, 3, 5, 8, slots]
    for row, length, end in zip(actions, lengths, [*ends, *ends], strict=True):
        row[length - 1] = end
        row[length + 1 :: 3] = ends[1]  # more ends behind the first
    actions[5, -1] = words[0]  # no end at all
    return actions, lengths


def log_prob(policy: DimooPolicy, prompt: Tensor, row: np.ndarray, shown: np.ndarray, slot: int) -> Tensor:
    """Of what stands in one slot of an answer, where the slots of `shown` are seen."""
    model, c = policy.module.language, policy.module.language.config
    inner = torch.where(torch.from_numpy(shown), torch.from_numpy(row), torch.tensor(c.mask_token_id))
    ids = torch.cat([prompt, torch.tensor([c.answer_id]), inner, torch.tensor([c.answer_end_id])])
    logits = model.head(model(ids[None]))[0, len(prompt) + 1 + slot, : c.image_offset]
    open_ = torch.ones(c.image_offset, dtype=torch.bool)
    open_[policy.prompts.banned()] = False
    return logits[row[slot]] - logits[open_].logsumexp(0)


def by_hand(
    policy: DimooPolicy,
    prompt: Tensor,
    answers: tuple[np.ndarray, list[int]],
    filled: np.ndarray,
    credit: np.ndarray,
    norm: str,
) -> Tensor:
    """The gradient of -sum of scale * credit * log-probs: of an answer's slots, and of those that one of them saw."""
    (actions, lengths), count = answers, len(credit)
    for row, when, length, weight in zip(actions, filled, lengths, credit, strict=True):
        last = max(when[:length])
        scale = {
            "sequence_mean": 1 / (count * length),
            "token_sum": 1 / count,
            "token_mean": 1 / sum(lengths),
            "constant": 1 / (count * LENGTH),
        }[norm]
        for slot in range(len(row)):
            if slot < length or when[slot] < last:
                (-scale * float(weight) * log_prob(policy, prompt, row, when < when[slot], slot)).backward()
    return flat(policy)


@pytest.mark.parametrize("slots", [8, 16, 32])
@pytest.mark.parametrize(("block", "norm"), [(0, "sequence_mean"), (4, "sequence_mean"), *((2, n) for n in NORMS)])
def test_the_gradient_of_fixed_answers_is_that_of_their_own_slots(
    tiny_dimoo: DimooPolicy, config: TrainConfig, slots: int, block: int, norm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    c, rng = tiny_dimoo.module.language.config, np.random.default_rng(slots)
    c.text_block = block
    spec, given = SamplingSpec(max_new_tokens=slots), answers(tiny_dimoo, slots)
    filled = schedule(6, slots, c.text_steps, block, rng)
    rollouts = fixed(tiny_dimoo, given[0], filled, spec, monkeypatch)
    credit = rng.normal(size=6)
    config = TrainConfig(**vars(config) | {"loss_norm": norm})
    got = gradient(tiny_dimoo, rollouts, torch.from_numpy(credit)[None], config)
    expected = by_hand(tiny_dimoo, rollouts.context.encoded.ids[0], given, filled, credit, norm)
    assert expected.abs().max() > 1e-2
    assert (got - expected).abs().max() < 1e-5


@pytest.mark.parametrize("estimator", ["trace", "mean_field", "random_mask", "coupled"])
def test_where_slots_are_independent_an_answer_s_gradient_does_not_know_how_long_it_might_have_been(
    tiny_dimoo: DimooPolicy, config: TrainConfig, estimator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    c = tiny_dimoo.module.language.config
    c.text_block, c.estimator, c.masked_prompt = 2, estimator, 0.0
    with torch.no_grad():
        for each in tiny_dimoo.module.language.blocks:
            each.attn_out.weight.zero_().requires_grad_(False)  # pyright: ignore
    found = []
    for slots in (4, 8, 16, 32):
        actions = answers(tiny_dimoo, 32)[0][:1, :slots]  # a word and the end, then anything
        filled = schedule(1, slots, c.text_steps, 2, np.random.default_rng(0))
        rollouts = fixed(tiny_dimoo, actions, filled, SamplingSpec(max_new_tokens=slots), monkeypatch)
        found.append(gradient(tiny_dimoo, rollouts, torch.ones(1, 1), config))
    norms = [float(each.norm()) for each in found]
    assert all((each - found[0]).abs().max() < 1e-5 for each in found), norms


def test_what_is_left_out_leaves_the_expectation_as_it_is(
    tiny_dimoo: DimooPolicy, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All 81 fillings of four slots by two words and an end: the mean gradient is that of the expected reward, whose
    answers' probabilities are summed here. Without the slots behind an end that an answer's slot saw it is not."""
    c = tiny_dimoo.module.language.config
    ids = [5, 6, c.answer_end_id]
    monkeypatch.setattr(
        tiny_dimoo.prompts, "banned", lambda: torch.tensor([i for i in range(c.image_offset) if i not in ids])
    )
    actions = np.array(list(product(ids, repeat=4)))
    lengths = [next((n + 1 for n, i in enumerate(row) if i == ids[2]), 4) for row in actions]
    filled = np.tile([1, 0, 1, 0], (81, 1))
    spec = SamplingSpec(max_new_tokens=4)
    rollouts = fixed(tiny_dimoo, actions, filled, spec, monkeypatch)
    prompt = rollouts.context.encoded.ids[0]
    rewards: dict[tuple[int, ...], float] = {}
    rng = np.random.default_rng(0)
    for row, length in zip(actions, lengths, strict=True):
        rewards.setdefault(tuple(row[:length]), float(rng.normal()))
    reward = [rewards[tuple(row[:length])] for row, length in zip(actions, lengths, strict=True)]
    logp = [
        [log_prob(tiny_dimoo, prompt, row, when < when[slot], slot) for slot in range(4)]
        for row, when in zip(actions, filled, strict=True)
    ]
    probability = torch.stack([torch.stack(row).sum().exp() for row in logp])
    assert float(probability.detach().sum()) == pytest.approx(1, abs=1e-4)
    (-(probability * torch.tensor(reward)).sum()).backward(retain_graph=True)
    expected = flat(tiny_dimoo)
    credit = 81 * probability.detach() * torch.tensor(reward)
    config = TrainConfig(**vars(config) | {"loss_norm": "token_sum", "micro_batch": 100})
    got = gradient(tiny_dimoo, rollouts, credit[None], config)
    assert expected.abs().max() > 1e-2 and (got - expected).abs().max() < 1e-5
    seen_alone = sum(-credit[n] / 81 * sum(logp[n][:length], torch.zeros(())) for n, length in enumerate(lengths))
    assert isinstance(seen_alone, Tensor)
    seen_alone.backward()
    assert (flat(tiny_dimoo) - expected).abs().max() > 1e-3
    unused = sum(float((rollouts.mask_BRT[0, n] == 0).sum()) for n in range(81))
    assert unused > 0, "no slot was left out"


@pytest.mark.parametrize("scored", [1, 2, 3, 4])
@pytest.mark.parametrize("norm", NORMS)
def test_the_mean_over_scored_steps_is_the_gradient_of_all_steps(
    tiny_dimoo: DimooPolicy, config: TrainConfig, norm: Any, scored: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A subset changes where (u + k) * steps / scored is whole, at a u of n / steps: `steps` equally likely ones."""
    c = tiny_dimoo.module.language.config
    config = TrainConfig(**vars(config) | {"loss_norm": norm, "micro_batch": 100})
    spec = SamplingSpec(guidance=2.0)
    credit = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3)))
    whole = gradient(tiny_dimoo, sampled(tiny_dimoo, G, spec), credit, config)
    c.scored_image_steps = scored
    real, seen = estimators.scored_steps, []
    found = []
    for n in range(c.image_steps):
        uniform = torch.tensor((n + 0.5) / c.image_steps, dtype=torch.float64)

        def chosen(steps: int, number: int, uniforms_n: Tensor, uniform: Tensor = uniform) -> Tensor:
            subset = real(steps, number, uniform.expand(len(uniforms_n)))
            seen.append(tuple(subset[0].tolist()))
            return subset

        monkeypatch.setattr(estimators, "scored_steps", chosen)
        found.append(gradient(tiny_dimoo, sampled(tiny_dimoo, G, spec), credit, config))
    assert len(seen) == c.image_steps and all(sum(subset) == scored for subset in seen)
    mean = torch.stack(found).double().mean(0)
    assert whole.abs().max() > 1e-2
    assert (mean - whole).abs().max() < 1e-5, f"off by {(mean - whole).norm() / whole.norm():.2f} of its length"


def test_every_slot_of_an_answer_counts_once_on_average_under_random_masks() -> None:
    """Whatever is divided by: the denominators count all of an answer's slots."""
    lengths = torch.tensor([1, 2, 5]).repeat(20_000)
    steps, seeds = torch.zeros(len(lengths), 6, dtype=torch.int64), np.arange(len(lengths), dtype=np.uint64)
    made = estimators.scoring("random_mask", steps, lengths, 0, seeds)
    assert made.mask_nN.any(1).all() and not (made.mask_nN & (torch.arange(6) >= lengths[:, None])).any()
    for length in (1, 2, 5):
        mean = (made.weight_nN * made.mask_nN)[lengths == length].double().mean(0)[:length]
        np.testing.assert_allclose(mean.numpy(), 1, atol=0.04)
