"""Fixtures of the training tests: the pairs, and a config on the tiny Janus."""

from pathlib import Path

import pytest

from pairuni.config import TrainConfig
from train_world import make_config, write_pairs


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "data")


@pytest.fixture
def tiny_config(tmp_path: Path, tiny_janus_folder: Path, pairs_file: Path) -> TrainConfig:
    return make_config(tmp_path / "run", tiny_janus_folder, pairs_file)
