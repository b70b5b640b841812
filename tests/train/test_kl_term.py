"""The KL term of a step: whose actions it is estimated from, and what its reference model costs."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pairuni.config import LogConfig, OptimConfig, RolloutConfig, TrainConfig
from pairuni.policies.janus import model
from pairuni.policies.janus.policy import JanusPolicy
from pairuni.runs import RunDir, comparable
from pairuni.train.loop import train
from pairuni.train.optim import Optimizer
from pairuni.train.trainable import share_frozen_modules
from pairuni.types import Side
from train_world import read_halves, roll_out, take_step

U, G = Side.UNDERSTANDING, Side.GENERATION


@pytest.fixture
def moved(tiny_janus: JanusPolicy) -> JanusPolicy:
    """A reference that differs from the policy in every head."""
    reference = tiny_janus.reference()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in reference.module.named_parameters():
            if "lm_head" in name or "generation_head" in name:
                parameter += 0.3 * parameter.std() * torch.randn(parameter.shape, generator=generator)
    return reference


@pytest.mark.parametrize(
    ("guidance", "score", "estimator"),
    [(1.0, "cond", "k3"), (4.0, "cond", "k1"), (4.0, "cond", "k2"), (4.0, "cond", "k3"), (4.0, "cfg", "k3")],
)
def test_value_and_gradient_by_hand(
    tiny_janus: JanusPolicy, moved: JanusPolicy, tiny_config: TrainConfig, pairs_file: Path,
    guidance: float, score: Any, estimator: Any,
) -> None:  # fmt: skip
    rollout = RolloutConfig(rollouts=4, guidance=guidance, logprob_mode=score, max_new_tokens=6)
    config = dataclasses.replace(
        tiny_config, rollout=rollout, kl_beta=0.5, kl_estimator=estimator, micro_batch=3,
        optim=OptimConfig(lr=1e-4, max_grad_norm=0),
    )  # fmt: skip
    batch = roll_out(tiny_janus, {side: items[:1] for side, items in read_halves(pairs_file).items()}, config)
    batch = {side: dataclasses.replace(s, rewards_BR=torch.ones_like(s.rewards_BR)) for side, s in batch.items()}
    expected, losses = {}, []
    for side, sampled in batch.items():
        (call,) = sampled.calls
        (chunk,) = tiny_janus.chunks(call, 4)
        logp = tiny_janus.logprobs(call, chunk)
        with torch.no_grad():
            ref = moved.logprobs(call, chunk)
        mask = chunk.mask_kN
        scored = call.sampled_logp_BRT if side is G and score == "cfg" else call.cond_logp_BRT
        weight = (scored - call.sampled_logp_BRT).flatten(0, 1).exp()
        gap = logp - ref
        value = {"k1": gap, "k2": gap**2 / 2, "k3": (-gap).exp() - 1 + gap}[estimator]
        expected[side] = float((weight * value)[mask].sum() / mask.sum())
        slope = value if estimator == "k3" else gap**2 / 2
        losses.append(0.5 * ((weight * slope).where(mask, 0.0).sum(-1) / mask.sum(-1)).mean())
        assert (float(weight[mask].max()) > 1.5) == (side is G and guidance > 1 and score == "cond")
    sum(losses).backward()
    wanted: dict[str, Tensor] = {name: p.grad.clone() for name, p in tiny_janus.trainable() if p.grad is not None}
    tiny_janus.module.zero_grad()
    row = take_step(tiny_janus, batch, Optimizer(tiny_janus.trainable(), config.optim), config, 1, moved)
    for side in Side:
        assert row[f"kl/{side}"] == pytest.approx(expected[side], rel=1e-4)
    got = {name: p.grad for name, p in tiny_janus.trainable() if p.grad is not None}
    largest = max(float(g.abs().max()) for g in wanted.values())
    assert got.keys() == wanted.keys() and largest > 1e-3
    for name, grad in wanted.items():
        assert (got[name] - grad).abs().max() < 1e-5 * (1 + largest), name


def test_the_estimate_under_guidance_is_near_the_exact_divergence(
    tiny_janus: JanusPolicy,
    moved: JanusPolicy,
    tiny_config: TrainConfig,
    pairs_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The exact KL of whole conditional distributions at prefixes that guidance drew, and k1, k3 from the draws."""
    rollout = RolloutConfig(rollouts=128, guidance=1.5, max_new_tokens=2)
    config = dataclasses.replace(tiny_config, rollout=rollout, sides="generation")
    batch = roll_out(tiny_janus, {G: read_halves(pairs_file)[G][:1]}, config)
    (call,) = batch[G].calls
    (chunk,) = tiny_janus.chunks(call, 128)
    whole: list[Tensor] = []
    right = model.action_logp

    def spy(weight: Tensor, bias: Tensor, states: Tensor, *rest: Any) -> Tensor:
        whole.append((states @ weight.T + bias).log_softmax(-1).view(*chunk.mask_kN.shape, -1))
        return right(weight, bias, states, *rest)

    monkeypatch.setattr(model, "action_logp", spy)
    with torch.no_grad():
        for policy in (tiny_janus, moved):
            policy.logprobs(call, chunk)
    p, q = whole
    exact = (p.exp() * (p - q)).sum(-1)
    actions = call.actions_BRT.flatten(0, 1)
    gap = (p - q).gather(-1, actions[..., None])[..., 0]
    torch.testing.assert_close(p.gather(-1, actions[..., None])[..., 0], call.cond_logp_BRT[0], atol=1e-4, rtol=0)
    weight = (call.cond_logp_BRT - call.sampled_logp_BRT).flatten(0, 1).exp()
    estimates = {"k1": weight * gap, "k3": weight * ((-gap).exp() - 1 + gap)}
    for name, estimate in estimates.items():
        off = estimate - exact
        assert abs(float(off.mean())) < 4 * float(off.std()) / off.numel() ** 0.5, name


def test_a_resumed_run_s_reference_reads_no_image_again(
    tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its vision encoder is the policy's, loaded again: what that made of an image while sampling serves both."""
    calls: list[int] = []
    right = model.see
    monkeypatch.setattr(model, "see", lambda *args: calls.append(1) or right(*args))
    log = LogConfig(samples_every=0, checkpoint_every=1)
    config = dataclasses.replace(tiny_config, kl_beta=0.1, micro_batch=2, log=log)
    train(dataclasses.replace(config, output=str(tmp_path / "straight"), steps=2))
    straight = len(calls)
    train(dataclasses.replace(config, output=str(tmp_path / "resumed"), steps=1))
    train(dataclasses.replace(config, output=str(tmp_path / "resumed"), steps=2))
    assert straight == 2 and len(calls) - straight == 2
    rows = [RunDir(tmp_path / name).read_metrics()[-1] for name in ("straight", "resumed")]
    assert comparable(rows[0]) == comparable(rows[1])


def test_towers_are_shared_where_their_weights_are_the_same(tiny_janus: JanusPolicy) -> None:
    own = tiny_janus.module.model.vision_model
    other = JanusPolicy(copy.deepcopy(tiny_janus.module), tiny_janus.processor)
    assert other.module.model.vision_model is not own
    share_frozen_modules(other, tiny_janus)
    assert other.module.model.vision_model is own and other.module.model.vqmodel is tiny_janus.module.model.vqmodel
    assert all(a is b for a, b in zip(other.frozen_modules(), tiny_janus.frozen_modules(), strict=True))
    changed = JanusPolicy(copy.deepcopy(tiny_janus.module), tiny_janus.processor)
    with torch.no_grad():
        next(changed.module.model.vision_model.parameters()).add_(1.0)
    share_frozen_modules(changed, tiny_janus)
    assert changed.module.model.vision_model is not own
    assert changed.module.model.vqmodel is tiny_janus.module.model.vqmodel
    narrowed = JanusPolicy(copy.deepcopy(tiny_janus.module), tiny_janus.processor)
    narrowed.module.model.vision_model.bfloat16()  # as frozen weights beside adapters are
    again = JanusPolicy(copy.deepcopy(tiny_janus.module), tiny_janus.processor)
    share_frozen_modules(again, narrowed)
    assert again.module.model.vision_model is narrowed.module.model.vision_model
