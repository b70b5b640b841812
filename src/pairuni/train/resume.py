"""Prepares a run directory: a new one, or one that goes on from its latest whole checkpoint.

A run is continued only under the config that it began with; `FREE` names the fields that may differ. Metrics, samples
and evaluations after the checkpoint are removed, because the continued run writes them again.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pairuni.config.renamed import new_name
from pairuni.errors import InputError
from pairuni.files import check_folder, write_json, write_jsonl, write_text
from pairuni.outputs import RECORD, Outputs
from pairuni.progress import say
from pairuni.runs import RunDir, environment, read_steps
from pairuni.streams import other_streams
from pairuni.train.checkpoint import (
    Progress,
    best_step,
    checkpoint_steps,
    find_checkpoint,
    read_progress,
    remove_folder,
    remove_leftovers,
)

FILES = ("config.yaml", "environment.json", "inputs.json", "eval.json")
_FIRST = (
    "too_long.jsonl",
    *(f"eval_{when}/eval{end}.json" for when in ("before", "after") for end in ("", "_state")),
)
"""Also looked at before a new run begins. Earlier versions kept no record of them, and their runs may be continued."""
_GROW = ("eval_before/answers_*.jsonl", "eval_after/answers_*.jsonl")
FREE = (
    "output",
    "overwrite",
    "steps",
    "micro_batch",
    "micro_tokens",
    "model.device",
    "model.cuda_graphs",
    "model.gradient_checkpointing",
    "rollout.prompts_per_call",
    "data.shapes",
    "distributed",
    "collective_timeout",
    "optim.max_skipped",
    "rewards.options.http.",
    "log.",
    "eval.",
)
"""Fields, and prefixes of fields, that may differ when a run is continued: they change no result beyond the order of
sums, and a run that has met its memory's end must be able to go on."""


@dataclass(frozen=True)
class ResumePoint:
    """Where training begins: the checkpoint to load and its progress, both None for a new run."""

    checkpoint: Path | None
    progress: Progress | None

    @property
    def step(self) -> int:
        """Finished steps."""
        return 0 if self.progress is None else self.progress.step


Settings = Mapping[str, Any]
"""The resolved config, flat: values by dotted field names."""


def config_hash(settings: Settings) -> str:
    """SHA-256 of all fields that must not change within a run."""
    bound = {name: value for name, value in settings.items() if not name.startswith(FREE)}
    return hashlib.sha256(json.dumps(bound, sort_keys=True).encode()).hexdigest()


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Fields by their dotted names, of a config as nested dictionaries."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found


def find_start(run: RunDir, settings: Settings) -> ResumePoint:
    """Finds where a run with these settings starts or continues. Writes nothing.

    Raises:
        InputError: the directory holds a run with another config (the fields that differ are named), a run that is
            already further than `steps`, was made with other random streams, broken metrics, or only damaged
            checkpoints; or it is no directory.
    """
    check_folder(run.path)
    checkpoint = find_checkpoint(run, lambda message: say(f"warning: {message}"))
    progress = None if checkpoint is None else read_progress(checkpoint)
    steps: int = settings["steps"]
    if progress is not None and progress.step < steps:
        problem = other_streams(progress.sampler)
        if problem:  # said before what else is new since that release
            raise InputError(problem, file=checkpoint)
    if checkpoint_steps(run) or run.resumable_metrics() or not run.config.is_file():
        _check_config(run, settings)  # without a finished step there is nothing that could be continued
    start = ResumePoint(checkpoint, progress)
    if progress is not None and progress.config_hash != config_hash(settings):
        raise InputError("was made under another config than the run's config.yaml", file=checkpoint)
    if start.step > steps:
        raise InputError(f"{steps}, but the run has finished {start.step} steps", file=run.path, field="steps")
    if start.step < steps:
        run_outputs(run, start, settings["overwrite"])
    return start


def run_outputs(run: RunDir, start: ResumePoint, overwrite: bool) -> Outputs:
    """Returns the guard of the run's files. Writes nothing.

    Raises:
        InputError: there is a file that is not the run's, or that was edited since, and `overwrite` is not set.
    """
    known = (run.path / RECORD).is_file()
    # A run with a checkpoint is a run, though an earlier version kept no record of its files.
    ours = overwrite or (start.checkpoint is not None and not known)
    new = start.checkpoint is None
    return Outputs(run.path, "train", (*FILES, *(_FIRST if new else ())), ours, _GROW if new else ())


def ready(run: RunDir, start: ResumePoint) -> None:
    """Makes the run directory, or removes what is later than the checkpoint (all of it without one). On one process."""
    run.path.mkdir(parents=True, exist_ok=True)
    write_json(run.environment, environment())
    last = -1
    if start.checkpoint is not None:
        last = start.step
        write_text(run.latest, start.checkpoint.name + "\n")  # it may have named one that was passed over
    if run.metrics.is_file():  # a new run gets config.yaml before it: killed in between, it may start again
        run.cut_metrics(last)
    history = run.eval_history
    if history.is_file():
        write_jsonl(history, [row for _, row in read_steps(history) if row["step"] <= last])
    for folder in (run.path, run.path / "checkpoints", run.path / "samples"):
        remove_leftovers(folder)
    for step in checkpoint_steps(run):
        if step > last:
            remove_folder(run.checkpoint(step))
    if best_step(run) is None:
        run.best.unlink(missing_ok=True)  # it was a later one, which the continued run finds again
    if start.checkpoint is None and run.opened.is_dir():
        remove_folder(run.opened)
    samples = run.path / "samples"
    for folder in sorted(samples.iterdir()) if samples.is_dir() else []:
        name = re.fullmatch(r"step_(\d{6,})", folder.name)
        if name and int(name.group(1)) > last:
            remove_folder(folder)


def _check_config(run: RunDir, settings: Settings) -> None:
    if not run.config.is_file():
        there = (run.metrics, run.eval_history, run.path / "samples", run.path / "checkpoints", run.opened)
        if any(path.exists() for path in there):
            raise InputError("is missing, though the folder holds a run", file=run.config)
        return
    old, new = flat(run.read_config()), settings
    for name in old:
        if (now := new_name(name)) is not None:
            message = f"is now called {now}; a run from before that cannot be continued: choose another output"
            raise InputError(message, file=run.config, field=name)
    names = [n for n in sorted(old.keys() | new.keys()) if old.get(n) != new.get(n) and not n.startswith(FREE)]
    if names:
        changes = "; ".join(f"{n}: {old.get(n)!r} there, {new.get(n)!r} now" for n in names)
        raise InputError(f"holds a run with another config ({changes}); choose another output", file=run.path)
