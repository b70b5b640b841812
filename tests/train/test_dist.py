"""Two gloo processes against one: gradients, metrics and whole runs of the same global batch."""

import json
import os
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from train_world import make_config, read_halves, roll_out

from pairuni import dist
from pairuni.config import DataConfig, LogConfig, OptimConfig, TrainConfig
from pairuni.policies import load_policy
from pairuni.records import Side
from pairuni.runs import RunDir, comparable
from pairuni.train.loop import train
from pairuni.train.optim import Optimizer
from pairuni.train.step import train_step

OPTIM = OptimConfig(lr=1e-6, max_grad_norm=0)


def one_step(config: TrainConfig, out: Path) -> None:
    """The gradient of three pairs (understanding) and one (generation), so that a process has no image at all."""
    policy = load_policy(config.model.path, device="cpu")
    halves = read_halves(Path(config.data.pairs))
    counts = {Side.UNDERSTANDING: 3, Side.GENERATION: 1}
    own = {side: dist.own_share(halves[side][: counts[side]]) for side in Side}
    optimizer = Optimizer(policy.trainable(), config.optim)
    row = train_step(policy, roll_out(policy, own, config), optimizer, config, 1)
    if dist.is_main():
        grads = {n: p.grad.contiguous() for n, p in policy.trainable() if p.grad is not None}
        save_file(grads, out / "grads.safetensors")
        (out / "row.json").write_text(json.dumps(comparable(row)))


def worker(rank: int, ports: tuple[int, int], config: TrainConfig, out: Path) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(ports[0])}
    torch.set_num_threads(1)
    with dist.process_group("cpu") as device:
        assert (device, dist.rank(), dist.world(), dist.is_main()) == ("cpu", rank, 2, rank == 0)
        assert dist.gather_rows(dist.own_share(list(range(5)))) == [0, 1, 2, 3, 4]
        assert dist.global_sum(rank + 1) == 3 and dist.any_rank(rank == 1) and not dist.any_rank(False)
        assert dist.broadcast(f"from {rank}") == "from 0"
        one_step(config, out)
    assert dist.world() == 1
    os.environ["MASTER_PORT"] = str(ports[1])
    train(config)


def free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]


def test_two_processes_do_what_one_does(tmp_path: Path, tiny_janus_folder: Path, pairs_file: Path) -> None:
    folders = {name: tmp_path / name for name in ("one", "two")}
    configs = {}
    for name, folder in folders.items():
        folder.mkdir()
        data = DataConfig(pairs=str(pairs_file), batch=3)
        log = LogConfig(samples_every=2, sample_prompts=1, checkpoint_every=2, gradient_cosine_every=1)
        configs[name] = make_config(folder / "run", tiny_janus_folder, pairs_file, data=data, optim=OPTIM, log=log)
    one_step(configs["one"], folders["one"])
    train(configs["one"])
    mp.spawn(worker, args=(free_ports(), configs["two"], folders["two"]), nprocs=2)

    expected, got = (load_file(folder / "grads.safetensors") for folder in folders.values())
    assert expected.keys() == got.keys() and any("generation_head" in name for name in got)
    assert max(float(grad.abs().max()) for grad in expected.values()) > 1e-3
    for name, grad in expected.items():
        assert (grad - got[name]).abs().max() < 1e-6, name
    rows = [json.loads((folder / "row.json").read_text()) for folder in folders.values()]
    assert rows[0].keys() == rows[1].keys() and abs(rows[0]["gradient_cosine"]) > 1e-3
    for key, value in rows[0].items():
        assert rows[1][key] == pytest.approx(value, rel=1e-4, abs=1e-5), key

    runs = [RunDir(Path(config.output)) for config in configs.values()]
    for alone, shared in zip(*(run.read_metrics() for run in runs), strict=True):
        for key, value in comparable(alone).items():
            assert shared[key] == pytest.approx(value, rel=1e-4, abs=1e-5), key
    samples = [(run.samples(2) / "samples.jsonl").read_text() for run in runs]
    assert samples[0].count("\n") == 8
    assert [json.loads(x)["rollout"] for x in samples[0].splitlines()] == [
        json.loads(x)["rollout"] for x in samples[1].splitlines()
    ]


def test_one_process_needs_no_group() -> None:
    with dist.process_group("cpu") as device:
        assert device == "cpu" and dist.world() == 1 and dist.is_main()
        assert dist.own_share([1, 2, 3]) == dist.gather_rows([1, 2, 3]) == [1, 2, 3]
        assert dist.global_sum(2) == 2.0 and dist.any_rank(True)
        parameter = torch.nn.Parameter(torch.ones(2))
        dist.all_reduce_gradients([parameter])
        assert parameter.grad is None
