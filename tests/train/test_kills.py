"""Twenty kill -9 at random moments: every command that is started again ends as if it had never been killed.

`make kills` runs it, `make kills SEED=7` at other moments. Four kills each of complete (with a language model that
counts what it is paid for), pair, train with one process and with two, and eval.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from test_loop import fingerprint

from data_files import write_image, write_lines
from llm_server import Endpoint
from pairuni.runs import RunDir
from train_world import write_pairs

SEED = int(os.environ.get("PAIRUNI_KILL_SEED", "0"))
KILLS = 4
STEPS, FURTHER = 60, 6
"""Steps of a training run, and the most that a killed one is let ahead of its start: 4 x 6 is far below 60."""
Process = subprocess.Popen[bytes]


def start(*arguments: object, processes: int = 1) -> Process:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", "pairuni", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1" if processes > 1 else "2"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill(process: Process, rng: random.Random) -> None:
    """The whole command; where it has several processes sometimes one of them first, and the others a little later."""
    workers = psutil.Process(process.pid).children()
    if workers and rng.random() < 0.5:
        rng.choice(workers).kill()
        time.sleep(rng.uniform(0, 2))
    for each in workers:  # each in a session of its own
        with suppress(psutil.NoSuchProcess):
            each.kill()
    process.kill()
    process.wait()
    psutil.wait_procs(workers)


def kill_when(process: Process, reached: Callable[[], bool], rng: random.Random) -> None:
    while process.poll() is None and not reached():
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.2))
    assert process.poll() is None, "the command ended before it could be killed"
    kill(process, rng)


def kill_after(process: Process, seconds: float, rng: random.Random) -> None:
    try:
        process.wait(rng.uniform(0, seconds))
    except subprocess.TimeoutExpired:
        kill(process, rng)


def count(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def same_files(first: Path, second: Path, *names: str) -> None:
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


@pytest.mark.slow
def test_complete(tmp_path: Path) -> None:
    rng, samples, workers = random.Random(f"{SEED} complete"), 600, 8
    for n in range(5):
        write_image(tmp_path / f"images/{n}.png", np.full((24, 32, 3), 40 * n, dtype=np.uint8))
    image = {n: f"images/{n % 5}.png" for n in range(samples)}
    asked = [{"id": f"u{n}", "image_path": image[n], "question": f"What is {n}?", "answer": f"a {n}"} for n in image]
    told = [{"id": f"g{n}", "image_path": image[n], "prompt": f"a sight, number {n}"} for n in image]
    write_lines(tmp_path / "understanding.jsonl", asked)
    write_lines(tmp_path / "generation.jsonl", told)
    servers = {name: Endpoint(fail=0.2, time_out=0.3) for name in ("straight", "killed")}

    def complete(name: str) -> Process:
        llm = {"base_url": servers[name].url, "model": "m", "timeout": 0.2, "retries": 12, "concurrency": workers}
        options = {side: str(tmp_path / f"{side}.jsonl") for side in ("understanding", "generation")}
        options |= {"output": str(tmp_path / name), "completer": "llm", "llm": llm, "image_root": str(tmp_path)}  # pyright: ignore
        (tmp_path / f"{name}.yaml").write_text(json.dumps(options))  # JSON is YAML
        return start("complete", "--config", tmp_path / f"{name}.yaml")

    assert complete("straight").wait() == 0
    server = servers["killed"]
    for _ in range(KILLS):
        target = len(server.paid) + rng.randint(20, 250)
        kill_when(complete("killed"), lambda: len(server.paid) >= target, rng)  # noqa: B023
        assert not (tmp_path / "killed" / "quadruples.jsonl").exists()
    assert complete("killed").wait() == 0
    same_files(tmp_path / "straight", tmp_path / "killed", "quadruples.jsonl", "rejected.jsonl")
    texts = [path.read_text() for path in (tmp_path / "killed" / "ledger").glob("*.jsonl")]
    keys = [json.loads(line)["key"] for text in texts for line in text.splitlines()]
    assert len(keys) == len(set(keys)) and set(keys) == set(server.paid) == set(servers["straight"].paid)
    # What was in flight at a kill is asked again under its old key, which is not charged again; nothing else is.
    assert server.again <= KILLS * workers
    for each in servers.values():
        each.shutdown()


@pytest.mark.slow
def test_pair(tmp_path: Path) -> None:
    rng = random.Random(f"{SEED} pair")
    world = tmp_path / "world"
    assert start("shapes", "--output", world, "--understanding", 800, "--generation", 800).wait() == 0
    sources = ["--understanding", world / "understanding.jsonl", "--generation", world / "generation.jsonl"]
    assert start("complete", *sources, "--output", world).wait() == 0

    def pair(name: str) -> Process:
        options = ["--extractor", "colour_hog", "--clusters", 300, "--image_root", world]
        return start("pair", "--quadruples", world / "quadruples.jsonl", "--output", tmp_path / name, *options)

    began = time.monotonic()
    assert pair("straight").wait() == 0
    seconds = time.monotonic() - began
    for _ in range(KILLS):
        kill_after(pair("killed"), seconds, rng)
    assert pair("killed").wait() == 0
    same_files(tmp_path / "straight", tmp_path / "killed", "pairs.jsonl", "removed.jsonl", "unmatched.jsonl")
    assert [path.name for path in (tmp_path / "killed").glob(".*")] == [".pairuni.json"]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_train(processes: int, tmp_path: Path, tiny_janus_folder: Path) -> None:
    rng = random.Random(f"{SEED} train {processes}")
    pairs = write_pairs(tmp_path / "data")
    options = {
        "steps": STEPS,
        "model": {"path": str(tiny_janus_folder), "device": "cpu"},
        "data": {"pairs": str(pairs), "batch": 2},
        "rollout": {"rollouts": 4, "guidance": 2.0, "max_new_tokens": 6},
        "rewards": {"generation": "brightness"},
        "optim": {"lr": 1e-3},
        "log": {"samples_every": 10, "sample_prompts": 1, "checkpoint_every": 2, "keep_checkpoints": 2},
    }
    (tmp_path / "train.yaml").write_text(json.dumps(options))
    straight, killed = (RunDir(tmp_path / name) for name in ("straight", "killed"))

    def train(run: RunDir) -> Process:
        return start("train", "--config", tmp_path / "train.yaml", "--output", run.path, processes=processes)

    assert train(straight).wait() == 0
    for _ in range(KILLS):
        latest = killed.latest_checkpoint()
        target = (0 if latest is None else int(latest.name.removeprefix("step_"))) + rng.randint(1, FURTHER)
        before = changed(killed.metrics)
        # A resumed process first cuts the metrics back to its checkpoint, so the wait is for a line of its own.
        kill_when(train(killed), lambda: changed(killed.metrics) != before and count(killed.metrics) >= target, rng)  # noqa: B023
    assert count(killed.metrics) < STEPS
    assert train(killed).wait() == 0
    assert fingerprint(killed) == fingerprint(straight)
    assert not list((killed.path / "checkpoints").glob(".*"))


@pytest.mark.slow
def test_eval(tmp_path: Path, tiny_janus_folder: Path) -> None:
    rng = random.Random(f"{SEED} eval")
    questions, prompts = 600, 200
    kept = [f"answers_shapes_{side}.jsonl" for side in ("understanding", "generation")]

    def evaluate(name: str) -> Process:
        options = ["--questions", questions, "--prompts", prompts, "--batch", 4, "--device", "cpu"]
        return start("eval", "--model", tiny_janus_folder, "--output", tmp_path / name, *options)

    def answered() -> int:
        return sum(count(tmp_path / "killed" / name) for name in kept)

    assert evaluate("straight").wait() == 0
    for n in range(KILLS):
        target = (questions + prompts) * (n + rng.random()) / (KILLS + 1)
        kill_when(evaluate("killed"), lambda: answered() >= target, rng)  # noqa: B023
    assert evaluate("killed").wait() == 0
    same_files(tmp_path / "straight", tmp_path / "killed", "eval.json", *kept)
    assert answered() == questions + prompts


def changed(file: Path) -> int:
    return file.stat().st_mtime_ns if file.is_file() else 0
