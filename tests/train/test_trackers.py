"""Metrics and samples reach a tracker, a failing tracker does not reach the run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pairuni.config import LogConfig, TrainConfig
from pairuni.errors import InputError
from pairuni.runs import RunDir
from pairuni.train import trackers
from pairuni.train.checkpoint import read_progress
from pairuni.train.loop import train

LOG = LogConfig(samples_every=2, sample_prompts=1, checkpoint_every=2, trackers=["tensorboard"])


def read(run: RunDir) -> EventAccumulator:
    events = EventAccumulator(str(run.path / "tensorboard" / run.path.name), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    return events


def test_a_run_and_its_continuation_are_one_in_tensorboard(tiny_config: TrainConfig) -> None:
    run = RunDir(Path(tiny_config.output))
    train(replace(tiny_config, log=LOG))
    train(replace(tiny_config, log=LOG, steps=4))
    events, rows = read(run), run.read_metrics()
    for name in ("reward_mean/generation", "grad_norm", "seconds/total"):
        scalars = {event.step: event.value for event in events.Scalars(name)}
        assert scalars == pytest.approx({row["step"]: row[name] for row in rows}, rel=1e-5)
    images = events.Images("samples/images")
    assert {image.step for image in images} == {0, 2, 4} and (images[0].width, images[0].height) == (
        64,
        16,
    )  # four side by side
    assert "samples/answers/text_summary" in events.Tags()["tensors"]
    assert "config/text_summary" in events.Tags()["tensors"]


class _Failing:
    """A tracker whose network is gone after a step."""

    tracker = type("Run", (), {"id": "run-7"})()

    def __init__(self) -> None:
        self.calls = 0

    def log(self, values: dict[str, Any], step: int) -> None:
        self.calls += 1
        if step > 1:
            raise ConnectionError("no network")

    def finish(self) -> None:
        self.calls += 1


def test_a_failing_tracker_is_left_and_training_goes_on(
    tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = _Failing()
    asked: list[str | None] = []
    monkeypatch.setattr(trackers, "find_spec", lambda name: name)
    monkeypatch.setattr(trackers, "_start", lambda name, project, path, run, step: asked.append(run) or failing)
    monkeypatch.setattr(trackers, "_settings", lambda *arguments: None)
    log = replace(LOG, trackers=["wandb"], samples_every=0, checkpoint_every=1, keep_checkpoints=0)
    train(replace(tiny_config, log=log, steps=1))
    run = RunDir(Path(tiny_config.output))
    assert read_progress(run.checkpoint(1)).trackers == {"wandb": "run-7"}
    train(replace(tiny_config, log=log, steps=4))
    assert asked == [None, "run-7"] and len(run.read_metrics()) == 4
    assert capsys.readouterr().out.count("wandb failed and is left") == 1


def test_a_tracker_that_is_not_installed(tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"log.trackers: trackio is not installed; pip install trackio"):
        train(replace(tiny_config, log=replace(LOG, trackers=["trackio"])))


def test_markdown_is_not_broken_by_what_a_model_says() -> None:
    table = trackers._table([["a | b\n`c`", "<script>"]], ["x", "y"])
    assert table.splitlines()[2] == "| `a / b 'c'` | `<script>` |"
