"""Logits that are not finite end a run, an evaluation or a sample with one line that says so, and where."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pairuni.cli.main import main
from pairuni.config import LogConfig, ModelConfig, TrainConfig
from pairuni.errors import DivergedError
from pairuni.policies.janus.policy import JanusPolicy
from pairuni.runs import RunDir
from pairuni.train import step as step_module
from pairuni.train.loop import train
from pairuni.types import Side

PARTS = {Side.UNDERSTANDING: "lm_head", Side.GENERATION: "generation_head"}
WORDS = "the model's logits are not finite"


def broken(policy: JanusPolicy, folder: Path, side: Side) -> Path:
    """The model with weights of a side's head that are numbers (others are refused when loaded) but overflow."""
    with torch.no_grad():
        next(p for name, p in policy.trainable() if PARTS[side] in name and p.ndim > 1).fill_(3e38)
    policy.save(folder)
    return folder


@pytest.mark.parametrize("side", list(Side))
def test_training_says_side_and_step(
    tiny_janus: JanusPolicy, tiny_config: TrainConfig, tmp_path: Path, side: Side
) -> None:
    model = ModelConfig(path=str(broken(tiny_janus, tmp_path / "model", side)), device="cpu")
    config = dataclasses.replace(tiny_config, model=model, log=LogConfig(samples_every=0))
    with pytest.raises(DivergedError, match=f"^step 1: {side}: {WORDS}"):
        train(config)
    grids = dataclasses.replace(config, log=LogConfig(samples_every=1, sample_prompts=1))
    with pytest.raises(DivergedError, match=f"^after step 0: {side}: {WORDS}"):
        train(grids)


def test_what_breaks_on_the_way_is_said_with_its_step(
    tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An update that ruins the weights without its own loss being wrong, such as a rate that is far too high."""
    honest = step_module._apply

    def ruins(optimizer, step, number, losses):
        norm = honest(optimizer, step, number, losses)
        if step == 2:
            with torch.no_grad():
                for parameter in optimizer.parameters:
                    parameter.fill_(float("inf"))
        return norm

    monkeypatch.setattr(step_module, "_apply", ruins)
    log = LogConfig(samples_every=0, checkpoint_every=1)
    config = dataclasses.replace(tiny_config, steps=4, log=log)
    with pytest.raises(DivergedError, match=rf"^step 3: understanding: {WORDS}"):
        train(config)
    assert len(RunDir(Path(config.output)).read_metrics()) == 2


def test_the_commands_print_one_line(
    tiny_janus: JanusPolicy, tiny_config: TrainConfig, pairs_file: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    model = str(broken(tiny_janus, tmp_path / "model", Side.UNDERSTANDING))
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "a.png")
    out = ["--output", str(tmp_path / "out")]
    commands = {
        "sample": ["--image", str(tmp_path / "a.png"), "--question", "What?", "--model", model],
        "eval": ["--model", model, "--benchmarks", "shapes_understanding", "--questions", "4", "--device", "cpu", *out],
        "train": [
            "--data.pairs", str(pairs_file), "--steps", "1", "--model.path", model, "--model.device", "cpu", *out,
            "--rewards.understanding", "format", "--rewards.generation", "brightness", "--rollout.rollouts", "2",
            "--data.batch", "1", "--log.samples_every", "0",
        ],
    }  # fmt: skip
    for name, arguments in commands.items():
        assert main([name, *arguments]) == 1, name
        (line,) = [line for line in capsys.readouterr().err.splitlines() if WORDS in line]
        assert line.startswith(f"pairuni {name}: ") and "understanding" in line
        assert "Traceback" not in line
