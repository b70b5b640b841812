"""Two gloo processes against one, replicated and sharded: gradients, metrics, whole runs of the same global batch."""

import dataclasses
import json
import multiprocessing
import os
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor

from pairuni import dist
from pairuni.config import (
    DataConfig,
    LogConfig,
    LoraOptions,
    ModelConfig,
    OptimConfig,
    PairSelectionConfig,
    RolloutConfig,
    TrainConfig,
)
from pairuni.errors import InputError
from pairuni.policies import load_policy
from pairuni.policies.base import Actor, Policy
from pairuni.runs import RunDir, comparable
from pairuni.train.loop import train
from pairuni.train.optim import Optimizer
from pairuni.train.wrap import ShardedPolicy, gathered
from pairuni.trainer import Trainer
from pairuni.types import Side
from train_world import make_config, read_halves, roll_out, take_step

OPTIM = OptimConfig(lr=1e-6, max_grad_norm=0)
WAYS = ("ddp", "fsdp")
# Each process is forked from one that has imported these: importing takes longer than what most tests here do.
multiprocessing.set_forkserver_preload(["pairuni.trainer", "pairuni.policies.janus.policy", "pairuni.train.wrap"])


def one_step(config: TrainConfig, out: Path, counts: dict[Side, int], micro_batch: int = 3) -> None:
    """The gradient of some pairs a side; chunks of three rows, so that processes have unequal numbers of them."""
    policy: Policy = load_policy(config.model.path, device="cpu")
    actor: Actor = policy
    if config.distributed == "fsdp" and dist.world() > 1:
        actor = ShardedPolicy(policy)
        layers = [p for name, p in policy.trainable() if ".layers." in name]
        assert layers and all(isinstance(p, DTensor) and p.to_local().numel() <= p.numel() / 2 + 64 for p in layers)
    halves = read_halves(Path(config.data.pairs))
    parts = {side: dist.own_part(halves[side][: counts[side]], config.rollout.rollouts) for side in Side}
    own = {side: items for side, (items, _) in parts.items()}
    columns = {side: part for side, (_, part) in parts.items()}
    optimizer = Optimizer(policy.trainable(), config.optim)
    with gathered(actor):
        batch = roll_out(actor, own, config, columns=columns)
    row = take_step(actor, batch, optimizer, dataclasses.replace(config, micro_batch=micro_batch), 1)
    grads = {name: dist.full(p.grad).contiguous() for name, p in policy.trainable() if p.grad is not None}
    if dist.is_main():
        save_file(grads, out / "grads.safetensors")
        (out / "row.json").write_text(json.dumps(comparable(row)))


def worker(rank: int, size: int, port: int, call: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    call(*arguments)


def in_two(call: Callable[..., None], *arguments: Any, processes: int = 2) -> None:
    """The call in each of two (or more) processes that torchrun might have started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = (processes, port, call, arguments)
    mp.start_processes(worker, args=arguments, nprocs=processes, start_method="forkserver")


def step_of_two(config: TrainConfig, out: Path, counts: dict[Side, int], micro_batch: int = 3) -> None:
    with dist.process_group("cpu", 120) as device:
        assert device == "cpu" and dist.world() == 2 and dist.is_main() == (dist.rank() == 0)
        assert dist.gather_rows(dist.own_share(list(range(5)))) == [0, 1, 2, 3, 4]
        assert dist.global_sum(dist.rank() + 1) == 3 and not dist.any_rank(False)
        assert dist.any_rank(dist.rank() == 1) and dist.broadcast(f"from {dist.rank()}") == "from 0"
        one_step(config, out, counts, micro_batch)
    assert dist.world() == 1


def run(config: TrainConfig) -> None:
    with dist.process_group("cpu", 120):
        train(config)


@pytest.mark.parametrize("distributed", WAYS)
@pytest.mark.parametrize("images", [1, 3])
def test_two_processes_have_the_gradient_of_one(
    images: int, distributed: str, tmp_path: Path, tiny_janus_folder: Path, pairs_file: Path
) -> None:
    """Three groups on two processes, and one group that spans them: two of its rollouts on each."""
    counts = {Side.UNDERSTANDING: 3, Side.GENERATION: images}
    log = LogConfig(gradient_cosine_every=int(distributed == "ddp"))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        config = make_config(
            tmp_path / name / "run", tiny_janus_folder, pairs_file, optim=OPTIM, log=log, distributed=distributed
        )
        if name == "one":
            one_step(config, tmp_path / name, counts)
        else:
            in_two(step_of_two, config, tmp_path / name, counts)
    expected, got = (load_file(tmp_path / name / "grads.safetensors") for name in ("one", "two"))
    assert expected.keys() == got.keys() and any("generation_head" in name for name in got)
    assert max(float(grad.abs().max()) for grad in expected.values()) > 1e-3
    for name, grad in expected.items():
        assert (grad - got[name]).abs().max() < 1e-6, name
    same_row(*(json.loads((tmp_path / name / "row.json").read_text()) for name in ("one", "two")))


@pytest.mark.parametrize("counts", [(3, 1), (0, 2)])
def test_two_processes_have_the_mixed_denominator_of_one(
    counts: tuple[int, int], tmp_path: Path, tiny_janus_folder: Path, pairs_file: Path
) -> None:
    """Mode vanilla; one process is held against a flat loop in test_denominators.py."""
    results = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        config = make_config(
            tmp_path / name / "run",
            tiny_janus_folder,
            pairs_file,
            optim=OPTIM,
            pair_selection=PairSelectionConfig(mode="vanilla"),
        )
        drawn = dict(zip(Side, counts, strict=True))
        if name == "one":
            one_step(config, tmp_path / name, drawn)
        else:
            in_two(step_of_two, config, tmp_path / name, drawn)
        results.append(load_file(tmp_path / name / "grads.safetensors"))
    expected, got = results
    assert expected.keys() == got.keys() and max(float(grad.abs().max()) for grad in expected.values()) > 1e-3
    for name, grad in expected.items():
        assert (grad - got[name]).abs().max() < 1e-6, name


def test_metrics_are_identical_where_products_are(tmp_path: Path, tiny_janus_folder: Path, pairs_file: Path) -> None:
    """Prompt by prompt and row by row both do the same products: all that is left is the order of sums over processes.

    Elsewhere two processes have other rows side by side than one, and a product's last bit depends on its shape.
    """
    rows = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        config = make_config(tmp_path / name / "run", tiny_janus_folder, pairs_file, optim=OPTIM)
        config = dataclasses.replace(config, rollout=dataclasses.replace(config.rollout, prompts_per_call=1))
        counts = dict.fromkeys(Side, 3)
        if name == "one":
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            one_step(config, tmp_path / name, counts, 1)
            torch.set_num_threads(threads)
        else:
            in_two(step_of_two, config, tmp_path / name, counts, 1)
        rows.append(json.loads((tmp_path / name / "row.json").read_text()))
    assert rows[0].keys() == rows[1].keys() and len(rows[0]) > 30
    apart = {key: (value, rows[1][key]) for key, value in rows[0].items() if value != rows[1][key]}
    for key, (alone, shared) in apart.items():
        assert shared == pytest.approx(alone, rel=1e-6 if key == "grad_norm" else 1e-12), key
    print(f"{len(rows[0]) - len(apart)} of {len(rows[0])} metrics equal bit for bit; others: {sorted(apart)}")


def same_row(expected: dict[str, Any], got: dict[str, Any]) -> None:
    """Equal but for rounding: what is scored beside other rows, or summed in another order, differs in its last bit."""
    assert expected.keys() == got.keys()
    for key, value in expected.items():
        assert got[key] == pytest.approx(value, rel=1e-4, abs=1e-5), key


def same_run(expected: RunDir, got: RunDir) -> None:
    for alone, shared in zip(expected.read_metrics(), got.read_metrics(), strict=True):
        same_row(comparable(alone), comparable(shared))
    last = len(expected.read_metrics())
    samples = [(each.samples(last) / "samples.jsonl").read_text().splitlines() for each in (expected, got)]
    assert len(samples[0]) == 8
    for before, after in zip(*samples, strict=True):
        assert json.loads(before)["advantage"] == pytest.approx(json.loads(after)["advantage"], abs=1e-4)
    weights = [load_file(each.checkpoint(last) / "model" / "model.safetensors") for each in (expected, got)]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=2e-5, msg=name)


@pytest.mark.parametrize("distributed", WAYS)
@pytest.mark.parametrize("lora", [0, 2])
def test_a_run_goes_on_with_another_number_of_processes(
    distributed: str, lora: int, tmp_path: Path, tiny_janus_folder: Path, pairs_file: Path
) -> None:
    """From 1 to 2 processes and back, beside one process all the way."""
    log = LogConfig(samples_every=2, sample_prompts=1, checkpoint_every=2, keep_checkpoints=0)

    def config(name: str, steps: int) -> TrainConfig:
        model = ModelConfig(path=str(tiny_janus_folder), device="cpu", lora=LoraOptions(rank=lora))
        data = DataConfig(pairs=str(pairs_file), batch=1 if lora else 3)  # one group spans both processes
        return make_config(
            tmp_path / name, tiny_janus_folder, pairs_file,
            steps=steps, model=model, data=data, optim=OPTIM, log=log, distributed=distributed, kl_beta=0.01,
        )  # fmt: skip

    train(config("straight", 6))
    train(config("moved", 2))
    in_two(run, config("moved", 4))
    train(config("moved", 6))
    straight, moved = (RunDir(tmp_path / name) for name in ("straight", "moved"))
    same_run(straight, moved)
    if lora:
        assert (moved.checkpoint(6) / "adapters" / "adapter_model.safetensors").is_file()


def refused(few: TrainConfig, vanilla: TrainConfig) -> None:
    with pytest.raises(InputError, match="Trainer"):
        train(few)  # without the other processes
    with dist.process_group("cpu", 120):
        with pytest.raises(InputError, match="3 processes have 1 groups of 2 rollouts, some would have none"):
            train(few)
        with pytest.raises(InputError, match="needs distributed: ddp"):
            train(vanilla)


def test_what_cannot_be_sharded_is_refused(tmp_path: Path, tiny_janus_folder: Path, pairs_file: Path) -> None:
    data = DataConfig(pairs=str(pairs_file), batch=1)
    few = {"data": data, "rollout": RolloutConfig(rollouts=2), "distributed": "fsdp"}
    vanilla = {"pair_selection": PairSelectionConfig(mode="vanilla"), "distributed": "fsdp"}
    configs = [make_config(tmp_path / "run", tiny_janus_folder, pairs_file, **options) for options in (few, vanilla)]
    in_two(refused, *configs, processes=3)
    with pytest.raises(InputError, match="which distributed: fsdp never has"):
        log = LogConfig(gradient_cosine_every=1)
        make_config(tmp_path / "run", tiny_janus_folder, pairs_file, log=log, distributed="fsdp")


@pytest.mark.parametrize(
    ("processes", "items", "width"), [(1, 3, 4), (3, 5, 2), (5, 2, 4), (8, 3, 2), (4, 1, 4), (3, 0, 4)]
)
def test_items_and_columns_are_spread(processes: int, items: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every column of every item is with one process, in the order of ranks; nobody has all where somebody has none."""
    monkeypatch.setattr(dist, "world", lambda: processes)
    taken: list[tuple[int, int]] = []
    sizes = []
    for rank in range(processes):
        monkeypatch.setattr(dist, "rank", lambda rank=rank: rank)
        own, columns = dist.own_part(list(range(items)), width)
        cells = [(item, column) for item in own for column in (range(width) if columns is None else columns)]
        assert columns is None or len(own) == bool(columns)
        assert (columns is None) == (items == 0 or items >= processes)
        if columns is not None and own:
            assert (columns.start == 0) == (rank < items), "gather_rows takes the first of an item's processes in order"
        taken += cells
        sizes.append(len(cells))
    assert sorted(taken) == [(item, column) for item in range(items) for column in range(width)]
    for item in range(items):
        assert [column for it, column in taken if it == item] == list(range(width))
    if 0 < items < processes <= items * width:
        assert min(sizes) > 0


def test_one_process_needs_no_group() -> None:
    with dist.process_group("cpu", 120) as device:
        assert device == "cpu" and dist.world() == 1 and dist.is_main()
        assert dist.own_share([1, 2, 3]) == dist.gather_rows([1, 2, 3]) == [1, 2, 3]
        assert dist.global_sum(2) == 2.0 and dist.any_rank(True)
        parameter = torch.nn.Parameter(torch.ones(2))
        dist.all_reduce_gradients([parameter])
        assert parameter.grad is None


def test_the_collective_timeout_of_a_run_reaches_its_process_group(
    pairs_file: Path, tiny_janus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainer opens the only group, before it makes data."""

    class Joined(Exception):
        """With the timeout that was asked for."""

    def join(backend: str, *, timeout: timedelta, **_: Any) -> None:
        raise Joined(timeout)

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(dist, "rendezvous", lambda url: iter([(None, 0, 2)]))
    monkeypatch.setattr(dist.td, "init_process_group", join)
    config = make_config(tmp_path / "run", tiny_janus_folder, pairs_file)
    with pytest.raises(Joined) as caught:
        Trainer(dataclasses.replace(config, collective_timeout=4.0)).fit()
    assert caught.value.args == (timedelta(minutes=6),)  # a quarter and a minute more than the watch waits
