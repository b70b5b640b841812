"""2,000 steps: memory and file handles stay flat, and what is logged grows by a line a step."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from pairuni.config import LogConfig, OptimConfig, RolloutConfig
from pairuni.rewards.base import RewardInput
from pairuni.runs import RunDir
from pairuni.train.loop import train
from train_world import make_config

STEPS, WARM = 2000, 400
_SEEN: list[tuple[int, int]] = []


def brightness_and_gauge(items: Sequence[RewardInput]) -> list[float]:
    """A reward that notes the process' resident memory and open files, once a call."""
    process = psutil.Process()
    _SEEN.append((process.memory_info().rss, process.num_fds()))
    return [0.0 if item.image is None else float(item.image.mean()) for item in items]


@pytest.mark.slow
def test_two_thousand_steps(tmp_path: Path, tiny_janus_folder: Path, pairs_file: Path) -> None:
    _SEEN.clear()
    config = make_config(
        tmp_path / "run",
        tiny_janus_folder,
        pairs_file,
        steps=STEPS,
        optim=OptimConfig(lr=1e-6),
        rollout=RolloutConfig(rollouts=2, guidance=2.0, max_new_tokens=3),
        log=LogConfig(samples_every=500, sample_prompts=1, checkpoint_every=500, keep_checkpoints=2),
    )
    config = replace(config, rewards=replace(config.rewards, generation="test_soak:brightness_and_gauge"))
    train(config)
    memory, handles = (np.array(column[WARM:], dtype=float) for column in zip(*_SEEN, strict=True))
    # The slope over all steps, against a tenth of the resident memory per 2,000 steps, and its sign by halves.
    slope = np.polyfit(np.arange(len(memory)), memory, 1)[0] * STEPS
    early, late = memory[: len(memory) // 4], memory[-len(memory) // 4 :]
    print(f"RSS {memory.mean() / 2**20:.0f} MiB, {slope / 2**20:+.1f} MiB per {STEPS} steps; handles {handles.max()}")
    assert slope < 0.05 * memory.mean() and np.median(late) < 1.05 * np.median(early)
    assert np.median(handles[-200:]) <= np.median(handles[:200]) + 1
    run = RunDir(tmp_path / "run")
    assert len(run.read_metrics()) == STEPS and run.metrics.stat().st_size < 3000 * STEPS
    folders = sorted(path.name for path in (run.path / "checkpoints").glob("step_*"))
    assert folders == ["step_001500", "step_002000"]
    others = [path for path in run.path.rglob("*") if path.is_file() and "checkpoints" not in path.parts]
    assert sum(path.stat().st_size for path in others if path != run.metrics) < 2**20
