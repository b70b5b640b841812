"""Options that had another name: each message names the new one, and runs from before are still read."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from pairuni.cli.main import main
from pairuni.cli.options import parse_config
from pairuni.config import DataConfig, EvaluateConfig, SampleConfig, SmokeConfig, TrainConfig
from pairuni.config.renamed import NEW_NAMES, first_name, new_name, with_new_names
from pairuni.errors import InputError
from pairuni.pages.run_files import read_run
from pairuni.runs import RunDir
from pairuni.train.resume import find_start, flat

TRAIN = "output: {folder}/run\ndata:\n  pairs: pairs.jsonl\n"
OLD: dict[str, Any] = {
    "pairing": {"mode": "aligned_only", "extractor": "clip", "weights": ""},
    "rollout": {"score": "cfg", "guidance": 3.0},
    "model": {"path": "shapes-janus", "settings": {"order": "random"}},
    "patience": 7.0,
}


def test_the_table_leads_to_options_that_are_there() -> None:
    kinds = (TrainConfig("", data=DataConfig("-")), EvaluateConfig(), SampleConfig(prompt="p"), SmokeConfig())
    for old, new in NEW_NAMES.items():
        values: list[Any] = [asdict(kind) for kind in kinds]
        for part in new.split("."):
            values = [value[part] for value in values if part in value]
        assert values, f"{new} is an option of no command"
        assert new_name(old) == new and first_name(new) == old and new_name(new) is None
        assert (
            new_name(f"{old}.x") == f"{new}.x" and first_name(f"{new}.x") == f"{old}.x" and new_name(f"{old}s") is None
        )


@pytest.mark.parametrize(
    ("given", "new"),
    [
        ("pairing.mode=vanilla", "pair_selection.mode"),
        ("rollout.score=cfg", "rollout.logprob_mode"),
        ("model.settings.order=random", "model.sampler_options.order"),
        ("patience=3", "collective_timeout"),
    ],
)
def test_the_command_line_names_the_new_option(
    given: str, new: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(TRAIN.format(folder=tmp_path), encoding="utf-8")
    assert main(["train", "--config", str(file), f"--{given}"]) == 2
    assert f"{given.partition('=')[0]}: is now called {new}" in capsys.readouterr().err
    assert main(["train", "--config", str(file), *f"--{given}".split("=")]) == 2
    assert f"is now called {new}" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["eval", "sample"])
def test_so_does_that_of_other_commands(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--settings", "{}"]) == 2
    assert "settings: is now called sampler_options" in capsys.readouterr().err


def test_a_command_without_the_new_option_knows_nothing_of_the_old(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tiny", "--patience", "3"]) == 2
    assert "unknown option" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("pairing:\n  mode: vanilla", "c.yaml:4: pairing: is now called pair_selection"),
        ("pairing.mode: vanilla", "c.yaml:4: pairing.mode: is now called pair_selection.mode"),
        ("rollout:\n  guidance: 2\n  score: cfg", "c.yaml:6: rollout.score: is now called rollout.logprob_mode"),
        ("model:\n  settings: {}", "c.yaml:5: model.settings: is now called model.sampler_options"),
        ("patience: 3", "c.yaml:4: patience: is now called collective_timeout"),
    ],
)
def test_a_file_names_the_new_option_and_its_line(lines: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(TRAIN.format(folder=tmp_path) + lines + "\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        parse_config(TrainConfig, ["--config", str(file)], "train")
    assert str(caught.value) == f"{tmp_path}/{message}"


def test_a_run_from_before_is_read_and_not_continued(tmp_path: Path) -> None:
    now = flat(asdict(TrainConfig(str(tmp_path), data=DataConfig("pairs.jsonl"))))
    run = RunDir(tmp_path)
    run.config.write_text(yaml.safe_dump(OLD), encoding="utf-8")
    run.metrics.write_text('{"step": 1, "seconds/total": 1.0}\n', encoding="utf-8")

    shown = read_run(run)
    assert shown.setting("pair_selection.mode") == "aligned_only" and shown.setting("pairing") is None
    assert shown.setting("rollout.logprob_mode") == "cfg" and shown.setting("rollout.guidance") == 3.0
    assert shown.setting("model.sampler_options") == {"order": "random"}
    assert shown.setting("collective_timeout") == 7.0
    assert with_new_names(shown.config) == shown.config
    with pytest.raises(InputError, match=r"is now called .*; a run from before that cannot be continued") as caught:
        find_start(run, now)
    assert caught.value.file == run.config and new_name(caught.value.field or "") is not None


def test_check_reads_a_run_from_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunDir(tmp_path)
    old = OLD | {"output": str(tmp_path), "data": {"pairs": "pairs.jsonl"}}
    run.config.write_text(yaml.safe_dump(old), encoding="utf-8")
    run.metrics.write_text('{"step": 1, "seconds/total": 1.0}\n', encoding="utf-8")
    assert main(["check", str(tmp_path)]) == 0
    assert "a run of 1 steps, latest checkpoint none" in capsys.readouterr().out
    run.config.write_text(yaml.safe_dump(old | {"rollout": {"score": "none"}}), encoding="utf-8")
    assert main(["check", str(tmp_path)]) == 2
    assert "rollout.logprob_mode: must be one of" in capsys.readouterr().err
    # A config to train with has the new names.
    assert main(["check", str(run.config)]) == 2
    assert "is now called" in capsys.readouterr().err
