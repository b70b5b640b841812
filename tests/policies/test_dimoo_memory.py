"""The memory planner of Lumina-DiMOO: its numbers against the real model; measured peaks: tests/test_memory_plan.py."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from dimoo_world import sharp_dimoo
from memory_world import DIMOO_WORK as WORK
from memory_world import allocated, row_peak
from pairuni.cli.main import main
from pairuni.errors import InputError
from pairuni.policies import load_planner
from pairuni.policies.activations import Pass
from pairuni.policies.dimoo.policy import DimooPolicy
from pairuni.policies.memory import RESIDENT, ROLLOUT, UPDATE, Planner, peak
from pairuni.tiny.build_dimoo import DimooSize
from pairuni.train.measure import made_up
from pairuni.types import Side, Workload


@pytest.fixture
def folder(tiny_dimoo: DimooPolicy, tmp_path: Path) -> Path:
    tiny_dimoo.save(tmp_path / "model")
    return tmp_path / "model"


def test_numbers_are_those_of_the_model(tiny_dimoo: DimooPolicy, folder: Path) -> None:
    planner = load_planner(str(folder))
    assert planner.parameters == sum(p.numel() for p in tiny_dimoo.module.parameters())
    assert planner.sizes == {name: p.numel() for name, p in tiny_dimoo.trainable()}
    assert sorted(planner.lora_targets) == sorted(tiny_dimoo.lora_targets())
    work = replace(WORK, text_tokens=320)  # the template alone takes this model 200
    for side in Side:
        prompts = made_up(tiny_dimoo, side, work, planner.image_tokens)
        rows = tiny_dimoo.prompts.encode(side, prompts).ids
        image = 4 * 5 + 2 if side is Side.UNDERSTANDING else 0
        assert len({tuple(row.tolist()) for row in rows}) == 3
        assert all(318 <= len(row) - image <= 320 for row in rows)


@pytest.mark.parametrize("bf16", [False, True])
def test_peaks_are_those_of_the_allocator(bf16: bool, tmp_path: Path) -> None:
    """To the byte: of a row forwards and backwards, of an image that is encoded, and of three that get pixels.

    A CPU unfolds what it convolves where one image has 20,480 numbers or fewer, and pads channels to 16; not here.
    """
    shape: dict[str, Any] = {"hidden": 32, "layers": 2, "heads": 2, "intermediate": 48, "vocabulary": 300}
    policy = sharp_dimoo(DimooSize(**shape, image=96, codebook=48, vq_channels=(16, 16, 32)), ["a"], 1.5, 1)
    policy.save(tmp_path / "model")
    planner, module = load_planner(str(tmp_path / "model")), policy.module.train()
    one = Pass(1, 40, 4, 0)
    found = planner.activations.row(Side.GENERATION, one, bf16)
    assert found == planner.activations.measure(Side.GENERATION, one, bf16)
    assert found.peak == row_peak(planner, module, Side.GENERATION, (40, 4, 0), bf16)
    c, codes = module.language.config, module.codes_per_side**2
    with torch.no_grad():
        encoded = allocated(lambda: module.encode(torch.zeros(1, 3, c.image_size, c.image_size)))
        drawn = allocated(lambda: module.decode(torch.zeros(3, codes, dtype=torch.int64)))
    phases = {side: list(planner.rollout(side, replace(WORK, prompts=3, rollouts=1))) for side in Side}
    assert phases[Side.UNDERSTANDING][-1]["image tokenizer"] == encoded
    assert phases[Side.GENERATION][-1]["pixels"] == drawn


def test_more_work_takes_more(folder: Path) -> None:
    """Never less: the search for what fits relies on it."""

    @cache
    def planner(**options: object) -> Planner:
        return load_planner(str(folder), options)

    def peaks(work: Workload, **options: object) -> dict[str, int]:
        return {stage: peak(parts) for stage, parts in planner(**options).estimate(work).items()}

    base = peaks(replace(WORK, micro_batch=64))
    more = {
        "prompts": peaks(replace(WORK, prompts=6, micro_batch=64)),
        "guided scores": peaks(replace(WORK, micro_batch=64, spec=replace(WORK.spec, logprob_mode="cfg"))),
        "confidence": peaks(replace(WORK, micro_batch=64), order="confidence"),
    }
    for name, found in more.items():
        assert all(found[stage] >= base[stage] for stage in base), name
    assert more["prompts"][UPDATE[Side.GENERATION]] > 1.9 * base[UPDATE[Side.GENERATION]] - base[RESIDENT]
    for settings in ({"scored_image_steps": 2}, {"estimator": "mean_field"}):
        assert peaks(replace(WORK, micro_batch=64), **settings)[UPDATE[Side.GENERATION]] < base[UPDATE[Side.GENERATION]]
    last = 0
    for tokens in (100, 300, 1000, 3000, 10_000, 0):
        now = peaks(replace(WORK, micro_tokens=tokens, micro_batch=64))[UPDATE[Side.GENERATION]]
        assert now >= last
        last = now
    assert peaks(WORK)[ROLLOUT[Side.GENERATION]] > peaks(WORK)[RESIDENT]


def test_what_is_no_model_is_one_message(folder: Path) -> None:
    with pytest.raises(InputError, match=r"model.sampler_options.order: must be one of"):
        load_planner(str(folder), {"order": "left"})
    (folder / "vqvae" / "config.json").unlink()
    with pytest.raises(InputError, match="cannot be loaded as a Lumina-DiMOO model"):
        load_planner(str(folder))


def test_plan_and_smoke(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The commands that a user with real weights runs first."""
    config = ["--data.pairs", "none", "--rewards.understanding", "choice", "--rewards.generation", "sharpness"]
    plan = ["train", "--model.path", str(folder), "--output", str(tmp_path / "run"), *config, "--plan"]
    assert main([*plan, "--plan.memory", "8"]) == 0
    assert "image update" in capsys.readouterr().out
    assert main(["smoke", "--model", str(folder), "--output", str(tmp_path / "smoke")]) == 0
    out = capsys.readouterr().out
    assert "FAILED" not in out and "ok      scored generation log-probs are the recorded ones" in out
    assert (tmp_path / "smoke" / "smoke.html").is_file()
