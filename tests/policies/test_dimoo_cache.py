"""Cached sampling: what is computed anew, what stays as it was, and that nothing drawn with it is trained on."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dimoo_world import by_hand, sampled, sharp_dimoo
from pairuni.cli.main import main
from pairuni.errors import InputError
from pairuni.policies.dimoo import cache
from pairuni.policies.dimoo.policy import DimooPolicy
from pairuni.tiny.build_dimoo import DimooSize
from pairuni.types import SamplingSpec, Side

GUIDED = SamplingSpec(guidance=3.0)
TEXTS = ("a", "two circles and a square")


def test_half_of_64_steps_compute_everything() -> None:
    """The released cache: 28 of 64 steps are whole ones, those up to 0.3 of them and every fifth after."""
    assert sum(cache.computes_all(step, 64) for step in range(64)) == 28
    whole = [step + 1 for step in range(20) if cache.computes_all(step, 20)]
    assert whole == [1, 2, 3, 4, 5, 6, 10, 15, 20]
    assert cache.computes_all(0, 1)


def test_what_is_computed_anew_sees_what_stayed() -> None:
    """With one layer keys depend on their own token alone: new states are those of a whole forward, others are old."""
    policy = sharp_dimoo(
        DimooSize(image=16, codebook=48, hidden=32, layers=1, heads=2, vocabulary=300), ["a b c"], 1.5, 0
    )
    language, layout = policy.module.language, policy.prompts.image()
    prompts = [torch.arange(5), torch.arange(9)]
    slots, head = layout.slots_N, language.head.weight

    def logits(answers_nA: Tensor) -> list[np.ndarray]:
        return [
            by_hand(language, np.concatenate([prompt.numpy(), answer.numpy()]))[len(prompt) + slots.numpy()]
            for prompt, answer in zip(prompts, answers_nA, strict=True)
        ]

    before = layout.ids_A.repeat(2, 1)
    after = before.clone()
    after[:, slots[2]] = torch.tensor([300, 310])
    again = torch.tensor([[2, 3], [2, 0]])
    states = cache.CachedStates(language, prompts, slots)
    with torch.no_grad():
        states.compute(before, None)
        states.compute(after, again)
        found = (states.states_nNH @ head.T).numpy()
    old, new = logits(before), logits(after)
    for n, own in enumerate(again.tolist()):
        for slot in range(len(slots)):
            expected = new[n][slot] if slot in own else old[n][slot]
            assert found[n, slot] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("order", ["random", "confidence"])
def test_whole_steps_draw_what_is_drawn_without(
    order: str, tiny_dimoo: DimooPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_dimoo.module.language.config
    config.order = order
    plain = sampled(tiny_dimoo, Side.GENERATION, GUIDED, TEXTS)
    config.cached_share = 0.1
    monkeypatch.setattr(cache, "WARM", 1.0)
    cached = sampled(tiny_dimoo, Side.GENERATION, GUIDED, TEXTS)
    assert torch.equal(plain.actions_BRT, cached.actions_BRT)
    assert torch.allclose(plain.sampled_logp_BRT, cached.sampled_logp_BRT, atol=1e-5)


@pytest.mark.parametrize(("order", "share"), [("random", 0.1), ("confidence", 0.1), ("confidence", 0.5)])
def test_other_steps_compute_few_tokens(
    order: str, share: float, tiny_dimoo: DimooPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_dimoo.module.language.config
    config.order, config.cached_share = order, share
    tokens: list[tuple[int, bool]] = []
    forward = tiny_dimoo.module.language.forward

    def counted(ids: Tensor, attended: Tensor | None, kept: object, places: Tensor | None = None) -> Tensor:
        tokens.append(((ids if places is None else places).shape[1], places is None))
        return forward(ids, attended, kept, places)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(tiny_dimoo.module.language, "forward", counted)
    rollouts = sampled(tiny_dimoo, Side.GENERATION, GUIDED, TEXTS)
    steps = rollouts.context.steps_nN[0]
    counts = torch.bincount(steps).tolist()
    filled = np.cumsum([0, *counts])
    assert filled[-1] == 16 and len(tokens) == 2 * len(counts), "both contexts in each step"
    for s, count in enumerate(counts):
        open_slots = count if order == "random" else min(16 - int(filled[s]), int(np.ceil(share * 16)))
        for number, whole in tokens[2 * s : 2 * s + 2]:
            assert whole == (s in (0, 4)), "of five steps the first and the fifth"
            assert whole or number == counts[s - 1] + open_slots


def test_the_least_likely_are_computed_anew(tiny_dimoo: DimooPolicy) -> None:
    language, slots = tiny_dimoo.module.language, tiny_dimoo.prompts.image().slots_N
    ids = slice(language.config.image_offset, language.config.image_offset + 48)
    context = cache.CachedStates(language, [torch.arange(5)], slots)
    logits = cache.CachedLogits([context], 5, ids, 0.25)
    context.states_nNH = torch.randn(1, 16, 32, generator=torch.Generator().manual_seed(0))
    filled_nF = torch.tensor([[7, 1]])
    open_nS = torch.tensor([[n for n in range(16) if n not in (7, 1, 3)]])
    most = (context.states_nNH[0] @ language.head.weight[ids].T).amax(-1).detach().numpy()
    least = sorted(open_nS[0].tolist(), key=lambda slot: most[slot])[:4]
    assert set(logits._stale(open_nS, filled_nF)[0].tolist()) == {7, 1, *least}


def test_nothing_drawn_with_it_is_trained_on(tiny_dimoo: DimooPolicy) -> None:
    tiny_dimoo.module.language.config.cached_share = 0.1
    rollouts = sampled(tiny_dimoo, Side.GENERATION, GUIDED)
    for use in (lambda: tiny_dimoo.chunks(rollouts, 4), tiny_dimoo.trainable):
        with pytest.raises(InputError, match=r"model.sampler_options\.cached_share.*evaluation alone"):
            use()


def test_eval_and_sample_take_sampler_options(
    tiny_dimoo: DimooPolicy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    tiny_dimoo.save(model)
    common = [
        "--model",
        str(model),
        "--device",
        "cpu",
        "--sampler_options",
        '{"cached_share": 0.1, "order": "confidence"}',
    ]
    assert main(["sample", "--prompt", "a circle", "--number", "1", "--output", str(tmp_path / "a.png"), *common]) == 0
    assert (tmp_path / "a.png").is_file()
    small = ["--benchmarks", "shapes_generation", "--prompts", "6", "--output", str(tmp_path / "eval")]
    assert main(["eval", *small, *common]) == 0
    kept = (tmp_path / "eval" / "answers_shapes_generation.jsonl").stat().st_mtime_ns
    assert main(["eval", *small, *common[:4]]) == 0, "without settings they are other answers"
    assert (tmp_path / "eval" / "answers_shapes_generation.jsonl").stat().st_mtime_ns != kept
    assert json.loads((tmp_path / "eval" / "eval.json").read_text())["benchmarks"]["shapes_generation"]["n"] == 6
    capsys.readouterr()
    assert main(["eval", *small, *common[:4], "--sampler_options", '{"cached_share": 2}']) != 0
    assert "cached_share: must be between 0 and 1, not 2" in capsys.readouterr().err
