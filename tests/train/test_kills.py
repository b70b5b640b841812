"""Twenty kill -9 at random moments: every command that is started again ends as if it had never been killed.

`make kills` runs it, `make kills SEED=7` at other moments. Four kills each of complete (with a language model that
counts what it is paid for), pair, train with one process and with two, and eval.
"""

import json
import os
import random
import socket
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_loop import fingerprint

from data_files import write_image, write_lines
from forks import Command
from llm_server import Endpoint
from pairuni.runs import RunDir
from train_world import write_pairs

SEED = int(os.environ.get("PAIRUNI_KILL_SEED", "0"))
KILLS = 4
STEPS, FURTHER = 40, 4
"""Steps of a training run, and the most that a killed one is let ahead of its start: 4 x 4 is far below 40."""
Processes = list[Command]


def start(*arguments: object, processes: int = 1) -> Processes:
    """`pairuni`; several processes find each other as those of torchrun do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        world = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    ranks: list[dict[str, str]] = [world | {"RANK": str(n)} for n in range(processes)] if processes > 1 else [{}]
    return [Command(*arguments, environment=rank) for rank in ranks]


def finish(processes: Processes) -> None:
    assert [process.wait() for process in processes] == [0] * len(processes)


def kill(processes: Processes, rng: random.Random) -> None:
    """All processes; where there are several, sometimes one of them first, and the others a little later."""
    if len(processes) > 1 and rng.random() < 0.5:
        rng.choice(processes).kill()
        time.sleep(rng.uniform(0, 2))
    for process in processes:
        process.kill()
        process.wait()


def kill_when(processes: Processes, reached: Callable[[], bool], rng: random.Random) -> None:
    while all(process.poll() is None for process in processes) and not reached():
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.2))
    assert all(process.poll() is None for process in processes), "the command ended before it could be killed"
    kill(processes, rng)


def kill_after(processes: Processes, seconds: float, rng: random.Random) -> None:
    time.sleep(rng.uniform(0, seconds))
    kill(processes, rng)


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

    def complete(name: str) -> Processes:
        llm = {"base_url": servers[name].url, "model": "m", "timeout": 0.2, "retries": 12, "concurrency": workers}
        options = {side: str(tmp_path / f"{side}.jsonl") for side in ("understanding", "generation")}
        options |= {"output": str(tmp_path / name), "completer": "llm", "llm": llm, "image_root": str(tmp_path)}  # pyright: ignore
        (tmp_path / f"{name}.yaml").write_text(json.dumps(options))  # JSON is YAML
        return start("complete", "--config", tmp_path / f"{name}.yaml")

    finish(complete("straight"))
    server = servers["killed"]
    for _ in range(KILLS):
        target = len(server.paid) + rng.randint(20, 250)
        kill_when(complete("killed"), lambda: len(server.paid) >= target, rng)  # noqa: B023
        assert not (tmp_path / "killed" / "quadruples.jsonl").exists()
    finish(complete("killed"))
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
    finish(start("shapes", "--output", world, "--understanding", 800, "--generation", 800))
    sources = ["--understanding", world / "understanding.jsonl", "--generation", world / "generation.jsonl"]
    finish(start("complete", *sources, "--output", world))

    def pair(name: str) -> Processes:
        options = ["--extractor", "colour_hog", "--clusters", 300, "--image_root", world]
        return start("pair", "--quadruples", world / "quadruples.jsonl", "--output", tmp_path / name, *options)

    began = time.monotonic()
    finish(pair("straight"))
    seconds = time.monotonic() - began
    for _ in range(KILLS):
        kill_after(pair("killed"), seconds, rng)
    finish(pair("killed"))
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

    def train(run: RunDir) -> Processes:
        return start("train", "--config", tmp_path / "train.yaml", "--output", run.path, processes=processes)

    finish(train(straight))
    for _ in range(KILLS):
        latest = killed.latest_checkpoint()
        target = (0 if latest is None else int(latest.name.removeprefix("step_"))) + rng.randint(1, FURTHER)
        before = changed(killed.metrics)
        # A resumed process first cuts the metrics back to its checkpoint, so the wait is for a line of its own.
        kill_when(train(killed), lambda: changed(killed.metrics) != before and count(killed.metrics) >= target, rng)  # noqa: B023
    assert count(killed.metrics) < STEPS
    finish(train(killed))
    assert fingerprint(killed) == fingerprint(straight)
    assert not list((killed.path / "checkpoints").glob(".*"))


@pytest.mark.slow
def test_eval(tmp_path: Path, tiny_janus_folder: Path) -> None:
    rng = random.Random(f"{SEED} eval")
    questions, prompts = 600, 200
    kept = [f"answers_shapes_{side}.jsonl" for side in ("understanding", "generation")]

    def evaluate(name: str) -> Processes:
        options = ["--questions", questions, "--prompts", prompts, "--batch", 4, "--device", "cpu"]
        return start("eval", "--model", tiny_janus_folder, "--output", tmp_path / name, *options)

    def answered() -> int:
        return sum(count(tmp_path / "killed" / name) for name in kept)

    finish(evaluate("straight"))
    for n in range(KILLS):
        target = (questions + prompts) * (n + rng.random()) / (KILLS + 1)
        kill_when(evaluate("killed"), lambda: answered() >= target, rng)  # noqa: B023
    finish(evaluate("killed"))
    same_files(tmp_path / "straight", tmp_path / "killed", "eval.json", *kept)
    assert answered() == questions + prompts


def changed(file: Path) -> int:
    return file.stat().st_mtime_ns if file.is_file() else 0
