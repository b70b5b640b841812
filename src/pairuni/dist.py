"""Processes: rank and world size, global sums, gradient sums, gathering. Everything is a no-op on one process.

Data parallelism here is an explicit sum of gradients: losses are already divided by global denominators
(algo/pair_grpo.py), so gradients are added over ranks, not averaged, and no module is wrapped. train/wrap.py shards;
watch.py names a missing rank.
Start with `torchrun --nproc-per-node N -m pairuni train ...`.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain, zip_longest
from typing import Any, TypeVar

import torch
import torch.distributed as td
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor, distribute_tensor

from pairuni.watch import LostRankError, Watch

T = TypeVar("T")
_BUCKET = 2**24  # gradient values that are summed in one call
_MISSING: Any = object()
_watch: Watch | None = None


def world() -> int:
    """The number of processes."""
    return td.get_world_size() if _active() else 1


def rank() -> int:
    """This process, from 0."""
    return td.get_rank() if _active() else 0


def is_main() -> bool:
    """True on the one process that writes files."""
    return rank() == 0


@contextmanager
def process_group(device: str, timeout: float) -> Iterator[str]:
    """Joins the process group of torchrun, yields this process' device, and leaves the group on exit.

    Without torchrun's environment, or inside a group that exists already, this joins nothing.

    Args:
        timeout: collective timeout in minutes. The other processes wait while the first one evaluates or writes a
            checkpoint; after the timeout the run ends, and the rank that is missing is named.

    Raises:
        LostRankError: another process is gone; it is named.
    """
    launched = not _active() and launched_size() > 1
    if launched:
        _join(_on_gpu(device), timeout)
    try:
        yield own_device(device)
    except RuntimeError as err:
        # What a collective raises names an address at best.
        lost = _watch.silent() if launched and _watch is not None and not isinstance(err, LostRankError) else []
        if lost:
            raise LostRankError(lost) from err
        raise
    finally:
        if launched:
            _leave()


def launched_size() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def own_device(device: str) -> str:
    """The device of this process: one GPU per local rank for "auto" and "cuda", otherwise `device` as it is."""
    if world() > 1 and _on_gpu(device) and device in ("auto", "cuda"):
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    return device


def _on_gpu(device: str) -> bool:
    return device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())


def _join(on_gpu: bool, timeout: float) -> None:
    global _watch
    store, own, size = next(iter(rendezvous("env://")))
    # Objects go over gloo, so that a waiting process is not a kernel that spins on its GPU. The watch names who is
    # missing before the collectives give up.
    limit = timedelta(minutes=timeout) * 1.25 + timedelta(minutes=1)
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    td.init_process_group(backend, store=store, rank=own, world_size=size, timeout=limit)
    _watch = Watch(store, own, size, 60 * timeout)


def _leave() -> None:
    global _watch
    if _watch is not None:
        _watch.close()
    _watch = None
    td.destroy_process_group()


@contextmanager
def _meeting() -> Iterator[None]:
    """Watches a collective: names a rank that does not reach it."""
    if _watch is None:
        yield
        return
    with _watch.meeting():
        yield


def barrier() -> None:
    """Waits for all processes."""
    all_gather(None)


def global_sum(value: float) -> float:
    """The sum over processes, in float64; the same on each of them."""
    return sum(all_gather(float(value)))


def any_rank(flag: bool) -> bool:
    """True on every process if `flag` is true on any of them."""
    return any(all_gather(flag))


def all_gather(value: T) -> list[T]:
    """Every process' value (anything that pickles), by rank."""
    if world() == 1:
        return [value]
    gathered: list[Any] = [None] * world()
    with _meeting():
        td.all_gather_object(gathered, value)
    return gathered


def broadcast(value: T) -> T:
    """The first process' value (anything that pickles)."""
    if world() == 1:
        return value
    box = [value]
    with _meeting():
        td.broadcast_object_list(box, src=0)
    return box[0]


def own_share(items: Sequence[T]) -> list[T]:
    """This process' items: rank, rank + world, ..."""
    return list(items[rank() :: world()])


def own_part(items: Sequence[T], width: int) -> tuple[list[T], range | None]:
    """This process' items, and its columns of each item's `width`; None means all columns.

    With an item or more per process, this is `own_share`. Fewer items are shared: processes rank, rank + items, ... get
    consecutive columns of one item, in the order of ranks. A process without a column gets no item.
    """
    if not items or len(items) >= world():
        return own_share(items), None
    team = range(rank() % len(items), world(), len(items))
    # Rounded up, so that an item's first columns are with the first of its processes.
    start, stop = (-(-width * place // len(team)) for place in (team.index(rank()), team.index(rank()) + 1))
    return [items[team.start]] if start < stop else [], range(start, stop)


def gather_rows(rows: Sequence[T]) -> list[T]:
    """Gathers rows of all processes, in the order before `own_share`."""
    interleaved = chain.from_iterable(zip_longest(*all_gather(list(rows)), fillvalue=_MISSING))
    return [row for row in interleaved if row is not _MISSING]


def all_reduce_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sums gradients over processes, in place.

    A parameter that has a gradient on one process only gets it on all; one without any keeps None. Those of sharded
    parameters are summed already.
    """
    parameters = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
    if world() == 1 or not parameters:
        return
    used = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
    td.all_reduce(used)
    pending = [p for p, count in zip(parameters, used.tolist(), strict=True) if count > 0]
    while pending:
        bucket, size = [], 0
        while pending and (not bucket or size + pending[0].numel() <= _BUCKET):
            bucket.append(pending.pop(0))
            size += bucket[-1].numel()
        _sum_bucket(bucket)


def full(tensor: Tensor) -> Tensor:
    """Gathers a tensor if it is sharded. All processes must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, other: Tensor) -> Tensor:
    """A whole tensor, the same on all processes, sharded as `other` is and on its device. All must call it."""
    if not isinstance(other, DTensor):
        return tensor.to(other.device, copy=True)
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements)


def _sum_bucket(parameters: Sequence[nn.Parameter]) -> None:
    grads: list[Tensor] = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([g.reshape(-1) for g in grads])
    td.all_reduce(flat)
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter).clone()


def _active() -> bool:
    return td.is_available() and td.is_initialized()
