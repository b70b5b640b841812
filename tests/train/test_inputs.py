"""inputs.json says by content what a run began with."""

import dataclasses
from hashlib import sha256
from pathlib import Path

import pytest

from pairuni.config import TrainConfig
from pairuni.files import read_json
from pairuni.runs import RunDir
from pairuni.train.inputs import input_record
from pairuni.train.loop import train


def test_a_run_records_pairs_and_weights_once(tiny_config: TrainConfig, pairs_file: Path) -> None:
    train(dataclasses.replace(tiny_config, steps=1))
    weights = Path(tiny_config.model.path) / "model.safetensors"
    expected = {
        "pairs": {"path": str(pairs_file), "sha256": sha256(pairs_file.read_bytes()).hexdigest()},
        "model": {
            "path": tiny_config.model.path,
            "sha256": {"model.safetensors": sha256(weights.read_bytes()).hexdigest()},
        },
    }
    path = RunDir(Path(tiny_config.output)).inputs
    assert read_json(path) == expected
    written = path.stat().st_mtime_ns
    train(tiny_config)
    assert path.stat().st_mtime_ns == written


def test_a_hub_model_has_its_revision(
    tiny_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    config = dataclasses.replace(tiny_config, model=dataclasses.replace(tiny_config.model, path="some/janus"))
    assert input_record(config)["model"] == {"path": "some/janus", "revision": None}
    cached = tmp_path / "hub" / "models--some--janus"
    (cached / "snapshots" / "0abc").mkdir(parents=True)
    (cached / "snapshots" / "0abc" / "config.json").write_text("{}")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0abc")
    assert input_record(config)["model"] == {"path": "some/janus", "revision": "0abc"}
