"""What every policy must satisfy, on a tiny model in fp32 on the CPU; a family is one row of FAMILIES.

Only the contract of policies/base.py is used here, but for the parts of `Family` that sabotage a family's decoding. The
Gaussian one (gaussian_policy.py) has actions of floats: what concerns the choice of a token is asked of the others.
"""

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import gaussian_policy
from pairuni.errors import DivergedError
from pairuni.policies import FAMILIES as FAMILY_TABLE
from pairuni.policies import load_policy, sampling
from pairuni.policies.base import Policy
from pairuni.policies.dimoo import decode as dimoo_decode
from pairuni.policies.janus import decode as janus_decode
from pairuni.policies.janus.cache import SharedCache
from pairuni.types import Prompt, Rollouts, SamplingSpec, Side

Patch = pytest.MonkeyPatch
SIDES = tuple(Side)
R = 3
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")


@dataclass(frozen=True)
class Family:
    """A policy under test."""

    fixture: str
    """Name of a fixture that gives a fresh policy on the CPU, with any random weights."""
    frozen: tuple[str, ...]
    """Parameter name prefixes of the towers that RL leaves alone."""
    embeddings: str
    """In the names of token embeddings."""
    draws_in: ModuleType
    """Where the family calls `draw`."""
    shift_positions: Callable[[Patch], None]
    """Makes sampling place what it draws one position too far."""
    inverts: tuple[Any, str] = (sampling, "_invert")
    """What every draw goes through."""


def _shift_janus(patch: Patch) -> None:
    advance = janus_decode.advance

    def shifted(module: Any, cache: SharedCache, embedded: torch.Tensor) -> torch.Tensor:
        cache.position_11 += 1
        states = advance(module, cache, embedded)
        cache.position_11 -= 1
        return states

    patch.setattr(janus_decode, "advance", shifted)


def _shift_dimoo(patch: Patch) -> None:
    states_at = dimoo_decode.states_at
    patch.setattr(
        dimoo_decode, "states_at", lambda model, rows, answers, places: states_at(model, rows, answers, places + 1)
    )


def _shift_gaussian(patch: Patch) -> None:
    forward = gaussian_policy.GaussianModel.forward

    def shifted(module: Any, letters: torch.Tensor, colours: torch.Tensor) -> torch.Tensor:
        return forward(module, letters, colours, shift=0 if torch.is_grad_enabled() or not sampling_now else 1)

    sampling_now: list[bool] = []
    sample = gaussian_policy.GaussianPolicy.sample

    def sample_shifted(*arguments: Any) -> Rollouts:
        sampling_now.append(True)
        try:
            return sample(*arguments)
        finally:
            sampling_now.clear()

    patch.setattr(gaussian_policy.GaussianModel, "forward", shifted)
    patch.setattr(gaussian_policy.GaussianPolicy, "sample", sample_shifted)


FAMILIES: Mapping[str, Family] = {
    "janus": Family("tiny_janus", ("model.vision_model.", "model.vqmodel."), "embed", janus_decode, _shift_janus),
    "dimoo": Family("tiny_dimoo", ("vqvae.",), "wte", dimoo_decode, _shift_dimoo),
    "gaussian": Family(
        "gaussian", ("encoder.",), "embed", gaussian_policy, _shift_gaussian, inverts=(gaussian_policy, "draw")
    ),
}
TOKENS = pytest.mark.parametrize("family", ["janus", "dimoo"], indirect=True)
"""For families whose actions are tokens."""


@pytest.fixture
def gaussian(monkeypatch: Patch) -> Policy:
    monkeypatch.setitem(FAMILY_TABLE, "gaussian", "gaussian_policy:load_gaussian")
    return gaussian_policy.make_gaussian()


@pytest.fixture(params=FAMILIES, name="family")
def _family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


@pytest.fixture(name="policy")
def _policy(family: Family, request: pytest.FixtureRequest) -> Policy:
    return request.getfixturevalue(family.fixture)


def _prompts(side: Side, count: int, padded: bool = True) -> list[Prompt]:
    texts = ("a red circle", "two blue squares and a green circle", "A") if padded else ("red", "red", "red")
    rng = np.random.default_rng(5)
    images = [rng.integers(0, 256, (20, 12, 3), dtype=np.uint8) for _ in texts]
    if side is Side.GENERATION:
        return [Prompt(side, text) for text in texts[:count]]
    return [Prompt(side, text, (image,)) for text, image in zip(texts[:count], images, strict=False)]


def _seeds(count: int, rollouts: int = R, run: int = 0) -> np.ndarray:
    counters = [[sampling.counter_seed(run, 0, b, Side.GENERATION, r) for r in range(rollouts)] for b in range(count)]
    return np.array(counters, dtype=np.uint64)


def _sample(policy: Policy, side: Side, spec: SamplingSpec, count: int = 3, padded: bool = True) -> Rollouts:
    return policy.sample(side, _prompts(side, count, padded), R, spec, _seeds(count))


def _score(policy: Policy, rollouts: Rollouts, budget: int = 10**6) -> torch.Tensor:
    """[B * R, T] without grad, 0 outside the mask."""
    out = torch.zeros_like(rollouts.logp_BRT.flatten(0, 1))
    for chunk in policy.chunks(rollouts, budget):
        with torch.no_grad():
            scored = policy.logprobs(rollouts, chunk).cpu()
        out[list(chunk.rows), : scored.shape[1]] += scored
    return out


def _gap(policy: Policy, rollouts: Rollouts) -> float:
    return float((_score(policy, rollouts) - rollouts.logp_BRT.flatten(0, 1)).abs().max())


SPECS = {
    "guidance off": SamplingSpec(temperature=0.8, max_new_tokens=6),
    "score cond": SamplingSpec(temperature=1.2, guidance=4.0, max_new_tokens=6),
    "score cfg": SamplingSpec(guidance=4.0, logprob_mode="cfg", max_new_tokens=6),
}


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("side", SIDES)
def test_recorded_log_probs_equal_scored_ones(policy: Policy, side: Side, name: str, padded: bool, count: int) -> None:
    rollouts = _sample(policy, side, SPECS[name], count, padded)
    torch.testing.assert_close(_score(policy, rollouts), rollouts.logp_BRT.flatten(0, 1), atol=1e-4, rtol=0)
    assert (rollouts.logp_BRT[rollouts.mask_BRT] < 0).all()
    assert (rollouts.logp_BRT[~rollouts.mask_BRT] == 0).all()


def test_rollouts_hold_what_the_contract_says(policy: Policy) -> None:
    for side in SIDES:
        rollouts = _sample(policy, side, SPECS["score cond"])
        shape = rollouts.mask_BRT.shape
        assert shape[:2] == rollouts.shape == (3, R) and rollouts.actions_BRT.shape[:3] == shape
        assert rollouts.mask_BRT.dtype == torch.bool
        assert rollouts.sampled_logp_BRT.dtype == rollouts.cond_logp_BRT.dtype == torch.float32
        assert rollouts.mask_BRT.shape == rollouts.sampled_logp_BRT.shape == rollouts.cond_logp_BRT.shape == shape
        assert rollouts.length_BR.dtype == torch.int64 and rollouts.length_BR.shape == (3, R)
        assert ((rollouts.length_BR > 0) & (rollouts.length_BR <= shape[2])).all()
        if rollouts.weight_BRT is not None:
            assert rollouts.weight_BRT.dtype == torch.float32 and rollouts.weight_BRT.shape == shape
            assert (rollouts.weight_BRT > 0).all()
        same = torch.equal(rollouts.sampled_logp_BRT, rollouts.cond_logp_BRT)
        if side is Side.GENERATION:
            images = rollouts.images_BRHWC
            assert images is not None and rollouts.texts is None and not same
            assert images.shape == (3, R, policy.image_size, policy.image_size, 3) and images.dtype == np.uint8
            assert images.std() > 0
        else:
            assert rollouts.images_BRHWC is None and rollouts.texts is not None and same
            assert [len(row) for row in rollouts.texts] == [R] * 3


@TOKENS
@pytest.mark.parametrize("side", SIDES)
def test_truncation_behind_the_specs_back_is_caught(policy: Policy, side: Side, monkeypatch: Patch) -> None:
    honest = sampling.truncate
    cut = replace(SPECS["guidance off"], top_k=5)
    monkeypatch.setattr(sampling, "truncate", lambda logp, spec: honest(logp, cut))
    with pytest.raises(AssertionError, match="drawn from other tokens"):
        _sample(policy, side, SPECS["guidance off"])


@pytest.mark.parametrize("side", SIDES)
def test_logits_that_are_not_finite_are_said(policy: Policy, side: Side) -> None:
    with torch.no_grad():
        for _, parameter in policy.trainable():
            parameter.fill_(torch.nan)
    with pytest.raises(DivergedError, match=rf"^{side}: the model's (logits|means) are not finite"):
        _sample(policy, side, SPECS["guidance off"])


@TOKENS
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("limit", [{"top_k": 5}, {"top_p": 0.7}])
def test_truncated_rollouts_show_a_gap(policy: Policy, side: Side, limit: dict[str, float]) -> None:
    rollouts = _sample(policy, side, replace(SPECS["guidance off"], **limit))
    assert _gap(policy, rollouts) > 0.05
    # Fewer tokens share the probability: each is recorded as likelier than it is.
    assert (rollouts.logp_BRT.flatten(0, 1) >= _score(policy, rollouts) - 1e-4).all()


@pytest.mark.parametrize("side", SIDES)
def test_wrong_positions_while_decoding_show_a_gap(
    policy: Policy, family: Family, side: Side, monkeypatch: Patch
) -> None:
    family.shift_positions(monkeypatch)
    assert _gap(policy, _sample(policy, side, SPECS["guidance off"])) > 0.01


@TOKENS
def test_dropped_guidance_while_decoding_shows_a_gap(policy: Policy, family: Family, monkeypatch: Patch) -> None:
    def unguided(cond, uncond, uniforms, spec, banned):
        return sampling.draw(cond, None, uniforms, spec, banned)

    monkeypatch.setattr(family.draws_in, "draw", unguided)
    assert _gap(policy, _sample(policy, Side.GENERATION, SPECS["score cfg"])) > 0.1


@pytest.mark.parametrize("side", SIDES)
def test_scoring_follows_the_spec(policy: Policy, side: Side) -> None:
    rollouts = _sample(policy, side, SPECS["score cond"])
    hotter = replace(rollouts, spec=replace(rollouts.spec, temperature=2.0))
    assert _gap(policy, hotter) > 0.1
    if side is Side.GENERATION:
        guided = replace(rollouts, spec=replace(rollouts.spec, logprob_mode="cfg"))
        assert float((_score(policy, guided) - _score(policy, rollouts)).abs().max()) > 0.1
        assert _gap(policy, guided) < 1e-4  # against the guided log-probs, recorded as well


@pytest.mark.parametrize("side", SIDES)
def test_a_sample_depends_on_its_prompt_and_seed_alone(policy: Policy, side: Side) -> None:
    spec, seeds = SPECS["score cond"], _seeds(5)
    prompts = _prompts(side, 3) + _prompts(side, 2)  # prompts of one length, and equal ones, apart from each other
    together = policy.sample(side, prompts, R, spec, seeds)
    for b in (4, 2, 0):
        alone = policy.sample(side, [prompts[b]], 1, spec, seeds[b : b + 1, 1:2])
        length = alone.actions_BRT.shape[2]
        assert torch.equal(alone.actions_BRT[0, 0], together.actions_BRT[b, 1, :length])
        assert torch.equal(alone.mask_BRT[0, 0], together.mask_BRT[b, 1, :length])
        assert not together.mask_BRT[b, 1, length:].any()
        torch.testing.assert_close(alone.logp_BRT[0, 0], together.logp_BRT[b, 1, :length], atol=1e-5, rtol=0)
    reverse = policy.sample(side, prompts[::-1], R, spec, seeds[::-1])
    assert torch.equal(reverse.actions_BRT.flip(0), together.actions_BRT)


@pytest.mark.parametrize("side", SIDES)
def test_seeds_decide(policy: Policy, side: Side) -> None:
    spec, prompts = SPECS["guidance off"], _prompts(side, 2)
    torch.manual_seed(0)
    first = policy.sample(side, prompts, R, spec, _seeds(2))
    torch.manual_seed(1)
    assert torch.equal(policy.sample(side, prompts, R, spec, _seeds(2)).actions_BRT, first.actions_BRT)
    other = policy.sample(side, prompts, R, spec, _seeds(2, run=1)).actions_BRT
    length = min(other.shape[2], first.actions_BRT.shape[2])
    assert not torch.equal(other[..., :length], first.actions_BRT[..., :length])
    rows = [str(row.tolist()) for row in first.actions_BRT.flatten(0, 1)]
    assert len(set(rows)) == len(rows)
    twice = policy.sample(side, [prompts[0]], 2, spec, np.full((1, 2), 7, dtype=np.uint64))
    assert torch.equal(twice.actions_BRT[0, 0], twice.actions_BRT[0, 1])


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("budget", [1, 2, 4, 9, 100])
def test_chunks_cover_every_decision_once(policy: Policy, side: Side, budget: int) -> None:
    rollouts = _sample(policy, side, SPECS["score cfg"])
    mask, recorded = rollouts.mask_BRT.flatten(0, 1), rollouts.logp_BRT.flatten(0, 1)
    covered = torch.zeros_like(mask, dtype=torch.int64)
    for chunk in policy.chunks(rollouts, budget):
        assert 0 < len(chunk.rows) <= budget and chunk.mask_kN.dtype == torch.bool
        width = chunk.mask_kN.shape[1]
        for i, row in enumerate(chunk.rows):
            covered[row, :width] += chunk.mask_kN[i].cpu()
            assert torch.equal(chunk.recorded_kN[i].cpu() * chunk.mask_kN[i].cpu(), recorded[row, :width])
        assert (chunk.weight_kN is None) == (rollouts.weight_BRT is None)
        if chunk.weight_kN is not None and rollouts.weight_BRT is not None:
            assert torch.equal(chunk.weight_kN.cpu(), rollouts.weight_BRT.flatten(0, 1)[list(chunk.rows), :width])
    assert torch.equal(covered, mask.long())


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", ["score cond", "score cfg"])
def test_chunked_scores_equal_whole_ones(policy: Policy, side: Side, name: str) -> None:
    rollouts = _sample(policy, side, SPECS[name])
    whole = _score(policy, rollouts)
    for budget in (1, 2, 4):
        torch.testing.assert_close(_score(policy, rollouts, budget), whole, atol=2e-5, rtol=0)


def test_gradients_reach_what_is_trained_and_nothing_else(policy: Policy, family: Family) -> None:
    names = dict(policy.trainable())
    assert names and not any(name.startswith(family.frozen) for name in names)
    reached: set[str] = set()
    for side in SIDES:
        policy.module.zero_grad(set_to_none=True)
        rollouts = _sample(policy, side, SPECS["score cfg"])
        for chunk in policy.chunks(rollouts, 4):
            policy.logprobs(rollouts, chunk).sum().backward()
        for name, parameter in policy.module.named_parameters():
            if name.startswith(family.frozen):
                assert parameter.grad is None and not parameter.requires_grad, name
            elif parameter.grad is not None:
                assert torch.isfinite(parameter.grad).all(), name
                reached |= {name} if parameter.grad.any() else set()
    assert reached == set(names)


def test_gradient_is_that_of_the_log_probs(policy: Policy) -> None:
    """A finite difference along the gradient: a detached part of the computation would make it too small."""
    for side in SIDES:
        rollouts = _sample(policy, side, SPECS["score cfg"])
        (chunk,) = policy.chunks(rollouts, 100)
        policy.module.zero_grad(set_to_none=True)
        policy.logprobs(rollouts, chunk).sum().backward()
        moved = [(p, p.grad) for _, p in policy.trainable() if p.grad is not None]
        norm = torch.stack([g.double().square().sum() for _, g in moved]).sum().sqrt()
        totals = []
        for sign in (1, -2, 1):  # up, down, back
            with torch.no_grad():
                for parameter, grad in moved:
                    parameter.add_(grad * (sign * 1e-3 / norm).float())
            totals.append(float(_score(policy, rollouts).double().sum()))
        assert (totals[0] - totals[1]) / 2e-3 == pytest.approx(float(norm), rel=0.02)


def test_the_reference_does_not_follow_the_policy(policy: Policy, family: Family) -> None:
    for side in SIDES:
        rollouts = _sample(policy, side, SPECS["score cfg"])
        frozen = policy.reference()
        assert not any(p.requires_grad for p in frozen.module.parameters()) and not list(frozen.trainable())
        before = _score(frozen, rollouts)
        torch.testing.assert_close(before, _score(policy, rollouts), atol=0, rtol=0)
        with torch.no_grad():
            for name, parameter in policy.trainable():
                if family.embeddings in name:
                    parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
        assert torch.equal(_score(frozen, rollouts), before)
        assert float((_score(policy, rollouts) - before).abs().max()) > 0.1


def _alive_graphs() -> int:
    gc.collect()
    return sum(1 for x in gc.get_objects() if issubclass(type(x), torch.Tensor) and x.grad_fn is not None)


@pytest.mark.parametrize("side", SIDES)
def test_no_graph_outlives_sampling(policy: Policy, side: Side) -> None:
    before = _alive_graphs()
    with torch.enable_grad():
        rollouts = _sample(policy, side, SPECS["score cfg"])
        assert _alive_graphs() == before
    for tensor in (rollouts.actions_BRT, rollouts.sampled_logp_BRT, rollouts.cond_logp_BRT):
        assert not tensor.requires_grad and not tensor.is_inference()  # inference tensors cannot enter a backward


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("side", SIDES)
def test_modes_are_restored(
    policy: Policy, family: Family, side: Side, training: bool, fails: bool, monkeypatch: Patch
) -> None:
    def stop(*args: object) -> None:
        raise RuntimeError("stop")

    policy.module.gradient_checkpointing_enable()
    policy.module.train(training)
    next(iter(policy.module.children())).eval()  # a mixture, so that one flag for all is not enough
    flags = [
        {name: vars(m).get(name) for name in ("training", "gradient_checkpointing")} for m in policy.module.modules()
    ]
    assert any(flag["gradient_checkpointing"] for flag in flags)
    if fails:
        monkeypatch.setattr(*family.inverts, stop)
        with pytest.raises(RuntimeError, match="stop"):
            _sample(policy, side, SPECS["guidance off"])
    else:
        _sample(policy, side, SPECS["guidance off"])
    assert torch.is_grad_enabled()
    after = [
        {name: vars(m).get(name) for name in ("training", "gradient_checkpointing")} for m in policy.module.modules()
    ]
    assert after == flags


@pytest.mark.parametrize("side", SIDES)
def test_train_mode_and_gradient_checkpointing_change_no_score(policy: Policy, side: Side) -> None:
    rollouts = _sample(policy, side, SPECS["score cfg"])
    gradients = []
    for checkpointed in (False, True):
        if checkpointed:
            policy.module.gradient_checkpointing_enable()
        policy.module.train()
        policy.module.zero_grad(set_to_none=True)
        (chunk,) = policy.chunks(rollouts, 100)
        scored = policy.logprobs(rollouts, chunk)
        torch.testing.assert_close(scored.detach(), rollouts.logp_BRT.flatten(0, 1), atol=1e-4, rtol=0)
        scored.sum().backward()
        gradients.append({name: p.grad.clone() for name, p in policy.trainable() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, grad in gradients[0].items():
        torch.testing.assert_close(grad, gradients[1][name], atol=1e-5, rtol=1e-4)


@TOKENS
def test_greedy_is_the_most_likely_and_ignores_seeds(policy: Policy) -> None:
    for side in SIDES:
        rollouts = _sample(policy, side, SamplingSpec(temperature=0, guidance=3.0, max_new_tokens=5))
        assert (rollouts.actions_BRT == rollouts.actions_BRT[:, :1]).all()
        # So cold that only ties within fp32 rounding would be drawn otherwise.
        sampled = _sample(policy, side, SamplingSpec(temperature=1e-6, guidance=3.0, max_new_tokens=5))
        assert torch.equal(rollouts.actions_BRT, sampled.actions_BRT)
        assert _gap(policy, rollouts) < 1e-4 and torch.isfinite(rollouts.logp_BRT).all()


def test_a_saved_policy_loads_as_the_same_one(policy: Policy, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "model"
    policy.save(folder)
    loaded = load_policy(str(folder))
    assert loaded.family == policy.family and loaded.image_size == policy.image_size
    assert [name for name, _ in loaded.trainable()] == [name for name, _ in policy.trainable()]
    for side in SIDES:
        rollouts = _sample(policy, side, SPECS["score cfg"])
        assert torch.equal(_score(loaded, rollouts), _score(policy, rollouts))
        assert torch.equal(_sample(loaded, side, SPECS["score cfg"]).actions_BRT, rollouts.actions_BRT)
    policy.save(folder)  # again over the same place
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_bf16_forward_keeps_fp32_weights_and_log_probs(policy: Policy, tmp_path: Path) -> None:
    policy.save(tmp_path / "model")
    half = load_policy(str(tmp_path / "model"), precision="bf16")
    assert {p.dtype for p in half.module.parameters()} == {torch.float32}
    for side in SIDES:
        rollouts = _sample(policy, side, SPECS["guidance off"])
        scored = _score(half, rollouts)
        gap = float((scored - rollouts.logp_BRT.flatten(0, 1)).abs().max())
        assert scored.dtype == torch.float32 and 1e-4 < gap < 1
        recorded = _sample(half, side, SPECS["guidance off"])
        assert recorded.logp_BRT.dtype == torch.float32 and _gap(half, recorded) < 1
        (chunk,) = half.chunks(recorded, 100)
        half.logprobs(recorded, chunk).sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for _, p in half.trainable())


def test_mistakes_are_refused(policy: Policy) -> None:
    spec = SPECS["guidance off"]
    for side, other in (SIDES, SIDES[::-1]):
        with pytest.raises(ValueError, match="prompt"):
            policy.sample(side, [], R, spec, _seeds(0))
        with pytest.raises(ValueError, match="side"):
            policy.sample(side, _prompts(other, 1), R, spec, _seeds(1))
        with pytest.raises(ValueError, match="seeds"):
            policy.sample(side, _prompts(side, 2), R, spec, _seeds(1))
        with pytest.raises(ValueError, match="seeds"):
            policy.sample(side, _prompts(side, 2), R, spec, _seeds(2).astype(np.float64))
        with pytest.raises(ValueError, match="row"):
            policy.chunks(_sample(policy, side, spec), 0)
    (image,) = _prompts(Side.UNDERSTANDING, 1)[0].images
    for wrong in ((), (image[..., 0],), (image, image.astype(np.float32))):
        with pytest.raises(ValueError, match="image"):
            policy.sample(Side.UNDERSTANDING, [Prompt(Side.UNDERSTANDING, "?", wrong)], R, spec, _seeds(1))
