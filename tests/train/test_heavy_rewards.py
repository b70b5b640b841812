"""Whole runs with a reward on another machine, which comes and goes."""

import threading
from pathlib import Path

import pytest

from pairuni.config import RewardConfig, RewardOptions
from pairuni.errors import InputError
from pairuni.rewards.base import FunctionReward
from pairuni.rewards.serve import RewardServer
from pairuni.runs import RunDir
from pairuni.train.loop import train
from train_world import make_config, write_pairs


@pytest.fixture
def flaky():
    """A reward server; `broken` makes it answer with an error."""

    class State:
        broken = False
        asked = 0

    def score(items):
        State.asked += len(items)
        if State.broken:
            raise RuntimeError("out of memory")
        return [float(item.image.mean()) for item in items]

    server = RewardServer(FunctionReward("flaky", score))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield State, server
    server.shutdown()
    server.server_close()


def config_of(tmp_path: Path, model: Path, options: RewardOptions, **changes):
    rewards = RewardConfig("train_world:letter_share", "http", {"http": options})
    return make_config(tmp_path / "run", model, tmp_path / "data" / "pairs.jsonl", rewards=rewards, **changes)


def test_missing_scores_are_counted_and_the_server_may_move(tmp_path, tiny_janus_folder, flaky):
    state, server = flaky
    write_pairs(tmp_path / "data")
    first = config_of(tmp_path, tiny_janus_folder, RewardOptions(url=server.url), steps=1)
    assert train(first)["missing"] == {"understanding": 0, "generation": 0}
    assert state.asked > 0
    state.broken = True
    moved = RewardOptions(url=server.url.replace("127.0.0.1", "localhost"), retries=0)
    second = config_of(tmp_path, tiny_janus_folder, moved, steps=2)
    summary = train(second)
    assert summary["missing"] == {"understanding": 0, "generation": 8}, "two pairs, four rollouts"
    rows = RunDir(tmp_path / "run").read_metrics()
    assert [row["missing/generation"] for row in rows] == [0, 8]
    assert rows[1]["reward_mean/generation"] is None and rows[1]["reward_mean/understanding"] is not None
    assert rows[1]["advantage_abs/generation"] == 0


def test_a_server_that_refuses_stops_the_run(tmp_path, tiny_janus_folder, flaky):
    _, server = flaky
    server.reward = FunctionReward("short", lambda items: [1.0])
    write_pairs(tmp_path / "data")
    with pytest.raises(InputError, match="HTTP 422 reward short: returned 1 numbers for 4 items"):
        train(config_of(tmp_path, tiny_janus_folder, RewardOptions(url=server.url)))
