"""The whole loop: files, exact resume, interruption, mistakes of users, learning."""

import dataclasses
import json
import math
import os
import signal
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from pairuni.config import LogConfig, LoraOptions, OptimConfig, PairSelectionConfig, RewardConfig, TrainConfig
from pairuni.data.dataset import PairSampler
from pairuni.data.mixing import mix
from pairuni.errors import InputError
from pairuni.files import locked
from pairuni.policies import load_policy
from pairuni.policies.base import Policy
from pairuni.records import read_pairs
from pairuni.rewards.base import RewardInput
from pairuni.runs import RunDir, comparable
from pairuni.train.loop import train
from pairuni.train.optim import Optimizer
from pairuni.train.step import DivergedError
from pairuni.train.stop import Interrupted
from pairuni.types import Side
from train_world import letter_share

METRICS = ("reward_mean", "reward_std", "advantage_abs", "zero_std_fraction", "loss", "ratio_mean", "ratio_max")
METRICS += ("clip_fraction", "logp_gap_mean", "logp_gap_max", "behaviour_gap", "missing", "tokens", "tokens_per_second")


def fingerprint(run: RunDir) -> dict[str, Any]:
    """Everything of a run that must not depend on how often it was stopped; bytes as digests, which compare at once."""
    rows = [comparable(row) for row in run.read_metrics()]
    files = sorted((run.path / "samples").rglob("*.*"))
    samples = {p.relative_to(run.path): sha256(p.read_bytes()).hexdigest() for p in files}
    latest = run.latest_checkpoint()
    assert latest is not None
    tensors = {
        f"{file.name}/{name}": sha256(tensor.numpy().tobytes()).hexdigest()
        for file in (latest / "model" / "model.safetensors", latest / "state" / "optimizer.safetensors")
        for name, tensor in load_file(file).items()
    }
    return {"rows": rows, "samples": samples, "latest": latest.name, "tensors": tensors}


def test_a_run_leaves_what_the_design_names(tiny_config: TrainConfig) -> None:
    summary = train(tiny_config)
    run = RunDir(Path(tiny_config.output))
    rows = run.read_metrics()
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        for side in Side:
            assert {f"{name}/{side}" for name in METRICS} <= row.keys()
        assert {"reward/train_world:letter_share/understanding", "reward/brightness/generation"} <= row.keys()
        assert {"grad_norm", "lr", "pair_weight_mean"} <= row.keys()
        assert {f"seconds/{part}" for part in ("rollout", "reward", "update", "total")} <= row.keys()
        assert not any(key.startswith("kl/") for key in row)
        assert all(value is not None for value in row.values())
    assert row["tokens/generation"] == 2 * 4 * 16
    assert row["behaviour_gap/generation"] > 0 and row["behaviour_gap/understanding"] == 0
    assert run.config.is_file() and run.environment.is_file()
    checkpoint = run.latest_checkpoint()
    assert checkpoint == run.checkpoint(2)
    assert load_policy(str(checkpoint / "model")).family == "janus"
    assert not list(checkpoint.rglob("*.pt")) and not list(checkpoint.rglob("*.bin"))
    assert summary["steps"] == 2 and summary["path"] == str(run.path)
    for side in Side:
        assert summary["reward_first"][side] == rows[0][f"reward_mean/{side}"]
        assert summary["reward_last"][side] == rows[1][f"reward_mean/{side}"]


def test_sample_grids_are_at_fixed_prompts_and_seeds(tiny_config: TrainConfig) -> None:
    # At this rate nothing changes, so step 0 and step 2 must show the same samples.
    config = dataclasses.replace(tiny_config, optim=OptimConfig(lr=1e-12))
    train(config)
    run = RunDir(Path(config.output))
    tables = [[json.loads(line) for line in (run.samples(step) / "samples.jsonl").open()] for step in (0, 2)]
    for rows, step in zip(tables, (0, 2), strict=True):
        assert {row["step"] for row in rows} == {step} and {row["pair_id"] for row in rows} == {"p0"}
        assert [(row["side"], row["rollout"]) for row in rows] == [(str(s), r) for s in Side for r in range(4)]
        for row in rows:
            shown = {"question", "text"} if row["side"] == "understanding" else {"prompt", "image"}
            assert row.keys() == {"step", "pair_id", "side", "rollout", "rewards", "advantage"} | shown
        image = rows[-1]
        pixels = np.asarray(Image.open(run.samples(step) / image["image"]))
        luma = pixels @ np.array([0.299, 0.587, 0.114]) / 255
        assert image["rewards"]["brightness"] == pytest.approx(luma.mean())
        assert sum(row["advantage"] for row in rows[4:]) == pytest.approx(0, abs=1e-6)
        assert Image.open(run.samples(step) / "grid.png").width >= 4 * 96
    assert [{**row, "step": 0} for row in tables[1]] == tables[0]


def test_rewards_are_logged_as_they_are_and_as_they_are_added(tiny_config: TrainConfig) -> None:
    rewards = RewardConfig(
        understanding=tiny_config.rewards.understanding,
        generation="brightness, sharpness",
        held_out="colourfulness",
        normalise="group",
    )
    train(dataclasses.replace(tiny_config, rewards=rewards, steps=1))
    run = RunDir(Path(tiny_config.output))
    (row,) = run.read_metrics()
    named = {key for key in row if key.startswith("normalised/")}
    assert named == {"normalised/brightness/generation", "normalised/sharpness/generation"}
    samples = [json.loads(line) for line in (run.samples(1) / "samples.jsonl").open()]
    assert not any("normalised" in sample for sample in samples if sample["side"] == "understanding")
    group = [sample for sample in samples if sample["side"] == "generation"]
    for name in ("brightness", "sharpness"):
        raw = np.array([sample["rewards"][name] for sample in group])
        shown = [sample["normalised"][name] for sample in group]
        np.testing.assert_allclose(shown, (raw - raw.mean()) / raw.std(), rtol=1e-6)
        assert 0.5 < row[f"normalised/{name}/generation"] <= 1  # the mean distance from 0 of deviation 1
    assert group[0].keys() >= {"normalised", "rewards"} and group[0]["normalised"].keys() == {"brightness", "sharpness"}


@pytest.mark.parametrize("changes", [{}, {"kl_beta": 0.1, "updates_per_rollout": 2}])
def test_resume_is_bit_exact(tiny_config: TrainConfig, tmp_path: Path, changes: dict[str, Any]) -> None:
    straight = dataclasses.replace(tiny_config, output=str(tmp_path / "straight"), steps=4, **changes)
    halved = dataclasses.replace(straight, output=str(tmp_path / "halved"), steps=2)
    train(straight)
    train(halved)
    train(dataclasses.replace(halved, steps=4))
    expected, got = (fingerprint(RunDir(Path(c.output))) for c in (straight, halved))
    assert len(expected["samples"]) > 6 and len(expected["tensors"]) > 20
    assert got == expected


def test_resume_from_the_wrong_data_position_would_show(
    tiny_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(tiny_config, steps=4)
    train(config)
    broken = dataclasses.replace(tiny_config, output=str(tmp_path / "broken"), steps=2)
    train(broken)
    batch_at = PairSampler.batch_at
    monkeypatch.setattr(PairSampler, "batch_at", lambda self, step: batch_at(self, step - 2))
    train(dataclasses.replace(broken, steps=4))
    rows = [RunDir(Path(c.output)).read_metrics() for c in (config, broken)]
    assert [comparable(r) for r in rows[0][:2]] == [comparable(r) for r in rows[1][:2]]
    assert [comparable(r) for r in rows[0][2:]] != [comparable(r) for r in rows[1][2:]]


def test_lines_and_samples_after_the_checkpoint_are_written_again(tiny_config: TrainConfig) -> None:
    config = dataclasses.replace(tiny_config, steps=3, log=LogConfig(samples_every=1, sample_prompts=1))
    train(config)
    run = RunDir(Path(config.output))
    expected = fingerprint(run)
    longer = dataclasses.replace(config, steps=4)
    run.append_metrics({"step": 4, "junk": 1.0})
    run.samples(4).mkdir()
    (run.samples(4) / "junk.txt").write_text("x")
    (run.path / "checkpoints" / ".step_000004.killed").mkdir()
    with run.metrics.open("a") as file:
        file.write('{"step": 5, "cut')
    train(longer)
    got = fingerprint(run)
    assert got["rows"][:3] == expected["rows"] and [row["step"] for row in got["rows"]] == [1, 2, 3, 4]
    assert "junk" not in got["rows"][3]
    assert not (run.samples(4) / "junk.txt").exists() and (run.samples(4) / "samples.jsonl").exists()
    assert not list((run.path / "checkpoints").glob(".*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_finished_steps(
    tiny_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    straight = dataclasses.replace(tiny_config, output=str(tmp_path / "straight"), steps=4)
    train(straight)
    config = dataclasses.replace(tiny_config, steps=4)
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    calls = []

    def reward(items: Sequence[RewardInput]) -> list[float]:
        calls.append(len(items))
        if len(calls) == 5:  # two grids of samples and step 1 came before: this is step 3
            os.kill(os.getpid(), number)
        return letter_share(items)

    monkeypatch.setattr("train_world.letter_share", reward)
    with pytest.raises(Interrupted) as caught:
        train(config)
    assert caught.value.step == 2 and config.output in str(caught.value)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    run = RunDir(Path(config.output))
    assert run.latest_checkpoint() == run.checkpoint(2)
    assert [row["step"] for row in run.read_metrics()] == [1, 2]
    train(config)
    assert fingerprint(run) == fingerprint(RunDir(Path(straight.output)))


def test_a_signal_before_the_first_step_is_kept_too(tiny_config: TrainConfig, tmp_path: Path) -> None:
    """While the untrained model is evaluated, which takes long with a large one."""
    log = LogConfig(samples_every=2, sample_prompts=1, checkpoint_every=2, eval_every=4)
    asked: list[int] = []

    def evaluate(policy: Policy, step: int) -> dict[str, float]:
        asked.append(step)
        if len(asked) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"score": float(step)}

    config = dataclasses.replace(tiny_config, log=log)
    with pytest.raises(Interrupted) as caught:
        train(config, evaluate=evaluate)
    run = RunDir(Path(config.output))
    assert caught.value.step == 0 and run.latest_checkpoint() == run.checkpoint(0)
    train(config, evaluate=evaluate)
    straight = dataclasses.replace(config, output=str(tmp_path / "straight"))
    train(straight, evaluate=evaluate)
    assert asked == [0, 2, 0, 2]
    assert fingerprint(run) == fingerprint(RunDir(Path(straight.output)))


def test_a_damaged_checkpoint_is_passed_over(tiny_config: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    config = dataclasses.replace(tiny_config, steps=4)
    train(config)
    run = RunDir(Path(config.output))
    expected = fingerprint(run)
    weights = run.checkpoint(4) / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    train(config)
    assert "model/model.safetensors is damaged" in capsys.readouterr().out
    assert fingerprint(run) == expected
    for step in (2, 4):
        (run.checkpoint(step) / "state" / "files.json").unlink()
    with pytest.raises(InputError, match="none of the checkpoints is whole"):
        train(config)


def test_a_flipped_bit_in_the_optimiser_state_is_found(
    tiny_config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config = dataclasses.replace(tiny_config, steps=4)
    train(config)
    run = RunDir(Path(config.output))
    state = run.checkpoint(4) / "state" / "optimizer.safetensors"
    data = bytearray(state.read_bytes())
    data[-5] ^= 1
    state.write_bytes(bytes(data))
    train(config)
    assert "state/optimizer.safetensors is damaged" in capsys.readouterr().out


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_a_run_has_the_permissions_that_the_umask_gives(tiny_config: TrainConfig, umask: int, mode: int) -> None:
    lora = dataclasses.replace(tiny_config.model, lora=LoraOptions(rank=2))
    before = os.umask(umask)
    try:
        train(dataclasses.replace(tiny_config, steps=1, model=lora))
    finally:
        os.umask(before)
    files = [path for path in Path(tiny_config.output).rglob("*") if path.is_file()]
    assert any(path.name == "adapter_model.safetensors" for path in files)
    assert {path: path.stat().st_mode & 0o777 for path in files} == dict.fromkeys(files, mode)


def test_old_checkpoints_are_deleted(tiny_config: TrainConfig) -> None:
    log = LogConfig(samples_every=0, checkpoint_every=1, keep_checkpoints=2)
    train(dataclasses.replace(tiny_config, steps=4, log=log))
    names = sorted(path.name for path in (Path(tiny_config.output) / "checkpoints").iterdir())
    assert names == ["latest", "step_000003", "step_000004"]


def test_evaluation_before_between_and_after(tiny_config: TrainConfig) -> None:
    log = LogConfig(samples_every=0, checkpoint_every=2, eval_every=2)
    config = dataclasses.replace(tiny_config, steps=3, log=log)
    train(config, evaluate=lambda policy, step: {"toy": 10.0 + step})
    run = RunDir(Path(config.output))
    assert [row.get("eval/toy") for row in run.read_metrics()] == [None, 12.0, 13.0]
    history = [json.loads(line) for line in run.eval_history.open()]
    assert len({row.pop("settings")["toy"] for row in history}) == 1
    assert history == [{"step": 0, "toy": 10.0}, {"step": 2, "toy": 12.0}, {"step": 3, "toy": 13.0}]


def test_another_config_is_refused_and_names_its_fields(tiny_config: TrainConfig, tmp_path: Path) -> None:
    train(tiny_config)
    before = fingerprint(RunDir(Path(tiny_config.output)))
    other = dataclasses.replace(tiny_config, seed=1, optim=OptimConfig(lr=2e-3), steps=3)
    with pytest.raises(InputError) as caught:
        train(other)
    assert "seed: 0 there, 1 now" in str(caught.value) and "optim.lr: 0.001 there, 0.002 now" in str(caught.value)
    assert "steps" not in str(caught.value)
    with pytest.raises(InputError, match="has finished 2 steps"):
        train(dataclasses.replace(tiny_config, steps=1))
    assert fingerprint(RunDir(Path(tiny_config.output))) == before
    moved = tmp_path / "moved"
    Path(tiny_config.output).rename(moved)
    log = LogConfig(samples_every=0, checkpoint_every=1)
    data = dataclasses.replace(tiny_config.data, shapes=10)  # how the pairs were made, not which they are
    assert train(dataclasses.replace(tiny_config, output=str(moved), steps=3, log=log, data=data))["steps"] == 3


def test_a_run_goes_on_with_less_memory(tiny_config: TrainConfig, tmp_path: Path) -> None:
    """Smaller parts, activations computed again: the same rollouts, and the same update but for rounding."""
    straight = dataclasses.replace(tiny_config, output=str(tmp_path / "straight"), steps=4)
    begun = dataclasses.replace(straight, output=str(tmp_path / "begun"), steps=2)
    train(straight)
    train(begun)
    rollout = dataclasses.replace(begun.rollout, prompts_per_call=1)
    model = dataclasses.replace(begun.model, gradient_checkpointing=True)
    train(dataclasses.replace(begun, steps=4, micro_batch=1, micro_tokens=200, rollout=rollout, model=model))
    whole, parts = (RunDir(Path(c.output)).read_metrics() for c in (straight, begun))
    assert [row["step"] for row in parts] == [1, 2, 3, 4]
    for name in ("reward_mean/understanding", "reward_mean/generation", "grad_norm"):
        np.testing.assert_allclose([r[name] for r in parts], [r[name] for r in whole], rtol=2e-4, atol=1e-6)


def test_a_finished_run_is_left_as_it_is(tiny_config: TrainConfig) -> None:
    train(tiny_config)
    run = RunDir(Path(tiny_config.output))
    before = {p: p.stat().st_mtime_ns for p in run.path.rglob("*")}
    assert train(tiny_config)["steps"] == 2
    assert {p: p.stat().st_mtime_ns for p in run.path.rglob("*")} == before


def test_updates_left_out_in_a_row_are_counted_over_a_resume(
    tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From step 2 on no gradient is finite; one such update may be left out."""
    optim, log = OptimConfig(lr=1e-4, max_skipped=1), dataclasses.replace(tiny_config.log, checkpoint_every=1)
    config = dataclasses.replace(tiny_config, optim=optim, log=log, steps=4)
    norms = iter([1.0, math.nan, math.nan, math.nan])
    monkeypatch.setattr(Optimizer, "gradient_norm", lambda optimizer: next(norms))
    run = RunDir(Path(config.output))
    for _ in range(2):  # the second time step 3 is the first one
        with pytest.raises(DivergedError, match=r"step 3, .* like 1 in a row before it"):
            train(config)
        assert [(row["step"], row["skipped"]) for row in run.read_metrics()] == [(1, 0), (2, 1)]
    monkeypatch.setattr(Optimizer, "gradient_norm", lambda optimizer: 1.0)
    assert train(config)["skipped"] == 1 and len(run.read_metrics()) == 4


def test_changed_pairs_are_noticed_on_resume(tiny_config: TrainConfig, pairs_file: Path) -> None:
    train(tiny_config)
    lines = pairs_file.read_text().splitlines(keepends=True)
    pairs_file.write_text("".join(lines[:-1]))
    with pytest.raises(InputError, match="other pairs"):
        train(dataclasses.replace(tiny_config, steps=3))


def test_a_missing_image_is_named_with_its_line(tiny_config: TrainConfig, pairs_file: Path) -> None:
    (pairs_file.parent / "3_u.png").unlink()
    with pytest.raises(InputError) as caught:
        train(tiny_config)
    assert (caught.value.file, caught.value.line) == (str(pairs_file), 4)
    assert caught.value.field == "understand_ann.image_path"
    assert not Path(tiny_config.output).exists()
    train(dataclasses.replace(tiny_config, sides="generation", steps=1))  # which opens no image


def test_a_run_that_another_process_is_at_work_in_is_left_alone(tiny_config: TrainConfig) -> None:
    train(tiny_config)
    run = RunDir(Path(tiny_config.output))
    before = run.metrics.read_bytes()
    with locked(run.path), pytest.raises(InputError, match="another process is at work here"):
        train(dataclasses.replace(tiny_config, steps=4))
    assert run.metrics.read_bytes() == before
    train(dataclasses.replace(tiny_config, steps=3))
    assert len(run.read_metrics()) == 3


def test_a_missing_model_leaves_no_directory(tiny_config: TrainConfig, tmp_path: Path) -> None:
    model = dataclasses.replace(tiny_config.model, path=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="nowhere"):
        train(dataclasses.replace(tiny_config, model=model))
    assert not Path(tiny_config.output).exists()


@pytest.mark.parametrize("side", list(Side))
def test_one_side_alone(tiny_config: TrainConfig, side: Side) -> None:
    other = next(s for s in Side if s is not side)
    train(dataclasses.replace(tiny_config, sides=str(side)))
    rows = RunDir(Path(tiny_config.output)).read_metrics()
    assert f"reward_mean/{side}" in rows[0] and not any(key.endswith(f"/{other}") for key in rows[0])


@pytest.mark.parametrize("mode", ["vanilla", "random_pairs", "unpaired", "aligned_only", "retrieved_only"])
def test_mixing_modes_train(tiny_config: TrainConfig, mode: Any) -> None:
    config = dataclasses.replace(tiny_config, steps=1, pair_selection=PairSelectionConfig(mode=mode))
    train(config)
    (row,) = RunDir(Path(config.output)).read_metrics()
    assert row["pair_weight_mean"] == (pytest.approx(0.8) if mode == "retrieved_only" else 1.0)
    assert row["grad_norm"] > 0


@pytest.mark.parametrize("mode", ["pairs", "vanilla", "random_pairs"])
def test_every_step_says_how_many_halves_stand_beside_their_partner(
    tiny_config: TrainConfig, pairs_file: Path, mode: Any
) -> None:
    config = dataclasses.replace(tiny_config, steps=3, pair_selection=PairSelectionConfig(mode=mode))
    train(config)
    joined = [(pair.understand.id, pair.generate.id) for pair in read_pairs(pairs_file)]
    sampler = PairSampler(mix(read_pairs(pairs_file), mode, config.seed), config.data.batch, config.seed, mode)
    for row in RunDir(Path(config.output)).read_metrics():
        halves = sampler.batch_at(row["step"] - 1)
        u, g = ([half.quadruple.id for half in halves[side]] for side in Side)
        beside = [any((a, b) in joined for b in g) for a in u] + [any((a, b) in joined for a in u) for b in g]
        assert row["co_batching"] == pytest.approx(np.mean(beside)) and (mode != "pairs" or row["co_batching"] == 1)
    train(
        dataclasses.replace(
            config, sides="generation", pair_selection=PairSelectionConfig(), output=f"{config.output}_alone"
        )
    )
    assert "co_batching" not in RunDir(Path(f"{config.output}_alone")).read_metrics()[0]
