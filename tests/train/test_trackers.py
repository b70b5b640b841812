"""Metrics and samples reach a tracker, a failing tracker does not reach the run."""

import json
from collections.abc import Iterator
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


def wandb_records(file: Path) -> Iterator[Any]:
    """The records of an offline run: protobuf messages in a LevelDB log, in blocks of 32 KiB after 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, whole = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 2**15 - place % 2**15
        if left < 7:
            place += left
            continue
        size, part = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        whole += data[place + 7 : place + 7 + size]
        place += 7 + size
        if part in (1, 4):  # whole, or the last part
            yield Record.FromString(whole)
            whole = b""


def test_a_run_and_its_continuation_are_one_in_wandb(tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    log, run = replace(LOG, trackers=["wandb"]), RunDir(Path(tiny_config.output))
    for steps in (2, 4):
        train(replace(tiny_config, log=log, steps=steps))
        wandb.teardown()  # wandb's own process writes the file's end; `finish` does not wait for it, the exit does
    files = sorted((run.path / "wandb").glob("offline-run-*/*.wandb"), key=lambda file: file.stat().st_mtime_ns)
    records = [record for file in files for record in wandb_records(file)]
    begun = [record.run for record in records if record.HasField("run")]
    assert {(each.project, each.run_id) for each in begun} == {
        ("pairuni", read_progress(run.checkpoint(4)).trackers["wandb"])
    }
    settings = {entry.key for record in records for entry in record.config.update}
    assert len(files) == 2 and {"seed", "rollout.rollouts"} <= settings
    logged: dict[int, dict[str, Any]] = {}
    for record in records:
        values = {(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in record.history.item}
        if values:
            logged.setdefault(values["_step"], {}).update(values)
    for row in run.read_metrics():
        for name in ("reward_mean/generation", "grad_norm", "seconds/total"):
            assert logged[row["step"]][name] == pytest.approx(row[name])
    for step in (0, 2, 4):
        assert logged[step]["samples/images/count"] == 4
        assert logged[step]["samples/answers/ncols"] == 3


def test_a_run_and_its_continuation_are_one_in_trackio(
    tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Beside another run whose folder has the same name."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # before it is imported
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage  # pyright: ignore[reportMissingImports]

    log, run = replace(LOG, trackers=["trackio"]), RunDir(Path(tiny_config.output))
    other = RunDir(tmp_path / "elsewhere" / run.path.name)
    train(replace(tiny_config, log=log))
    train(replace(tiny_config, log=log, output=str(other.path)))
    train(replace(tiny_config, log=log, steps=4))
    for each, steps in ((run, 4), (other, 2)):
        name = read_progress(each.checkpoint(steps)).trackers["trackio"]
        logs = SQLiteStorage.get_logs("pairuni", name)
        logged = {entry["step"]: entry["grad_norm"] for entry in logs if "grad_norm" in entry}
        assert logged == pytest.approx({row["step"]: row["grad_norm"] for row in each.read_metrics()})
        for key in ("samples/image_00", "samples/answers"):
            assert {entry["step"] for entry in logs if key in entry} == set(range(0, steps + 1, 2)), key
        said = next(entry["samples/answers"] for entry in logs if "samples/answers" in entry)
        assert "question" in str(said) and "rewards" in str(said)


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
