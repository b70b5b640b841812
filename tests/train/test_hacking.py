"""A reward that is gamed is told: by rows that are made up, and by a run on the Shapes world."""

from pathlib import Path

import numpy as np
import pytest

from pairuni.config import (
    CompleteConfig,
    DataConfig,
    LogConfig,
    ModelConfig,
    OptimConfig,
    PairConfig,
    RewardConfig,
    RolloutConfig,
    ShapesConfig,
    TrainConfig,
)
from pairuni.data.complete import run_complete
from pairuni.data.pairing import run_pair
from pairuni.runs import RunDir
from pairuni.shapes.world import write_world
from pairuni.train.hacking import gamed
from pairuni.train.loop import train


def rows(trained: float, held_out: float, steps: int = 60, noise: float = 0.05) -> list[dict]:
    """Rows whose rewards drift by so much from the first step to the last."""
    rng = np.random.default_rng(0)
    drift = np.linspace(0, 1, steps)
    columns = {
        "reward_mean/generation": trained,
        "held_out/shapes/generation": held_out,
        "reward_mean/understanding": 0.0,
    }
    noisy = {key: amount * drift + noise * rng.normal(size=steps) for key, amount in columns.items()}
    return [{"step": n + 1, **{key: float(values[n]) for key, values in noisy.items()}} for n in range(steps)]


def test_only_a_rise_beside_a_fall_is_told():
    assert len(gamed(rows(0.5, -0.5), 20)) == 1 and "shapes falls" in gamed(rows(0.5, -0.5), 20)[0]
    for trained, held_out in ((0.5, 0.5), (0.5, 0.0), (-0.5, -0.5), (0.0, -0.5), (0.0, 0.0), (-0.5, 0.5)):
        assert gamed(rows(trained, held_out), 20) == [], (trained, held_out)


def test_a_rise_is_seen_where_the_sum_is_normalised():
    made = [{**row, "reward/hps/generation": row["reward_mean/generation"]} for row in rows(0.5, -0.5)]
    made = [{**row, "reward_mean/generation": 0.0} for row in made]
    assert len(gamed(made, 20)) == 1


def autoregression(rng: np.random.Generator, steps: int, correlation: float) -> list[float]:
    values = [float(rng.normal())]
    for _ in range(steps - 1):
        values.append(correlation * values[-1] + float(rng.normal()) * (1 - correlation**2) ** 0.5)
    return values


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_noise_alone_is_seldom_told(correlation):
    """Runs of 120 steps without any change, looked at every 20 steps: 1 in 1,000 may be told of."""
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(300):
        columns = (autoregression(rng, 120, correlation) for _ in range(2))
        made = [{"reward_mean/generation": a, "held_out/x/generation": b} for a, b in zip(*columns, strict=True)]
        alarms += any(gamed(made[:steps], 20) for steps in range(40, 121, 20))
    assert alarms <= 3  # 300 runs at one in 1,000: four or more happen once in 3,700 times


def test_a_change_is_told_among_correlated_steps():
    """A rise and a fall by four standard deviations of a step are told in four of five runs."""
    rng = np.random.default_rng(2)
    told = 0
    for _ in range(50):
        rise, fall = (np.array(autoregression(rng, 100, 0.5)) for _ in range(2))
        drift = np.linspace(0, 4, 100)
        columns = (rise + drift).tolist(), (fall - drift).tolist()
        made = [{"reward_mean/generation": a, "held_out/x/generation": b} for a, b in zip(*columns, strict=True)]
        told += bool(gamed(made, 20))
    assert told >= 40


def test_a_change_inside_a_window_is_no_correlation():
    """A reward that is lost within the first steps, as in a run of its own, is told at the usual windows."""
    rng = np.random.default_rng(3)
    steps = np.arange(30)
    rise, fall = 0.05 * (1 - np.exp(-steps / 12)), 0.7 * np.exp(-steps / 6)
    columns = (rise + 0.002 * rng.normal(size=30)).tolist(), (fall + 0.03 * rng.normal(size=30)).tolist()
    made = [{"reward_mean/generation": a, "held_out/x/generation": b} for a, b in zip(*columns, strict=True)]
    assert [len(gamed(made, window)) for window in (6, 8, 10)] == [1, 1, 1]


def test_too_few_steps_missing_values_and_constant_rewards():
    assert gamed(rows(0.5, -0.5, steps=39), 20) == []
    made = [{**row, "held_out/shapes/generation": None} for row in rows(0.5, -0.5)]
    assert gamed(made, 20) == [] and gamed([], 20) == []
    steps = [{"reward_mean/generation": n >= 20, "held_out/x/generation": n < 20} for n in range(40)]
    assert len(gamed(steps, 20)) == 1
    with pytest.raises(ValueError, match="at least 2"):
        gamed([], 1)


@pytest.fixture
def shapes_pairs(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    write_world(ShapesConfig(str(folder), 120, 120))
    sources = (str(folder / f"{side}.jsonl") for side in ("understanding", "generation"))
    run_complete(CompleteConfig(*sources, str(folder)))
    run_pair(PairConfig(str(folder / "quadruples.jsonl"), str(folder), extractor="colour_hog", clusters=60))
    return folder / "pairs.jsonl"


@pytest.mark.slow
def test_a_gameable_reward_rises_while_what_is_held_out_falls(tmp_path: Path, shapes_pairs: Path, capsys) -> None:
    config = TrainConfig(
        output=str(tmp_path / "run"),
        steps=30,
        sides="generation",
        model=ModelConfig(path="shapes-janus", device="cpu"),
        data=DataConfig(pairs=str(shapes_pairs), batch=8),
        rollout=RolloutConfig(rollouts=6, guidance=2.0),
        rewards=RewardConfig(generation="sharpness", held_out="shapes"),
        optim=OptimConfig(lr=5e-4),
        log=LogConfig(samples_every=0, checkpoint_every=0, hacking_window=8),
    )
    summary = train(config)
    found = RunDir(tmp_path / "run").read_metrics()

    def change(key: str) -> float:
        return float(np.mean([r[key] for r in found[-8:]]) - np.mean([r[key] for r in found[:8]]))

    assert change("reward/sharpness/generation") > 0 > change("held_out/shapes/generation")
    assert change("image/edges") > 0.02
    assert len(summary["warnings"]) == 1 and "shapes falls" in summary["warnings"][0]
    assert "is it being gamed?" in capsys.readouterr().out
