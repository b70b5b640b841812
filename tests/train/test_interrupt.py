"""Ctrl-C on the command line: exit code 130, one line on stderr, and the finished steps in a checkpoint."""

import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from pairuni.runs import RunDir
from train_world import make_config, write_pairs

STEPS = 500
"""Far more than a process finishes between its first line of metrics and the signal."""


@pytest.mark.slow
def test_an_interrupted_training_exits_with_130(tmp_path: Path, tiny_janus_folder: Path) -> None:
    config = make_config(tmp_path / "run", tiny_janus_folder, write_pairs(tmp_path / "data"), steps=STEPS)
    file = RunDir(tmp_path)
    file.write_config(asdict(config))
    run = RunDir(tmp_path / "run")
    command = [sys.executable, "-m", "pairuni", "train", "--config", str(file.config)]
    folder = Path(__file__).parents[1]  # that of train_world.py, whose reward the config names
    with subprocess.Popen(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while process.poll() is None and not (run.metrics.is_file() and run.metrics.read_bytes().count(b"\n")):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors and f"continue {run.path}" in errors.splitlines()[-1]
    done = len(run.read_metrics())
    assert 1 <= done < STEPS and run.latest_checkpoint() == run.checkpoint(done)
    assert not run.report.exists(), "the run is not finished"
