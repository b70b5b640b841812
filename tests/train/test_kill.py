"""kill -9 at any moment: the run that is started again ends exactly like one that was never killed."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_loop import fingerprint

from pairuni.runs import RunDir

SCRIPT = Path(__file__).with_name("train_world.py")
STEPS = 12


@pytest.mark.slow
def test_killed_runs_end_like_one_that_was_not(tmp_path: Path, tiny_janus_folder: Path, pairs_file: Path) -> None:
    def start(name: str) -> subprocess.Popen[bytes]:
        parts = [tmp_path / name, tiny_janus_folder, pairs_file, STEPS]
        return subprocess.Popen([sys.executable, SCRIPT, *map(str, parts)], stderr=subprocess.DEVNULL)

    assert start("straight").wait() == 0
    metrics = tmp_path / "killed" / "metrics.jsonl"
    rng = random.Random(0)
    kills = 0
    while kills < 5:
        process = start("killed")
        seen = metrics.stat().st_size if metrics.is_file() else 0
        # The clock starts with the first sign of training, so that kills fall into it and not into imports.
        while process.poll() is None and not (metrics.is_file() and metrics.stat().st_size > seen):
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.3))
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        kills += 1
    assert kills >= 2, "the run ended before it could be killed"
    assert start("killed").wait() == 0
    straight, killed = (fingerprint(RunDir(tmp_path / name)) for name in ("straight", "killed"))
    assert killed == straight
    assert not list((tmp_path / "killed" / "checkpoints").glob(".*"))
