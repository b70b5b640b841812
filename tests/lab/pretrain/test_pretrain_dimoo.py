"""Pre-training of the small Lumina-DiMOO: rows are the policy's prompts, stages go on where they stopped."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pairuni.config import PretrainConfig
from pairuni.lab.pretrain import fit as stages
from pairuni.lab.pretrain import make_dimoo as dimoo
from pairuni.lab.pretrain.make_dimoo import DimooRows
from pairuni.lab.pretrain.rows import KINDS, make_pool
from pairuni.lab.pretrain.vq import DimooTokenizer
from pairuni.policies import load_policy
from pairuni.policies.dimoo.policy import DimooPolicy
from pairuni.rewards.choice import parse_options
from pairuni.shapes.detector import read_scene
from pairuni.shapes.renderer import render
from pairuni.shapes.scenes import Thing, random_scene, scene_of
from pairuni.tiny.build_dimoo import DimooSize, build_dimoo
from pairuni.tiny.corpus import corpus
from pairuni.types import Prompt, Side

SMALL = DimooSize(hidden=32, layers=1, heads=2, intermediate=32, vocabulary=400, vq_channels=(8, 8, 8, 16), vq_latent=8)


@pytest.fixture
def rows() -> DimooRows:
    module, tokenizer = build_dimoo(SMALL, corpus(0, 50), 0)
    pool = make_pool(6, np.random.default_rng(0))
    return DimooRows(module.eval(), tokenizer, pool, DimooTokenizer(module.vqvae).encode(pool.images))


def test_rows_are_the_prompts_that_the_policy_writes(rows: DimooRows, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pre-training and RL must show the model the same ids; an answer must be read back as it was written."""
    policy = DimooPolicy(rows.module, rows.tokenizer)
    seen: list[tuple[Any, ...]] = []

    def record(language: Any, prompts: Any, layout: Any, targets: Any, masks: Any, weights: Any = None) -> torch.Tensor:
        seen.append((prompts, layout, targets))
        return torch.zeros(())

    monkeypatch.setattr(dimoo, "supervised_loss", record)
    rows.answer_loss(6, 3, 0.0, np.random.default_rng(1))
    rows.image_loss(6, 0.5, np.random.default_rng(1))
    (asked, layout, targets), (described, *_), (captions, drawing, codes) = seen
    assert len(asked) == 12 and len(described) == 6
    assert any(torch.equal(layout.ids_A, policy.prompts.answer(length).ids_A) for length in (4, 16))
    for ids, target in zip(asked, targets.tolist(), strict=True):
        question = policy.tokenizer.decode(ids[ids < rows.module.language.config.image_offset])
        text = question.split("<user>")[1].split("<newline>")[0].split("<IMAGE>")[0]
        (image,) = [
            i for i, n in enumerate(rows.codes_NT) if torch.equal(n + 400, ids[ids >= 400])
        ]  # which of the pool's images it is
        prompt = Prompt(Side.UNDERSTANDING, text, (rows.pool.images[image],))
        assert torch.equal(policy.prompts.encode(Side.UNDERSTANDING, [prompt]).ids[0], ids)
        answer = policy.prompts.text(target)
        assert answer in parse_options(text).values(), (answer, text)
    nothing = policy.prompts.encode(Side.GENERATION, [Prompt(Side.GENERATION, "x")]).unconditional[0]
    dropped = [torch.equal(ids, nothing) for ids in captions]
    assert any(dropped) and not all(dropped)
    assert len(drawing.slots_N) == 36
    assert all(any(torch.equal(row - 400, own) for own in rows.codes_NT) for row in codes)


def test_the_image_tokenizer_reads_what_it_writes(rows: DimooRows) -> None:
    """Its codes are those of the policy, and its pixels too."""
    module, images = rows.module, rows.pool.images
    tokenizer = DimooTokenizer(module.vqvae)
    for image, codes in zip(images, tokenizer.encode(images), strict=True):
        assert torch.equal(module.encode_pixels(image).flatten(), codes)
    made, decoded = tokenizer.decode(rows.codes_NT), module.decode_pixels(rows.codes_NT)
    assert np.abs(made.astype(int) - decoded.astype(int)).max() <= 1  # one rounds, one cuts


def test_what_ships_reads_what_it_draws() -> None:
    """Its tokenizer keeps scenes readable; what it answers and draws is measured in test_pretrain."""
    policy = load_policy("shapes-dimoo", device="cpu")
    assert isinstance(policy, DimooPolicy)
    rng = np.random.default_rng(0)
    scenes = [random_scene(rng, "held_out") for _ in range(300)]
    tokenizer = DimooTokenizer(policy.module.vqvae)
    made = tokenizer.decode(tokenizer.encode(np.stack([render(s, rng) for s in scenes])))
    assert np.mean([read_scene(image) == scene for image, scene in zip(made, scenes, strict=True)]) >= 0.97


def test_codes_have_names() -> None:
    """Background is 0; every kind has a code of its own for each quarter of its cell, or for the whole."""
    scene = scene_of([Thing(row=0, column=1, shape="cross", colour="red"), Thing(2, 2, "circle", "blue")])
    codes = dimoo.code_names(scene, 6)
    red, blue = (4 * KINDS.index(kind) for kind in (("red", "cross"), ("blue", "circle")))
    expected = np.zeros((6, 6), int)
    expected[0, 2:4], expected[1, 2:4] = (red + 1, red + 2), (red + 3, red + 4)
    expected[4, 4:6], expected[5, 4:6] = (blue + 1, blue + 2), (blue + 3, blue + 4)
    assert np.array_equal(codes.numpy(), expected)
    cells = np.zeros((3, 3), int)
    cells[0, 1], cells[2, 2] = red // 4 + 1, blue // 4 + 1
    assert np.array_equal(dimoo.code_names(scene, 3).numpy(), cells)
    assert 4 * len(KINDS) < DimooSize().codebook


def test_sight_labels_are_in_the_order_of_the_codes(rows: DimooRows) -> None:
    states, scenes = rows.seeing_states(rows.module.language, 4, np.random.default_rng(0))
    assert states.shape == (4, 36, 32) and len(scenes) == 4
    # With what attention adds taken away a state depends on its own code alone.
    with torch.no_grad():
        for block in rows.module.language.blocks:
            block.attn_out.weight.zero_()  # pyright: ignore
        states, scenes = rows.seeing_states(rows.module.language, 6, np.random.default_rng(0))
    first = [rows.pool.scenes.index(scene) for scene in scenes]
    for a, i in enumerate(first):
        same = rows.codes_NT[i][:, None] == rows.codes_NT[i][None]
        close = (states[a][:, None] - states[a][None]).abs().amax(-1) < 1e-4
        assert torch.equal(same, close)


@pytest.mark.parametrize("shared", [0, 2])
def test_steps_of_both_sides_may_ask_about_fewer_images(shared: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, list[int]] = {}

    def one_step(
        module: nn.Module, draw: Callable[[int], Tensor], output: Path, name: str, *more: Any, **kw: Any
    ) -> float:
        asked[name] = []
        step.append(name)
        return float(draw(0))

    def answers(images: int, careless: float, rng: np.random.Generator) -> Tensor:
        asked[step[-1]].append(images)
        return torch.tensor(careless)

    step: list[str] = []
    monkeypatch.setattr(stages, "fit", one_step)
    config = PretrainConfig(output="", answer_rows=5, shared_rows=shared, careless=0.3)
    last = stages.train_language(nn.Linear(1, 1), answers, lambda rng: torch.zeros(()), config, Path())
    assert asked == {"answers": [5]} | {name: [shared or 5] for name in ("language", "refine", "careless")}
    assert last == pytest.approx(0.3)
