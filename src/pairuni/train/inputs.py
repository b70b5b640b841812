"""inputs.json of a run: hashes of everything that it began with, compared when the run is continued.

An image's hash is recorded when training first opens it (inputs/rank_NNNNN.jsonl) and compared when a continued run
opens it, because hashing all images at the start would take long.
"""

import json
import sys
from pathlib import Path
from typing import Any

from pairuni.config import RewardConfig
from pairuni.errors import InputError
from pairuni.files import file_hash, read_json, to_json_line
from pairuni.policies.source import hub_revision, resolve_model, weight_files
from pairuni.rewards import load_reward
from pairuni.runs import RunDir

_NAMED = ("weights", "tokenizer", "colours")
"""Options of rewards that name a file or a folder."""


def input_record(pairs: str, model: str, rewards: RewardConfig) -> dict[str, Any]:
    """SHA-256 of pairs.jsonl, of each weight file, and of the files of rewards where there are any.

    Of a model on the Hub the revision, None where it is not known. Raises InputError: there is no model of that name.
    """
    record = {"pairs": {"path": pairs, "sha256": file_hash(pairs)}, "model": model_record(model)}
    found = reward_record(rewards)
    return record | ({"rewards": found} if found else {})


def model_record(path: str) -> dict[str, Any]:
    """The part of `input_record` that is about the model. Raises InputError: there is no model of that name."""
    source = resolve_model(path)
    model: dict[str, Any] = {"path": path}
    if isinstance(source, Path):
        model["sha256"] = {file.relative_to(source).as_posix(): file_hash(file) for file in weight_files(source)}
    else:
        model["revision"] = hub_revision(source)
    return model


def reward_record(rewards: RewardConfig) -> dict[str, Any]:
    """By file, the SHA-256 of the user's own reward functions and of local weights; by hub id, the revision."""
    record: dict[str, Any] = {}
    names = {name for which in ("understanding", "generation", "held_out") for name in rewards.names(which)}
    for name in sorted(names):
        module = sys.modules.get(name.partition(":")[0]) if ":" in name else None
        file = getattr(module, "__file__", None)
        if file is not None:
            record[name] = file_hash(file)
        published = {} if ":" in name else getattr(load_reward(name, None, rewards.options.get(name)), "published", {})
        for option in _NAMED:
            value = getattr(rewards.options.get(name), option, None) or published.get(option)
            if value is not None:
                record |= _named_record(f"{name}.{option}", value)
    return record


def check_inputs(run: RunDir, model: str, use: str, rewards: RewardConfig) -> None:
    """Compares the inputs of a continued run with its inputs.json. The sampler compares the pairs.

    A run of an earlier version may have recorded less: what is not recorded is not compared.

    Args:
        model: which the run began with.
        use: what a continued run needs it for, as words of a message; "" where it does not.

    Raises:
        InputError: naming what changed: a weight file, the revision, or a file of a reward.
    """
    if not run.inputs.is_file():
        return
    before = read_json(run.inputs)
    if use:
        _check_model(before.get("model", {}), model_record(model), use)
    old, new = before.get("rewards", {}), reward_record(rewards)
    for name in sorted(old.keys() & new.keys()):
        if old[name] != new[name]:
            message = f"{name} is not what the run was rewarded with before ({_short(old[name])} there, "
            message += f"{_short(new[name])} now, by {run.inputs}); restore it, or choose another output"
            raise InputError(message, field="rewards")


class OpenedImages:
    """Hashes of the images that a run has opened. One per process."""

    def __init__(self, run: RunDir, rank: int) -> None:
        """Reads the hashes that earlier calls recorded. Writes nothing yet."""
        self._own = run.opened / f"rank_{rank:05d}.jsonl"
        self._known: dict[str, str] = {}
        self._seen: set[str] = set()
        for file in sorted(run.opened.glob("rank_*.jsonl")) if run.opened.is_dir() else []:
            for line in file.read_bytes().split(b"\n")[:-1]:  # the last one may be torn
                row = json.loads(line)
                self._known.setdefault(row["image_path"], row["sha256"])

    def look(self, image_path: str, place: Path) -> None:
        """Records the image's hash. Raises InputError if the run has seen another content under this name."""
        if image_path in self._seen or not place.is_file():
            return
        digest = file_hash(place)
        known = self._known.get(image_path)
        if known is not None and known != digest:
            message = f"is another image than the one that this run was trained on ({known[:12]} there, "
            raise InputError(f"{message}{digest[:12]} now); restore it, or choose another output", file=place)
        self._seen.add(image_path)
        if known is not None:
            return
        self._own.parent.mkdir(exist_ok=True)
        with self._own.open("ab") as file:
            file.write(to_json_line({"image_path": image_path, "sha256": digest}).encode() + b"\n")


def _check_model(old: dict[str, Any], new: dict[str, Any], use: str) -> None:
    hint = f"; {use} it, so restore it, or choose another output"
    if old.get("revision") and new.get("revision") and old["revision"] != new["revision"]:
        message = f"{new['path']} is at revision {new['revision']}, but the run began with {old['revision']}{hint}"
        raise InputError(message, field="model.path")
    before, after = old.get("sha256") or {}, new.get("sha256") or {}
    if not any("/" in name for name in before):  # earlier versions recorded no sub-folders
        after = {name: digest for name, digest in after.items() if "/" not in name}
    for name in sorted(before.keys() | after.keys()) if before and "sha256" in new else ():
        if before.get(name) != after.get(name):
            message = f"{Path(new['path']) / name} is not what the run began with ({_short(before.get(name))} there, "
            raise InputError(f"{message}{_short(after.get(name))} now){hint}", field="model.path")


def _named_record(name: str, value: str) -> dict[str, Any]:
    path = Path(value).expanduser()
    if path.is_file():
        return {name: file_hash(path)}
    if path.is_dir():
        return {f"{name}/{file.name}": file_hash(file) for file in sorted(path.iterdir()) if file.is_file()}
    revision = hub_revision(value) if value.count("/") == 1 else None
    return {} if revision is None else {name: revision}


def _short(digest: str | None) -> str:
    return "absent" if digest is None else digest[:12]
