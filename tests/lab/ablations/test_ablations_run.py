"""`pairuni analyse ablations` on real processes (slow): interrupted and killed, it goes on; on Ray alike."""

import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from ablation_world import make_base

from pairuni.config import ModelConfig
from pairuni.lab.ablations.results import read_results
from pairuni.lab.ablations.schedule import BEFORE
from pairuni.lab.ablations.suites import METHOD
from pairuni.streams import VERSION

pytestmark = pytest.mark.slow


def command(folder: Path, *more: str) -> list[str]:
    """The smallest suite, with one seed, two steps and a few held-out items."""
    base = make_base(folder / "out").train
    base = dataclasses.replace(base, model=ModelConfig("shapes-janus"), eval=dataclasses.replace(base.eval, batch=6))
    (folder / "base.yaml").write_text(yaml.safe_dump(dataclasses.asdict(base)))
    options = ["--suite", "selection", "--seeds", "1", "--base", str(folder / "base.yaml")]
    return [sys.executable, "-m", "pairuni", "analyse", "ablations", *options, "--output", str(folder / "out"), *more]


def finish(arguments: list[str]) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return done.stdout


def stopped(arguments: list[str], until: Path, by: signal.Signals) -> int:
    """Starts the command and stops it when a file has appeared: its whole group of processes, as Ctrl-C in a terminal
    does and a machine that goes down, or with SIGTERM itself alone."""
    with subprocess.Popen(
        arguments, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as one:
        deadline = time.monotonic() + 600
        while not until.exists() and one.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert until.exists()
        os.kill(one.pid, by) if by is signal.SIGTERM else os.killpg(one.pid, by)
        return one.wait(timeout=600)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the command ran in one go."""
    folder = tmp_path_factory.mktemp("whole")
    assert "nothing is missing" in finish(command(folder, "--workers", "2", "--threads", "1"))
    return folder / "out"


def comparable(file: Path) -> list[dict]:
    """Rows without what may differ between equal runs."""
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in file.read_text().splitlines()]


def test_it_runs(whole: Path) -> None:
    results = read_results(whole / "results.jsonl")
    assert set(results) == {(BEFORE, 0, 1), (METHOD, 0, VERSION), ("select_random", 0, VERSION)}
    for (arm, *_), result in results.items():
        written = json.loads(
            (whole / "runs" / arm / ("" if arm == BEFORE else "seed_0/evaluated") / "eval.json").read_text()
        )
        for name, entry in written["benchmarks"].items():
            measured = result.benchmarks[name]
            assert measured.score == entry["score"] and measured.n == entry["n"]
            np.testing.assert_allclose(100 * measured.scores_N().mean(), entry["score"], atol=1e-3)
    method, other = results[METHOD, 0, VERSION], results["select_random", 0, VERSION]
    assert method.pairs != other.pairs and 0 < method.pairs["content"] < 1
    assert "gradient_cosine" in method.training and method.training["co_batching"] == 1
    assert 0 < method.training["co_batching_chance"] < 1 and method.seconds["training"] > 0
    assert "| random member | 1 |" in (whole / "selection.md").read_text()
    assert (whole / "selection.svg").stat().st_size > 2000


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_in_the_middle_it_ends_alike(whole: Path, tmp_path: Path, by: signal.Signals) -> None:
    arguments = command(tmp_path, "--workers", "2", "--threads", "1")
    code = stopped(arguments, tmp_path / "out" / "runs" / METHOD / "seed_0" / "metrics.jsonl", by)
    assert code == (-9 if by is signal.SIGKILL else 130)
    assert not (tmp_path / "out" / "selection.md").exists()
    assert "nothing is missing" in finish(arguments)
    assert comparable(tmp_path / "out" / "results.jsonl") == comparable(whole / "results.jsonl")


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (pairuni[cluster])")
def test_on_ray(whole: Path, tmp_path: Path) -> None:
    assert "nothing is missing" in finish(command(tmp_path, "--engine", "ray", "--threads", "1"))
    assert comparable(tmp_path / "out" / "results.jsonl") == comparable(whole / "results.jsonl")
