"""Pre-training of the small Lumina-DiMOO: rows are the policy's prompts, stages go on where they stopped."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pairuni.config import PretrainConfig
from pairuni.policies import load_policy
from pairuni.policies.dimoo.policy import DimooPolicy
from pairuni.pretrain import dimoo, stages
from pairuni.pretrain.build_dimoo import DimooSize, build_dimoo
from pairuni.pretrain.dimoo import DimooRows
from pairuni.pretrain.rows import corpus, make_pool
from pairuni.pretrain.script import run_pretrain
from pairuni.pretrain.vq import DimooTokenizer
from pairuni.records import Prompt, Side

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
    assert (
        len(asked) == 12 and len(described) == 6 and layout.ids_A.tolist() == policy.prompts.answer(16).ids_A.tolist()
    )
    for ids, target in zip(asked, targets.tolist(), strict=True):
        question = policy.tokenizer.decode(ids[ids < rows.module.language.config.image_offset])
        text = question.split("<user>")[1].split("<newline>")[0].split("<IMAGE>")[0].removesuffix("</user")
        (image,) = [
            i for i, n in enumerate(rows.codes_NT) if torch.equal(n + 400, ids[ids >= 400])
        ]  # which of the pool's images it is
        prompt = Prompt(Side.UNDERSTANDING, text, (rows.pool.images[image],))
        assert torch.equal(policy.prompts.encode(Side.UNDERSTANDING, [prompt]).ids[0], ids)
        answer = policy.prompts.text(target)
        assert answer[:3] in ("A. ", "B. ", "C. ", "D. "), answer
    nothing = policy.prompts.encode(Side.GENERATION, [Prompt(Side.GENERATION, "x")]).unconditional[0]
    dropped = [torch.equal(ids, nothing) for ids in captions]
    assert any(dropped) and not all(dropped)
    assert len(drawing.slots_N) == 36 and codes.min() >= 400


def test_the_image_tokenizer_reads_what_it_writes(rows: DimooRows) -> None:
    """Its codes are those of the policy, and its pixels too."""
    module, images = rows.module, rows.pool.images
    tokenizer = DimooTokenizer(module.vqvae)
    for image, codes in zip(images, tokenizer.encode(images), strict=True):
        assert torch.equal(module.encode_pixels(image).flatten(), codes)
    made, decoded = tokenizer.decode(rows.codes_NT), module.decode_pixels(rows.codes_NT)
    assert np.abs(made.astype(int) - decoded.astype(int)).max() <= 1  # one rounds, one cuts


def test_sight_labels_are_in_the_order_of_the_codes(rows: DimooRows) -> None:
    states, scenes = rows.seeing_states(4, np.random.default_rng(0))
    assert states.shape == (4, 36, 32) and len(scenes) == 4
    # With what attention adds taken away a state depends on its own code alone.
    with torch.no_grad():
        for block in rows.module.language.blocks:
            block.attn_out.weight.zero_()  # pyright: ignore
        states, scenes = rows.seeing_states(6, np.random.default_rng(0))
    first = [rows.pool.scenes.index(scene) for scene in scenes]
    for a, i in enumerate(first):
        same = rows.codes_NT[i][:, None] == rows.codes_NT[i][None]
        close = (states[a][:, None] - states[a][None]).abs().amax(-1) < 1e-4
        assert torch.equal(same, close)


@pytest.mark.slow
def test_a_stopped_script_ends_like_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("auto", "vq", "decoder", "sight", "answer", "refine", "careless")
    small: dict[str, Any] = {f"{stage}_steps": 2 for stage in names} | {"language_steps": 4}
    small |= {"vq_batch": 2, "sight_batch": 2, "answer_rows": 2, "image_rows": 2, "turns": 2, "pool": 20}
    small |= {"questions": 12, "prompts": 12, "bf16": False, "family": "dimoo"}
    monkeypatch.setattr(stages, "SAVE_EVERY", 2)
    summary = run_pretrain(PretrainConfig(output=str(tmp_path / "whole"), **small))
    assert summary["seconds"] > 0 and (tmp_path / "whole" / "README.md").is_file()
    stopped, drawn, calls = PretrainConfig(output=str(tmp_path / "stopped"), **small), DimooRows.image_loss, []

    def stop_in_the_fourth(*arguments: Any) -> torch.Tensor:
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return drawn(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(DimooRows, "image_loss", stop_in_the_fourth)
        run_pretrain(stopped)
    state = torch.load(tmp_path / "stopped" / ".state" / "language.pt", weights_only=True)
    assert state["step"] == 2 and not (tmp_path / "stopped" / "model.safetensors").exists()
    run_pretrain(stopped)
    for name in ("model.safetensors", "vqvae/diffusion_pytorch_model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()
    policy = load_policy(str(tmp_path / "whole"))
    assert policy.image_size == 48
