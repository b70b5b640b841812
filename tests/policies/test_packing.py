"""Answers behind one shared prompt, and heads in slices: the same log-probs and gradients with less work."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from pairuni.policies import scoring
from pairuni.policies.janus import model, packing
from pairuni.policies.janus.policy import JanusPolicy
from pairuni.policies.sampling import counter_seed
from pairuni.types import Prompt, Rollouts, SamplingSpec, Side

ROLLOUTS = 4


def _sampled(
    tiny: JanusPolicy, side: Side, spec: SamplingSpec, texts: tuple[str, ...] = ("one", "and more", "?")
) -> Rollouts:
    rng = np.random.default_rng(0)
    images = [(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8),) for _ in texts]
    prompts = [Prompt(side, t, i if side is Side.UNDERSTANDING else ()) for t, i in zip(texts, images, strict=True)]
    seeds = [[counter_seed(0, 1, b, side, r) for r in range(ROLLOUTS)] for b in range(len(prompts))]
    return tiny.sample(side, prompts, ROLLOUTS, spec, np.array(seeds, dtype=np.uint64))


def _scored(tiny: JanusPolicy, rollouts: Rollouts, budget: int) -> tuple[Tensor, dict[str, Tensor]]:
    """[rows, T] log-probs, and the gradients of a sum with a weight for each."""
    tiny.module.zero_grad()
    weights = torch.linspace(-1, 1, rollouts.mask_BRT.numel()).view_as(rollouts.mask_BRT).flatten(0, 1)
    parts = []
    for chunk in tiny.chunks(rollouts, budget):
        logp = tiny.logprobs(rollouts, chunk)
        (logp * weights[list(chunk.rows)]).sum().backward()
        parts.append(logp.detach())
    return torch.cat(parts), {name: p.grad.clone() for name, p in tiny.trainable() if p.grad is not None}


def _assert_equal_gradients(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys() and len(got) > 10
    for name, gradient in expected.items():
        assert (got[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-9, name


@pytest.mark.parametrize("length", [1, 2, 9])
def test_packed_answers_have_the_log_probs_and_gradients_of_rows_of_their_own(
    tiny_janus: JanusPolicy, length: int
) -> None:
    rollouts = _sampled(tiny_janus, Side.UNDERSTANDING, SamplingSpec(max_new_tokens=length, temperature=0.7))
    alone, one_by_one = _scored(tiny_janus, rollouts, 1)
    for budget in (3, 4, 100):  # packs that a chunk cuts, whole ones, several prompts at once
        together, gradients = _scored(tiny_janus, rollouts, budget)
        torch.testing.assert_close(together, alone, rtol=0, atol=2e-5)
        _assert_equal_gradients(gradients, one_by_one)


def test_answers_of_unequal_length_and_a_prompt_of_one_answer(tiny_janus: JanusPolicy) -> None:
    with torch.no_grad():
        tiny_janus.module.lm_head.weight[tiny_janus.prompts.eos] *= 4
    rollouts = _sampled(tiny_janus, Side.UNDERSTANDING, SamplingSpec(max_new_tokens=12))
    lengths = rollouts.mask_BRT.sum(-1)
    assert len(lengths.unique()) > 3
    alone, _ = _scored(tiny_janus, rollouts, 1)
    together, _ = _scored(tiny_janus, rollouts, 5)
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-5)


def test_a_prompt_is_read_once_and_each_image_once(tiny_janus: JanusPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    rollouts = _sampled(tiny_janus, Side.UNDERSTANDING, SamplingSpec(max_new_tokens=5))
    tokens, images = [], []
    states, see = model.packed_states, model.see

    def counted(module: object, embedded: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        tokens.append(embedded.shape[0] * embedded.shape[1])
        return states(tiny_janus.module, embedded, positions, mask)

    monkeypatch.setattr(model, "packed_states", counted)
    monkeypatch.setattr(model, "see", lambda m, pixels: images.append(len(pixels)) or see(m, pixels))
    (chunk,) = tiny_janus.chunks(rollouts, 100)
    scored = tiny_janus.logprobs(rollouts, chunk)
    prompts = [len(ids) for ids in rollouts.context.ids]
    assert tokens == [3 * (max(prompts) + ROLLOUTS * 4)]
    # The frozen encoder has seen them while sampling. The reference has the same one, another policy its own.
    assert torch.equal(tiny_janus.reference().logprobs(rollouts, chunk), scored) and images == []
    other = JanusPolicy(copy.deepcopy(tiny_janus.module), tiny_janus.processor)
    with torch.no_grad():
        other.module.model.vision_model.embeddings.patch_embedding.weight.mul_(-1)
        assert not torch.allclose(other.logprobs(rollouts, chunk), scored, atol=1e-3) and images == [3]


def test_a_pack_is_as_large_as_saves_work() -> None:
    # A layer costs 24 H^2 per token in its products and 4 H per token and token that it looks at.
    def operations(size: int, prompt: int, answer: int, number: int, width: int) -> float:
        tokens = prompt + size * (answer - 1)
        return np.ceil(number / size) * (24 * width**2 * tokens + 4 * width * tokens**2)

    for prompt, answer, number, width in (
        (600, 16, 8, 2048),
        (600, 2048, 8, 2048),
        (30, 3000, 16, 512),
        (600, 300, 8, 512),
    ):
        every = [operations(size, prompt, answer, number, width) for size in range(1, number + 1)]
        assert packing._size(prompt, answer, number, width) == 1 + int(np.argmin(every))
    assert packing._size(600, 16, 8, 2048) == 8 and packing._size(30, 3000, 16, 512) == 1


def test_a_mask_by_brute_force() -> None:
    prompts = [torch.tensor([1, 2, 3]), torch.tensor([4, 5])]
    answers = [torch.tensor(ids) for ids in ([6, 7], [8], [9, 10, 11], [12, 13])]
    packed = packing.pack(prompts, [0, 0, 0, 1], answers, 4096, 0)
    assert packed.owners == (0, 1) and packed.ids_QL.tolist() == [[1, 2, 3, 6, 9, 10], [4, 5, 12, 0, 0, 0]]
    assert packed.positions_QL[0].tolist() == [0, 1, 2, 3, 3, 4] and packed.positions_QL[1, :3].tolist() == [0, 1, 2]
    assert packed.places_N.tolist() == [2, 3, 2, 2, 4, 5, 7, 8]
    mask = packed.mask(torch.device("cpu"))
    assert mask is not None and mask.shape == (2, 1, 4, 6)  # what follows the shorter prompt
    owner = [["p", "p", "p", "a", "c", "c"], ["p", "p", "d", "-", "-", "-"]]
    for q in range(2):
        for i in range(2, 6):
            for j in range(6):
                expected = j <= i and (owner[q][j] == "p" or owner[q][j] == owner[q][i])
                assert bool(mask[q, 0, i - 2, j]) == expected, (q, i, j)
    assert mask.any(-1).all()  # a token that sees nothing would be NaN
    assert packing.pack(prompts[:1], [0], answers[:1], 64, 0).mask(torch.device("cpu")) is None


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize("score", ["cond", "cfg"])
def test_heads_in_slices_change_nothing(
    tiny_janus: JanusPolicy, monkeypatch: pytest.MonkeyPatch, side: Side, score: str
) -> None:
    spec = SamplingSpec(max_new_tokens=6, guidance=2.0, logprob_mode=score)  # pyright: ignore
    rollouts = _sampled(tiny_janus, side, spec)
    whole, expected = _scored(tiny_janus, rollouts, 100)
    module, sizes, temper = tiny_janus.module, [], scoring.temper_
    last = module.lm_head if side is Side.UNDERSTANDING else module.model.generation_head.vision_head
    vocabulary = last.out_features
    monkeypatch.setattr(scoring, "LOGITS", 7 * vocabulary)
    monkeypatch.setattr(scoring, "temper_", lambda x, *more: sizes.append(x.numel()) or temper(x, *more))
    sliced, gradients = _scored(tiny_janus, rollouts, 100)
    assert max(sizes) <= 7 * vocabulary
    actions = int(rollouts.mask_BRT.sum())
    parts = -(-actions // 7)
    forward = sizes[:parts]
    assert sum(forward) == actions * vocabulary
    assert sizes[parts:] == forward[-2::-1]  # backwards from the last, which is kept
    torch.testing.assert_close(sliced, whole, rtol=0, atol=1e-5)
    _assert_equal_gradients(gradients, expected)


@pytest.mark.parametrize("side", list(Side))
def test_a_token_budget_cuts_between_rows_and_a_shared_prompt_counts_once(tiny_janus: JanusPolicy, side: Side) -> None:
    rollouts = _sampled(tiny_janus, side, SamplingSpec(max_new_tokens=5, guidance=2.0, logprob_mode="cfg"))
    lengths = rollouts.mask_BRT.flatten(0, 1).sum(-1).tolist()
    prompts = [len(ids) for ids in rollouts.context.ids]

    def tokens(rows: tuple[int, ...]) -> int:
        if side is Side.GENERATION:
            return sum(2 * (prompts[row // ROLLOUTS] + lengths[row]) for row in rows)
        return sum(prompts[b] for b in {row // ROLLOUTS for row in rows}) + sum(lengths[row] for row in rows)

    for budget in (1, 40, 90, 150, 10_000):
        chunks = tiny_janus.chunks(rollouts, 100, budget)
        assert [row for chunk in chunks for row in chunk.rows] == list(range(12))
        for chunk, following in zip(chunks, [*chunks[1:], None], strict=True):
            assert tokens(chunk.rows) <= budget or len(chunk.rows) == 1
            if following is not None:  # one more would not have fitted
                assert tokens((*chunk.rows, following.rows[0])) > budget
    assert len(tiny_janus.chunks(rollouts, 100)) == 1 and len(tiny_janus.chunks(rollouts, 5, 10_000)) == 3
    with pytest.raises(ValueError, match="token"):
        tiny_janus.chunks(rollouts, 1, -1)


@pytest.mark.parametrize("side", list(Side))
def test_recomputed_activations_change_nothing_and_rest_while_sampling(tiny_janus: JanusPolicy, side: Side) -> None:
    spec = SamplingSpec(max_new_tokens=5)
    rollouts = _sampled(tiny_janus, side, spec)
    kept, expected = _scored(tiny_janus, rollouts, 6)
    calls = []
    handle = tiny_janus.module.model.language_model.layers[0].input_layernorm.register_forward_hook(
        lambda *call: calls.append(1)
    )
    _scored(tiny_janus, rollouts, 6)
    plain = len(calls)
    tiny_janus.checkpoint_activations()
    calls.clear()
    recomputed, gradients = _scored(tiny_janus, rollouts, 6)
    assert len(calls) == 2 * plain  # forward, and again in the backward pass
    assert torch.equal(recomputed, kept)
    _assert_equal_gradients(gradients, expected)
    handle.remove()
    again = _sampled(tiny_janus, side, spec)
    assert torch.equal(again.actions_BRT, rollouts.actions_BRT) and torch.equal(again.logp_BRT, rollouts.logp_BRT)
    assert tiny_janus.module.model.language_model.layers[0].training
