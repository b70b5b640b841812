"""One step against gradients worked out here by hand, and the gauges that must notice a wrong decode."""

import dataclasses
import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pairuni.config import AdvantageConfig, NormLength, OptimConfig, RolloutConfig, SideWeights, TrainConfig
from pairuni.errors import DivergedError, InputError
from pairuni.policies import sampling
from pairuni.policies.janus.policy import JanusPolicy
from pairuni.train import metrics
from pairuni.train.optim import Optimizer
from pairuni.train.rollout import SideBatch, sampling_spec
from pairuni.types import Chunk, Half, Rollouts, Side
from train_world import read_halves, roll_out, take_step

Batch = dict[Side, SideBatch]
U, G = Side.UNDERSTANDING, Side.GENERATION


@pytest.fixture
def config(tiny_config: TrainConfig) -> TrainConfig:
    """Gradients stay as they are: no clipping of their norm."""
    return dataclasses.replace(tiny_config, optim=OptimConfig(lr=1e-4, max_grad_norm=0))


@pytest.fixture
def halves(pairs_file: Path) -> dict[Side, list[Half]]:
    return read_halves(pairs_file)


def gradients(
    policy: JanusPolicy, batch: Mapping[Side, SideBatch], config: TrainConfig
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The gradients of a step, which then leaves the weights as they were, and its metrics."""
    before = {name: p.detach().clone() for name, p in policy.trainable()}
    row = take_step(policy, batch, Optimizer(policy.trainable(), config.optim), config, 1)
    grads = {name: p.grad.clone() for name, p in policy.trainable() if p.grad is not None}
    with torch.no_grad():
        for name, parameter in policy.trainable():
            parameter.copy_(before[name])
            parameter.grad = None
    return grads, row


def close(got: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float = 1e-6) -> None:
    zero = torch.zeros(())
    for name in got.keys() | expected.keys():
        difference = got.get(name, zero) - expected.get(name, zero)
        assert difference.abs().max() <= tolerance, name


def by_hand(policy: JanusPolicy, batch: Batch, norm: str, length: Mapping[Side, int]) -> dict[str, Tensor]:
    """The gradient of the objective at ratio 1: that of -sum_sides sum_rollouts scale * w A * sum_t log p."""
    loss = torch.zeros(())
    for side, sampled in batch.items():
        rewards = sampled.rewards_BR.numpy()
        spread = rewards.std(axis=1, keepdims=True)
        credit = (rewards - rewards.mean(axis=1, keepdims=True)) / (spread + 1e-6) * sampled.weights_B.numpy()[:, None]
        (call,) = sampled.calls
        lengths = call.mask_BRT.sum(-1).numpy().astype(float)
        count = rewards.size
        scale = {
            "sequence_mean": 1 / (count * lengths),
            "token_sum": np.full_like(lengths, 1 / count),
            "token_mean": np.full_like(lengths, 1 / lengths.sum()),
            "constant": np.full_like(lengths, 1 / (count * length[side])),
        }[norm]
        (chunk,) = policy.chunks(call, count)
        logp_n = policy.logprobs(call, chunk).sum(-1)
        loss = loss - (torch.from_numpy((credit * scale).reshape(-1)) * logp_n).sum()
    loss.backward()
    grads = {name: p.grad.clone() for name, p in policy.trainable() if p.grad is not None}
    policy.module.zero_grad()
    return grads


@pytest.mark.parametrize("norm", ["sequence_mean", "token_sum", "token_mean", "constant"])
def test_gradient_is_that_of_the_objective(
    tiny_janus: JanusPolicy, config: TrainConfig, halves: dict[Side, list[Half]], norm: Any
) -> None:
    config = dataclasses.replace(config, loss_norm=norm, norm_length=NormLength(7, 11), micro_batch=3)
    batch = roll_out(tiny_janus, {side: items[:2] for side, items in halves.items()}, config)
    grads, _ = gradients(tiny_janus, batch, config)
    expected = by_hand(tiny_janus, batch, norm, {U: 7, G: 11})
    assert max(float(g.abs().max()) for g in expected.values()) > 1e-3
    close(grads, expected, 1e-5)


def test_one_length_for_both_sides_is_refused(config: TrainConfig) -> None:
    with pytest.raises(InputError, match=r"norm_length: must be a mapping, not 576"):
        dataclasses.replace(config, loss_norm="constant", norm_length=576)


def test_micro_batches_only_add_up(
    tiny_janus: JanusPolicy, config: TrainConfig, halves: dict[Side, list[Half]]
) -> None:
    batch = roll_out(tiny_janus, {side: items[:1] for side, items in halves.items()}, config)
    results = [gradients(tiny_janus, batch, dataclasses.replace(config, micro_batch=size)) for size in (1, 2, 4)]
    for grads, row in results[1:]:
        close(grads, results[0][0])
        assert row["loss/generation"] == pytest.approx(results[0][1]["loss/generation"], abs=1e-6)
        assert row["logp_gap_max/generation"] < 1e-4


@pytest.mark.parametrize(("guidance", "score"), [(1.0, "cond"), (3.0, "cond"), (3.0, "cfg")])
def test_first_update_has_ratio_one_against_what_was_recorded(
    tiny_janus: JanusPolicy, config: TrainConfig, halves: dict[Side, list[Half]], guidance: float, score: Any
) -> None:
    rollout = RolloutConfig(rollouts=4, temperature=0.7, guidance=guidance, logprob_mode=score, max_new_tokens=6)
    config = dataclasses.replace(config, rollout=rollout)
    batch = roll_out(tiny_janus, halves, config)
    _, row = gradients(tiny_janus, batch, config)
    for side in Side:
        assert row[f"ratio_mean/{side}"] == pytest.approx(1, abs=1e-4)
        assert row[f"ratio_max/{side}"] == pytest.approx(1, abs=1e-3)
        assert row[f"logp_gap_max/{side}"] < 1e-4 and row[f"clip_fraction/{side}"] == 0
    assert (row["behaviour_gap/generation"] > 0.01) == (guidance > 1)


def test_second_update_clips(tiny_janus: JanusPolicy, config: TrainConfig, halves: dict[Side, list[Half]]) -> None:
    config = dataclasses.replace(config, updates_per_rollout=2, optim=OptimConfig(lr=3e-2))
    batch = roll_out(tiny_janus, halves, config)
    row = take_step(tiny_janus, batch, Optimizer(tiny_janus.trainable(), config.optim), config, 1)
    for side in Side:
        assert abs(row[f"ratio_mean/{side}"] - 1) > 1e-3 and row[f"ratio_max/{side}"] > 1.2
        assert row[f"clip_fraction/{side}"] > 0
        # The gap is that of the first update, before the weights moved.
        assert row[f"logp_gap_max/{side}"] < 1e-4


def test_the_epsilon_and_the_clip_range_are_the_configs(
    tiny_janus: JanusPolicy, config: TrainConfig, halves: dict[Side, list[Half]]
) -> None:
    plain = dataclasses.replace(config, updates_per_rollout=2, optim=OptimConfig(lr=3e-3))
    narrow = dataclasses.replace(plain, clip_eps=1e-4)
    damped = dataclasses.replace(plain, advantage=AdvantageConfig(std_eps=1.0))
    batch = roll_out(tiny_janus, halves, config)
    rows = [gradients(tiny_janus, batch, each)[1] for each in (plain, narrow, damped)]
    for side in Side:
        assert rows[1][f"clip_fraction/{side}"] > rows[0][f"clip_fraction/{side}"] + 0.05
        assert rows[2][f"advantage_abs/{side}"] < 0.7 * rows[0][f"advantage_abs/{side}"]


def test_a_decode_that_ignores_the_temperature_shows_in_the_gap(
    tiny_janus: JanusPolicy, config: TrainConfig, halves: dict[Side, list[Half]], monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout = RolloutConfig(rollouts=4, temperature=0.5, guidance=1.0, max_new_tokens=6)
    config = dataclasses.replace(config, rollout=rollout)
    right = sampling.log_distribution
    with monkeypatch.context() as patch:
        wrong = dataclasses.replace(sampling_spec(rollout), temperature=1.0)
        patch.setattr(sampling, "log_distribution", lambda logits, spec, banned: right(logits, wrong, banned))
        batch = roll_out(tiny_janus, halves, config)
    _, row = gradients(tiny_janus, batch, config)
    for side in Side:
        assert row[f"logp_gap_mean/{side}"] > 0.1 and row[f"ratio_max/{side}"] > 1.1


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize(("weighting", "factor"), [("sqrt", 0.8), ("linear", 0.64), ("none", 1.0)])
def test_a_retrieved_pair_weighs_less_on_both_sides(
    tiny_janus: JanusPolicy,
    config: TrainConfig,
    halves: dict[Side, list[Half]],
    side: Side,
    weighting: Any,
    factor: float,
) -> None:
    config = dataclasses.replace(config, weighting=weighting, sides=str(side))
    retrieved = halves[side][1]
    assert not retrieved.aligned and retrieved.similarity == 0.64
    aligned = dataclasses.replace(retrieved, aligned=True, similarity=1.0)
    results = []
    for half in (retrieved, aligned):
        batch = roll_out(tiny_janus, {side: [half]}, config)
        results.append(gradients(tiny_janus, batch, config))
    (weak, weak_row), (strong, strong_row) = results
    assert weak_row["pair_weight_mean"] == pytest.approx(factor) and strong_row["pair_weight_mean"] == 1.0
    assert weak_row[f"advantage_abs/{side}"] == pytest.approx(factor * strong_row[f"advantage_abs/{side}"])
    close(weak, {name: factor * grad for name, grad in strong.items()})


def test_text_rewards_do_not_reach_images(
    tiny_janus: JanusPolicy, config: TrainConfig, halves: dict[Side, list[Half]]
) -> None:
    batch = roll_out(tiny_janus, halves, config)
    other = dict(batch)
    other[U] = dataclasses.replace(batch[U], rewards_BR=batch[U].rewards_BR.flip(1) * 3 + 5)
    (first, first_row), (second, second_row) = (gradients(tiny_janus, each, config) for each in (batch, other))
    for name in ("reward_mean", "advantage_abs", "loss", "zero_std_fraction"):
        assert first_row[f"{name}/generation"] == second_row[f"{name}/generation"]
    heads = [name for name in first if "generation_head" in name]
    assert heads and all(torch.equal(first[name], second[name]) for name in heads)
    assert not torch.equal(first["lm_head.weight"], second["lm_head.weight"])


def test_equal_prompts_are_separate_groups_with_rollouts_of_their_own(
    tiny_janus: JanusPolicy, config: TrainConfig, halves: dict[Side, list[Half]]
) -> None:
    half = halves[G][0]
    again = dataclasses.replace(half, repeat=1)
    other_pair = dataclasses.replace(half, pair_id="another")
    batch = roll_out(tiny_janus, {**halves, G: [half, again, other_pair]}, config)
    actions = batch[G].calls[0].actions_BRT
    assert not torch.equal(actions[0], actions[1]) and not torch.equal(actions[0], actions[2])
    rewards = torch.zeros(3, 4, dtype=torch.float64)
    rewards[0] = torch.tensor([0.0, 0, 1, 1])
    rewards[1] = 1.0
    batch = {G: dataclasses.replace(batch[G], rewards_BR=rewards)}
    _, row = gradients(tiny_janus, batch, config)
    assert row["zero_std_fraction/generation"] == pytest.approx(2 / 3)
    assert row["advantage_abs/generation"] == pytest.approx(4 / 12, rel=1e-4)


def test_rollouts_do_not_depend_on_the_call_or_the_neighbours(
    tiny_janus: JanusPolicy, config: TrainConfig, halves: dict[Side, list[Half]]
) -> None:
    together = roll_out(tiny_janus, halves, config)
    single = dataclasses.replace(config, rollout=dataclasses.replace(config.rollout, prompts_per_call=1))
    apart = roll_out(tiny_janus, halves, single)
    for side in Side:
        assert len(apart[side].calls) == 6 and len(together[side].calls) == 1
        assert torch.equal(apart[side].rewards_BR, together[side].rewards_BR)
    assert apart[U].texts() == together[U].texts()
    assert np.array_equal(np.stack(apart[G].images()), np.stack(together[G].images()))
    grads = [gradients(tiny_janus, batch, config)[0] for batch in (together, apart)]
    close(grads[0], grads[1], 1e-5)
    later = roll_out(tiny_janus, halves, config, step=2)
    assert later[U].texts() != together[U].texts()


class Counting(JanusPolicy):
    """Remembers which rows were scored."""

    scored: list[tuple[Side, tuple[int, ...]]]

    def logprobs(self, rollouts: Rollouts, chunk: Chunk) -> Tensor:
        self.scored.append((rollouts.side, chunk.rows))
        return super().logprobs(rollouts, chunk)


def test_rows_without_advantage_are_not_scored(
    tiny_janus: JanusPolicy, config: TrainConfig, halves: dict[Side, list[Half]]
) -> None:
    policy = Counting(tiny_janus.module, tiny_janus.processor)
    policy.scored = []
    batch = roll_out(policy, {side: items[:2] for side, items in halves.items()}, config)
    rewards = torch.tensor([[1.0, 1, 1, 1], [0, 1, 0, float("nan")]], dtype=torch.float64)
    batch[G] = dataclasses.replace(batch[G], rewards_BR=rewards)
    batch[U] = dataclasses.replace(batch[U], rewards_BR=torch.ones(2, 4, dtype=torch.float64))
    grads, row = gradients(policy, batch, config)
    assert policy.scored == [(U, (0,)), (G, (4, 5, 6))]
    assert "lm_head.weight" not in grads and row["missing/generation"] == 1 and row["missing/understanding"] == 0
    assert row["reward_mean/generation"] == pytest.approx(5 / 7)
    known = torch.tensor([0.0, 1, 0])
    credit = (known - known.mean()) / known.std(unbiased=False) * 0.8
    (call,) = batch[G].calls
    (chunk,) = tiny_janus.chunks(call, 8)
    (-(credit / (8 * 16)) * tiny_janus.logprobs(call, chunk).sum(-1)[4:7]).sum().backward()
    close(grads, {name: p.grad for name, p in tiny_janus.trainable() if p.grad is not None}, 1e-5)


def test_a_step_without_any_advantage_changes_nothing_and_counts(
    tiny_janus: JanusPolicy, config: TrainConfig, halves: dict[Side, list[Half]]
) -> None:
    batch = roll_out(tiny_janus, halves, config)
    batch = {side: dataclasses.replace(s, rewards_BR=torch.ones_like(s.rewards_BR)) for side, s in batch.items()}
    before = {name: p.detach().clone() for name, p in tiny_janus.trainable()}
    row = take_step(tiny_janus, batch, Optimizer(tiny_janus.trainable(), config.optim), config, 1)
    assert all(torch.equal(before[name], p) for name, p in tiny_janus.trainable())
    assert row["grad_norm"] == 0 and row["zero_std_fraction/understanding"] == 1
    assert row["logp_gap_max/generation"] < 1e-4 and all(np.isfinite(value) for value in row.values())


def test_a_batch_may_lack_a_side(tiny_janus: JanusPolicy, config: TrainConfig, halves: dict[Side, list[Half]]) -> None:
    batch = roll_out(tiny_janus, {U: [], G: halves[G][:2]}, config)
    assert batch[U].rewards_BR.shape == (0, 4) and batch[U].calls == ()
    grads, row = gradients(tiny_janus, batch, config)
    alone, _ = gradients(tiny_janus, {G: batch[G]}, config)
    close(grads, alone, 0.0)
    assert row["tokens/understanding"] == 0 and row["loss/understanding"] == 0
    # No rollout, no mean: metrics.jsonl has null there.
    assert np.isnan(row["reward_mean/understanding"]) and np.isnan(row["logp_gap_max/understanding"])
    assert np.isfinite(row["reward_mean/generation"])


def test_side_weights(tiny_janus: JanusPolicy, config: TrainConfig, halves: dict[Side, list[Half]]) -> None:
    batch = roll_out(tiny_janus, halves, config)
    plain = {side: gradients(tiny_janus, {side: batch[side]}, config)[0] for side in Side}
    weighted = dataclasses.replace(config, side_weights=SideWeights(understanding=0.5, generation=2.0))
    grads, _ = gradients(tiny_janus, batch, weighted)
    zero = torch.zeros(())
    names = plain[U].keys() | plain[G].keys()
    close(grads, {n: 0.5 * plain[U].get(n, zero) + 2.0 * plain[G].get(n, zero) for n in names}, 1e-5)
    off = dataclasses.replace(config, side_weights=SideWeights(understanding=0.0))
    close(gradients(tiny_janus, batch, off)[0], plain[G])


def test_kl_is_zero_at_the_start_and_its_reference_stays(
    tiny_janus: JanusPolicy, config: TrainConfig, halves: dict[Side, list[Half]]
) -> None:
    config = dataclasses.replace(config, kl_beta=0.5, optim=OptimConfig(lr=1e-3))
    reference = tiny_janus.reference()
    frozen = {name: value.clone() for name, value in reference.module.state_dict().items()}
    optimizer = Optimizer(tiny_janus.trainable(), config.optim)
    rows = []
    for step in (1, 2):
        batch = roll_out(tiny_janus, halves, config, step)
        rows.append(take_step(tiny_janus, batch, optimizer, config, step, reference))
    for side in Side:
        assert rows[0][f"kl/{side}"] == 0 and rows[1][f"kl/{side}"] > 1e-6
    assert all(torch.equal(frozen[name], value) for name, value in reference.module.state_dict().items())
    pulled = dataclasses.replace(config, kl_beta=50.0)
    batch = roll_out(tiny_janus, halves, config, 3)
    batch = {side: dataclasses.replace(s, rewards_BR=torch.ones_like(s.rewards_BR)) for side, s in batch.items()}
    norm = take_step(tiny_janus, batch, optimizer, pulled, 3, reference)["grad_norm"]
    assert norm > 0  # rows without an advantage still have the KL's gradient


def test_a_small_learning_rate_moves_nearly_all_master_weights(
    tiny_janus: JanusPolicy, config: TrainConfig, halves: dict[Side, list[Half]]
) -> None:
    config = dataclasses.replace(config, optim=OptimConfig(lr=1e-6))
    batch = roll_out(tiny_janus, halves, config)
    before = {name: p.detach().clone() for name, p in tiny_janus.trainable()}
    take_step(tiny_janus, batch, Optimizer(tiny_janus.trainable(), config.optim), config, 1)
    moved = changed = 0
    for name, parameter in tiny_janus.trainable():
        if parameter.grad is not None:
            live = parameter.grad != 0
            changed += int(live.sum())
            moved += int((live & (parameter.detach() != before[name])).sum())
    assert changed > 10_000 and moved > 0.9 * changed


def test_frozen_towers_do_not_move(
    tiny_janus: JanusPolicy, config: TrainConfig, halves: dict[Side, list[Half]]
) -> None:
    towers = {k: v.clone() for k, v in tiny_janus.module.state_dict().items() if "vision_model" in k or "vqmodel" in k}
    batch = roll_out(tiny_janus, halves, config)
    take_step(tiny_janus, batch, Optimizer(tiny_janus.trainable(), config.optim), config, 1)
    after = tiny_janus.module.state_dict()
    assert towers and all(torch.equal(after[name], value) for name, value in towers.items())


@pytest.mark.parametrize(
    ("banned", "message"), [(False, "the understanding loss is nan"), (True, "the gradient norm is nan")]
)
def test_what_is_not_finite_stops_before_the_update(
    tiny_janus: JanusPolicy, config: TrainConfig, halves: dict[Side, list[Half]], banned: bool, message: str
) -> None:
    batch = roll_out(tiny_janus, halves, config)
    with torch.no_grad():
        # The logit of a banned token reaches no log-prob, but its weight's gradient is wrong all the same.
        token = tiny_janus.prompts.boi if banned else tiny_janus.prompts.eos
        tiny_janus.module.lm_head.weight[token, 0] = float("nan")
    before = {name: p.detach().clone() for name, p in tiny_janus.trainable()}
    optimizer = Optimizer(tiny_janus.trainable(), dataclasses.replace(config.optim, max_skipped=0))
    with pytest.raises(DivergedError, match=f"step 1, update 1: {message}.*not applied$"):
        take_step(tiny_janus, batch, optimizer, config, 1)
    assert all(torch.equal(before[n], p) or "lm_head" in n for n, p in tiny_janus.trainable())


def test_updates_that_are_not_finite_are_left_out_and_counted_until_there_are_too_many(
    tiny_janus: JanusPolicy, config: TrainConfig, halves: dict[Side, list[Half]]
) -> None:
    batch, weight = roll_out(tiny_janus, halves, config), tiny_janus.module.lm_head.weight
    optimizer = Optimizer(tiny_janus.trainable(), dataclasses.replace(config.optim, max_skipped=2))
    take_step(tiny_janus, batch, optimizer, config, 1)
    moments = {name: value.clone() for name, value in optimizer.state().items()}
    good, row = float(weight[tiny_janus.prompts.eos, 0].detach()), tiny_janus.prompts.eos

    def step(number: int, broken: bool) -> dict[str, float]:
        with torch.no_grad():
            weight[row, 0] = float("nan") if broken else good
        return take_step(tiny_janus, batch, optimizer, config, number)

    before = {name: p.detach().clone() for name, p in tiny_janus.trainable()}
    for number in (2, 3):
        metrics = step(number, broken=True)
        assert metrics["skipped"] == 1 and np.isnan(metrics["grad_norm"]) and optimizer.skipped == number - 1
    assert all(p.grad is None for _, p in tiny_janus.trainable())
    assert all(torch.equal(moments[name], value) for name, value in optimizer.state().items())
    assert step(4, broken=False)["skipped"] == 0 and optimizer.skipped == 0
    assert any(not torch.equal(before[name], p) for name, p in tiny_janus.trainable() if "lm_head" not in name)
    for number in (5, 6):
        step(number, broken=True)
    with pytest.raises(DivergedError, match=r"step 7, update 1: .* not applied like 2 in a row before it"):
        step(7, broken=True)


def test_nothing_with_a_graph_outlives_the_rollout(
    tiny_janus: JanusPolicy, config: TrainConfig, halves: dict[Side, list[Half]]
) -> None:
    batch = roll_out(tiny_janus, halves, config)
    gc.collect()
    alive = [o for o in gc.get_objects() if issubclass(type(o), Tensor) and o.grad_fn is not None]
    assert batch and not alive


def test_means_of_finite_rewards_are_finite_whatever_their_size() -> None:
    scores = np.array([1.5e308, 1.5e308, 0.5e308])
    assert metrics._mean(scores) == pytest.approx(1.1666666666666667e308)
    assert metrics._std(scores) == pytest.approx(1e308 * np.std([1.5, 1.5, 0.5]))
    assert np.isnan(metrics._mean([])) and metrics._mean([0.1, 0.2]) == np.array([0.1, 0.2]).mean()
