"""Checkpoints: checkpoints/step_NNNNNN/{model/, state/}, each written as one folder, and the file `latest`.

No pickle: tensors are safetensors, the rest is JSON. Every file's hash is kept: a truncated or damaged checkpoint is
recognised, and the one before it is used. Weights come back bit by bit through the policy's own loader. A policy with
adapters has them merged in model/, in peft's format in adapters/, and what trains, exactly, in state/. Tensors are
whole, so that the number of processes may change. run.py writes metrics and samples.
"""

import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pairuni import dist
from pairuni.errors import InputError
from pairuni.files import atomic_path, file_hash, read_json, read_text, write_json, write_text
from pairuni.policies.base import Trainable
from pairuni.policies.lora import has_lora, merged, save_adapters
from pairuni.runs import RunDir
from pairuni.train.optim import Optimizer
from pairuni.train.wrap import whole_weights

_TRAINED = "trained.safetensors"
_NAME = re.compile(r"step_(\d{6,})")
_LEFT = re.compile(r"\.step_\d{6,}\..+|\.([a-z_]+\.(json|jsonl|yaml|html)|latest|best|inputs)\.(deleted|[a-z0-9_]{8})")


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    step: int
    """Finished steps."""
    sampler: dict[str, Any]
    """`PairSampler.state`."""
    config_hash: str
    skipped: int = 0
    """Updates in a row that were left out."""
    trackers: dict[str, str] = field(default_factory=dict)
    """Tracker -> the id of its run."""


def save_checkpoint(
    run: RunDir,
    policy: Trainable,
    optimizer: Optimizer,
    progress: Progress,
    keep: int,
    sharded: bool = False,
    base: str = "",
) -> Path:
    """Writes the checkpoint of `progress.step`, then points `latest` at it, then deletes all but the last `keep`.

    The one that `best` names stays. Killed at any moment it leaves the previous checkpoint or the new one. keep = 0
    deletes none. All processes call it; the first one writes.

    Args:
        sharded: the policy's weights are spread over processes.
        base: where the model that adapters belong to came from.
    """
    folder = run.checkpoint(progress.step)
    adapted = has_lora(policy.module)
    weights = whole_weights(policy) if adapted or sharded else None
    moments, states = optimizer.state(), dist.all_gather(_random_state())
    if not dist.is_main():
        return folder
    with _full_disk(), atomic_path(folder) as temporary:
        (temporary / "state").mkdir(parents=True)
        if weights is not None and adapted:
            policy.save(temporary / "model", merged(policy.module, weights))
            save_adapters(policy.module, weights, base, temporary / "adapters")
            trained = {name: weights[name].contiguous() for name, _ in policy.trainable()}
            save_file(trained, temporary / "state" / _TRAINED)
        else:
            policy.save(temporary / "model", weights)
        save_file(moments, temporary / "state" / "optimizer.safetensors")
        tensors = {f"{rank}/{name}": value for rank, (each, _) in enumerate(states) for name, value in each.items()}
        save_file(tensors, temporary / "state" / "random.safetensors")
        write_json(temporary / "state" / "state.json", vars(progress) | {"random": [plain for _, plain in states]})
        hashes = {path: file_hash(temporary / path) for path in _files(temporary)}
        write_json(temporary / "state" / "files.json", hashes)
    write_text(run.latest, folder.name + "\n")
    steps, best = checkpoint_steps(run), best_step(run)
    for step in [s for s in steps if s <= progress.step][:-keep] if keep else []:
        if step != best:
            remove_folder(run.checkpoint(step))
    return folder


def best_step(run: RunDir) -> int | None:
    """The step whose checkpoint `best` names, None without one."""
    named = _NAME.fullmatch(read_text(run.best).strip()) if run.best.is_file() else None
    return int(named.group(1)) if named and run.checkpoint(int(named.group(1))).is_dir() else None


def checkpoint_steps(run: RunDir) -> list[int]:
    """The steps that have a checkpoint folder, rising."""
    folder = run.path / "checkpoints"
    names = [_NAME.fullmatch(path.name) for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name.group(1)) for name in names if name)


def find_checkpoint(run: RunDir, warn: Callable[[str], None]) -> Path | None:
    """The checkpoint that `latest` names, or the newest one before it that is whole; None for a run without any.

    Args:
        warn: is told of each checkpoint that is passed over, and why.

    Raises:
        InputError: there are checkpoints, and none of them is whole, or `latest` is not text.
    """
    steps = checkpoint_steps(run)
    named = _NAME.fullmatch(run.latest_name() or "")
    if named and int(named.group(1)) in steps:
        steps = [step for step in steps if step <= int(named.group(1))]
    elif named:
        warn(f"{run.latest}: names {named.group()}, which does not exist")
    for step in reversed(steps):
        folder = run.checkpoint(step)
        damage = checkpoint_damage(folder)
        if damage is None:
            return folder
        warn(f"{folder}: {damage}; trying the checkpoint before it")
    if steps:
        raise InputError("none of the checkpoints is whole; move them away to start anew", file=run.latest.parent)
    return None


def read_progress(folder: Path) -> Progress:
    """The step, sampler state and config hash of a checkpoint. Raises InputError for a broken state.json."""
    path = folder / "state" / "state.json"
    state = read_json(path)
    for name in ("step", "sampler", "config_hash", "random"):
        if name not in state:
            raise InputError("is missing", file=path, field=name)
    kept = state.get("skipped", 0), state.get("trackers", {})
    return Progress(state["step"], state["sampler"], state["config_hash"], *kept)


def load_trained(folder: Path, policy: Trainable) -> None:
    """Loads what has trained since the start into a policy with adapters, which has the weights of the start.

    Raises:
        InputError: the file is broken, or of another model.
    """
    path = folder / "state" / _TRAINED
    named = dict(policy.trainable())
    try:
        trained = load_file(path)
        if trained.keys() != named.keys():
            raise ValueError(f"{len(trained.keys() ^ named.keys())} names are not those of what trains")
        with torch.no_grad():
            for name, parameter in named.items():
                parameter.copy_(trained[name])
    except (OSError, SafetensorError, ValueError, RuntimeError) as err:
        raise InputError(f"cannot be read: {err}", file=path) from None


def load_state(folder: Path, optimizer: Optimizer) -> None:
    """Restores optimiser and random generators from a checkpoint; weights come from `load_policy(folder/model)`.

    All processes call it. One that the checkpoint has no random state of takes that of the first.

    Raises:
        InputError: a file is broken, or the optimiser state is of another model.
    """
    path = folder / "state" / "optimizer.safetensors"
    try:
        optimizer.load_state(load_file(path))
        tensors = load_file(folder / "state" / "random.safetensors")
    except (OSError, SafetensorError, ValueError) as err:
        raise InputError(f"cannot be read: {err}", file=path.parent) from None
    plain = read_json(folder / "state" / "state.json")["random"]
    rank = dist.rank() if dist.rank() < len(plain) else 0
    own = {name.removeprefix(f"{rank}/"): value for name, value in tensors.items() if name.startswith(f"{rank}/")}
    _set_random_state(own, plain[rank])


def remove_folder(folder: Path) -> None:
    """Deletes a folder. Killed half-way, it leaves a hidden folder, never part of a visible one."""
    hidden = folder.with_name(f".{folder.name}.deleted")
    shutil.rmtree(hidden, ignore_errors=True)
    folder.rename(hidden)
    shutil.rmtree(hidden)


def remove_leftovers(folder: Path) -> None:
    """Deletes the hidden files that killed writers left: `.NAME.xxxxxxxx` and `.NAME.deleted`, no others."""
    for path in folder.glob(".*") if folder.is_dir() else []:
        if not _LEFT.fullmatch(path.name):
            continue
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def _files(folder: Path) -> list[str]:
    """Paths of all files under `folder`, relative to it, but for the list of hashes itself."""
    paths = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return [path for path in paths if path != "state/files.json"]


def checkpoint_damage(folder: Path) -> str | None:
    """Describes what is damaged in a checkpoint; None if it is whole."""
    try:
        hashes = read_json(folder / "state" / "files.json")
    except InputError as err:
        return str(err)
    present = _files(folder)
    for path, expected in hashes.items():
        if path not in present:
            return f"{path} is missing"
        if file_hash(folder / path) != expected:
            return f"{path} is damaged or cut short"
    return None


@contextmanager
def _full_disk() -> Iterator[None]:
    """A full disk as the OSError that it is: safetensors' own error only mentions it."""
    try:
        yield
    except SafetensorError as err:
        found = re.search(r"os error (\d+)", str(err))
        if not found:
            raise
        raise OSError(int(found.group(1)), os.strerror(int(found.group(1)))) from err


def _random_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The global generators: tensors, and what is plain. On the GPU, those of the current device."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    version, internal, next_gauss = random.getstate()
    tensors = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64))}
    tensors["python"] = torch.tensor(internal, dtype=torch.int64)
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    return tensors, {"numpy": [name, position, has_gauss, gauss], "python": [version, next_gauss]}


def _set_random_state(tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    name, position, has_gauss, gauss = plain["numpy"]
    np.random.set_state((name, tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, gauss))
    version, next_gauss = plain["python"]
    random.setstate((version, tuple(tensors["python"].tolist()), next_gauss))
    torch.set_rng_state(tensors["torch"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
