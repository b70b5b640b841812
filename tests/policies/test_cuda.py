"""Sampling, scoring and a step on a GPU: the kernel and CUDA graphs against eager torch, recorded against scored."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pairuni.policies.janus import cache as cache_module
from pairuni.policies.janus import decode
from pairuni.policies.janus.policy import JanusPolicy
from pairuni.tiny.build_janus import JanusSize, build_janus
from pairuni.types import Prompt, Rollouts, SamplingSpec, Side

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SIZE = JanusSize(hidden=256, layers=3, heads=2, intermediate=320)  # heads as wide as Janus-Pro's
CORPUS = ["a red circle", "two blue squares", "What colour is the shape? A. red B. blue"]
SPEC = SamplingSpec(max_new_tokens=40, guidance=3.0, logprob_mode="cfg")


@pytest.fixture(autouse=True)
def _exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN's TF32 convolutions give an image other features in a batch of another size."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def _policy(precision: str, cuda_graphs: bool = True) -> JanusPolicy:
    module, processor = build_janus(SIZE, CORPUS, seed=0)
    with torch.no_grad():
        for head in (module.lm_head, module.model.generation_head.vision_head):
            head.weight *= 3  # some tokens are much likelier than others
        module.lm_head.weight[processor.tokenizer.eos_token_id] *= 1.5  # answers end, at different lengths
    return JanusPolicy(module.cuda(), processor, precision, cuda_graphs)  # pyright: ignore[reportArgumentType]


def _sample(
    policy: JanusPolicy, side: Side, rollouts: int = 5, prompts: int = 4, spec: SamplingSpec = SPEC
) -> Rollouts:
    texts, rng = ("red", "red", "a red circle and two blue squares", "blue"), np.random.default_rng(0)
    images = [(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8),) for _ in texts]
    asked = [
        Prompt(side, text, image if side is Side.UNDERSTANDING else ())
        for text, image in zip(texts, images, strict=True)
    ]
    seeds = np.arange(prompts * rollouts, dtype=np.uint64).reshape(prompts, rollouts)
    return policy.sample(side, asked[:prompts], rollouts, spec, seeds)


@pytest.mark.parametrize("limit", [{}, {"top_k": 20}, {"top_p": 0.9}], ids=str)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("side", list(Side))
def test_graphs_replay_what_eager_steps_do(side: Side, precision: str, limit: dict[str, float]) -> None:
    """The same kernels on the same numbers: nothing may differ."""
    spec = replace(SPEC, **limit)  # pyright: ignore[reportArgumentType]
    eager, replayed = (_sample(_policy(precision, cuda_graphs), side, spec=spec) for cuda_graphs in (False, True))
    assert len(set(eager.mask_BRT.sum(-1).flatten().tolist())) > 1 or side is Side.GENERATION
    for name in ("actions_BRT", "mask_BRT", "sampled_logp_BRT", "cond_logp_BRT"):
        assert torch.equal(getattr(eager, name), getattr(replayed, name)), name


@pytest.mark.parametrize("side", list(Side))
def test_a_graph_is_recorded_and_replayed(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    replays, steps = [], []
    step, replay = decode._Rows.step, torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(decode._Rows, "step", lambda rows: (steps.append(1), step(rows)))
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: (replays.append(1), replay(graph)))
    _sample(_policy("bf16", False), side)
    assert not replays
    eager = len(steps)
    steps.clear()
    _sample(_policy("bf16"), side)
    assert len(replays) > 10 and len(steps) < eager - 10


@pytest.mark.parametrize("side", list(Side))
def test_the_kernel_samples_what_plain_torch_samples(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    fused = _sample(_policy("fp32"), side)
    monkeypatch.setattr(cache_module, "_fusable", lambda keys: False)
    plain = _sample(_policy("fp32"), side)
    assert torch.equal(fused.actions_BRT, plain.actions_BRT)
    torch.testing.assert_close(fused.logp_BRT, plain.logp_BRT, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("precision", "most", "mean"), [("fp32", 1e-4, 1e-5), ("bf16", 0.3, 0.03)])
@pytest.mark.parametrize("side", list(Side))
def test_recorded_log_probs_are_the_scored_ones(side: Side, precision: str, most: float, mean: float) -> None:
    policy = _policy(precision)
    rollouts = _sample(policy, side)
    with torch.no_grad():
        for chunk in policy.chunks(rollouts, 100):
            apart = (policy.logprobs(rollouts, chunk) - chunk.recorded_kN).where(chunk.mask_kN, 0).abs()
            assert apart.max() <= most and apart.sum() / chunk.mask_kN.sum() <= mean


@pytest.mark.parametrize("side", list(Side))
def test_a_row_does_not_depend_on_its_neighbours(side: Side) -> None:
    policy = _policy("fp32")
    many, few = _sample(policy, side), _sample(policy, side, prompts=1)
    steps = few.actions_BRT.shape[-1]
    assert torch.equal(many.actions_BRT[:1, :, :steps], few.actions_BRT)


def test_bf16_draws_from_nearly_the_distribution_of_fp32() -> None:
    """Scored by the fp32 model, what the bf16 model draws is as likely as what the fp32 model draws."""
    policy = _policy("fp32")
    likely = {}
    for precision in ("fp32", "bf16"):
        drawn = _sample(_policy(precision), Side.GENERATION, rollouts=64)
        (chunk,) = policy.chunks(drawn, 10**6)
        with torch.no_grad():
            logp = policy.logprobs(drawn, chunk).mean(-1)
        likely[precision] = float(logp.mean()), float(logp.std()) / len(logp) ** 0.5
    gap, error = likely["fp32"][0] - likely["bf16"][0], likely["fp32"][1] + likely["bf16"][1]
    assert abs(gap) < 4 * error


def test_sampling_leaves_nothing_behind() -> None:
    """Keys, values and the graph's own memory go when a call returns."""
    policy = _policy("bf16")
    _sample(policy, Side.GENERATION)
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        _sample(policy, Side.GENERATION)
    assert torch.cuda.memory_allocated() <= before + (1 << 20)


def test_greedy_is_the_same_with_and_without_graphs() -> None:
    spec = replace(SPEC, temperature=0.0)
    seeds = np.zeros((1, 1), dtype=np.uint64)
    asked = [Prompt(Side.GENERATION, "a red circle")]
    codes = [
        _policy("fp32", graphs).sample(Side.GENERATION, asked, 1, spec, seeds).actions_BRT for graphs in (False, True)
    ]
    assert torch.equal(*codes)
