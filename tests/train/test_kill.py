"""kill -9 at any moment: the run that is started again ends exactly like one that was never killed."""

import random
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import pytest
from test_loop import fingerprint

from pairuni.runs import RunDir

SCRIPT = Path(__file__).with_name("train_world.py")
STEPS, KILLS, FURTHER = 60, 5, 4
"""Steps of the run, kills, and the most steps that a killed process is let ahead of its start. 5 x 4 is far below 60;
on a busy machine this process may sleep through a few more steps of the other."""


@pytest.mark.slow
def test_killed_five_times_ends_like_a_run_that_was_not(
    tmp_path: Path, tiny_janus_folder: Path, pairs_file: Path
) -> None:
    def start(name: str) -> subprocess.Popen[bytes]:
        parts = [tmp_path / name, tiny_janus_folder, pairs_file, STEPS]
        return subprocess.Popen([sys.executable, SCRIPT, *map(str, parts)], stderr=subprocess.DEVNULL)

    assert start("straight").wait() == 0
    straight, killed = (RunDir(tmp_path / name) for name in ("straight", "killed"))
    step_seconds = median(row["seconds/total"] for row in straight.read_metrics())
    rng = random.Random(0)
    reached = []
    for _ in range(KILLS):
        latest = killed.latest_checkpoint()
        target = (0 if latest is None else int(latest.name.removeprefix("step_"))) + rng.randint(1, FURTHER)
        process = start("killed")
        # A resumed process first cuts the metrics back to its checkpoint, so the wait is for a line of its own.
        before = _changed(killed.metrics)
        while process.poll() is None and (_changed(killed.metrics) == before or _last_step(killed.metrics) < target):
            time.sleep(0.005)
        time.sleep(rng.uniform(0, step_seconds))
        assert process.poll() is None, "the run ended before it could be killed"
        process.kill()
        process.wait()
        reached.append(_last_step(killed.metrics))
    assert reached[-1] < STEPS and len(set(reached)) > 1
    assert start("killed").wait() == 0
    assert fingerprint(killed) == fingerprint(straight)
    assert not list((killed.path / "checkpoints").glob(".*"))


def _changed(file: Path) -> int:
    return file.stat().st_mtime_ns if file.is_file() else 0


def _last_step(file: Path) -> int:
    """Whole lines of the metrics, one per step; the last may be cut."""
    return file.read_text(encoding="utf-8").count("\n") if file.is_file() else 0
