"""The memory planner of Lumina-DiMOO: numbers against the real model, estimates against measured peaks."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from dimoo_world import sharp_dimoo
from pairuni.cli.main import main
from pairuni.config import ModelConfig
from pairuni.errors import InputError
from pairuni.policies import load_planner
from pairuni.policies.dimoo.policy import DimooPolicy
from pairuni.policies.memory import RESIDENT, ROLLOUT, UPDATE, Planner, Workload, peak
from pairuni.tiny.build_dimoo import DimooSize
from pairuni.train.measure import made_up, measure
from pairuni.types import SamplingSpec, Side

MIB = 1 << 20
WORK = Workload(
    sides=tuple(Side),
    prompts=3,
    rollouts=4,
    spec=SamplingSpec(guidance=5.0, max_new_tokens=48),
    text_tokens=180,
    micro_batch=4,
    micro_tokens=0,
    bf16=False,
    cuda=False,
    checkpointing=False,
    reference=False,
)
CASES = {
    "plain": WORK,
    "many answers": replace(WORK, sides=(Side.UNDERSTANDING,), prompts=6, micro_batch=12),
    "checkpointing, reference": replace(WORK, checkpointing=True, reference=True, micro_batch=6),
    "cfg score, micro_tokens": replace(WORK, spec=replace(WORK.spec, logprob_mode="cfg"), micro_tokens=3000, prompts=2),
    "bf16": replace(WORK, bf16=True, prompts=1, rollouts=6),
}


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
    with pytest.raises(InputError, match="cannot be read as a Lumina-DiMOO model"):
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


@pytest.fixture(scope="module")
def medium_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """11.6 million parameters; 256 codes an image."""
    size = DimooSize(
        image=128, codebook=1024, hidden=384, layers=6, heads=6, intermediate=1024, vq_channels=(32, 32, 32, 64),
        vocabulary=2048, image_steps=8,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("models") / "medium-dimoo"
    sharp_dimoo(size, ["a red circle", "two blue squares"], 1.0, 0).save(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_estimates_are_near_what_is_measured(name: str, medium_folder: Path) -> None:
    """Bounds as in tests/test_memory_plan.py."""
    work = CASES[name]
    stages = load_planner(str(medium_folder)).estimate(work)
    measured, reason = measure(ModelConfig(str(medium_folder)), "cpu", work)
    assert not reason and measured.keys() == stages.keys()
    told = {stage: (peak(parts) / MIB, measured[stage] / MIB) for stage, parts in stages.items()}
    for stage, (estimated, real) in told.items():
        assert 0.8 < estimated / real < 1.25, (stage, estimated, real)
        added, grown = estimated - told[RESIDENT][0], real - told[RESIDENT][1]
        assert 0.7 * added - 5 < grown < 1.4 * added + 40, (stage, added, grown)
