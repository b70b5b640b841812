"""The run directory: its paths, metrics.jsonl, the resolved config and the record of the environment. Torch-free."""

import json
import math
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from pairuni.errors import InputError
from pairuni.files import read_jsonl, read_text, write_jsonl, write_text

TIMING_KEYS = ("seconds/", "tokens_per_second/")
"""Prefixes of metrics that may differ between identical runs."""


def environment() -> dict[str, Any]:
    """Package versions, platform and processors of a run; no host or user names."""
    packages = ("pairuni", "torch", "transformers", "numpy", "scipy", "scikit-learn", "pillow")
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "packages": versions,
    }


@dataclass(frozen=True)
class RunDir:
    """Paths and files of one training run."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def inputs(self) -> Path:
        return self.path / "inputs.json"

    @property
    def opened(self) -> Path:
        return self.path / "inputs"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def eval(self) -> Path:
        return self.path / "eval.json"

    @property
    def eval_history(self) -> Path:
        """JSON Lines, a row per evaluation during training (step 0: before it): `step`, a score per benchmark, and
        `settings`, a hash per benchmark. Scores with equal hashes are comparable."""
        return self.path / "eval_history.jsonl"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def samples(self, step: int) -> Path:
        return self.path / "samples" / f"step_{step:06d}"

    def checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step_{step:06d}"

    @property
    def latest(self) -> Path:
        return self.path / "checkpoints" / "latest"

    @property
    def best(self) -> Path:
        return self.path / "checkpoints" / "best"

    def latest_name(self) -> str | None:
        """The content of `latest`, or None without a checkpoint. Raises InputError when the file is not text."""
        return read_text(self.latest).strip() if self.latest.is_file() else None

    def latest_checkpoint(self) -> Path | None:
        """The folder that `latest` names, or None without a checkpoint. Raises InputError when the folder is gone."""
        name = self.latest_name()
        if name is None:
            return None
        folder = self.path / "checkpoints" / name
        if not os.path.isdir(folder):  # unlike Path.is_dir, accepts any name
            raise InputError(f"names {folder.name}, which does not exist", file=self.latest)
        return folder

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Appends a row to metrics.jsonl and syncs the file. Writes non-finite values as null."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(clean, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read_metrics(self) -> list[dict[str, Any]]:
        """All rows of metrics.jsonl. Raises InputError for a missing or broken file, or a row without `step`."""
        return [row for _, row in read_steps(self.metrics)]

    def resumable_metrics(self) -> list[dict[str, Any]]:
        """As `read_metrics`, without a last line that a crash cut short; empty if the run has no metrics yet."""
        rows: list[dict[str, Any]] = []
        if self.metrics.is_file():
            text = read_text(self.metrics)
            last = 0 if text.endswith("\n") else text.count("\n") + 1
            try:
                for _, row in read_steps(self.metrics):
                    rows.append(row)  # one by one, to keep the rows before a broken line
            except InputError as err:
                if err.line != last:
                    raise
        return rows

    def cut_metrics(self, after: int) -> None:
        """Drops rows after step `after`, and a last line that a crash cut short. The resumed run writes them again."""
        write_jsonl(self.metrics, [row for row in self.resumable_metrics() if row["step"] <= after])

    def read_config(self) -> dict[str, Any]:
        """The resolved config. Raises InputError when config.yaml is missing or is not a YAML mapping."""
        try:
            config = yaml.safe_load(read_text(self.config))
        except yaml.YAMLError as err:
            mark = err.problem_mark if isinstance(err, yaml.MarkedYAMLError) else None
            raise InputError("is not valid YAML", file=self.config, line=mark and mark.line + 1) from None
        if not isinstance(config, dict):
            raise InputError("must be a mapping", file=self.config)
        return config

    def write_config(self, resolved: Mapping[str, Any]) -> None:
        write_text(self.config, yaml.safe_dump(dict(resolved), sort_keys=False, allow_unicode=True))


def run_of(path: Path) -> Path:
    """The run directory of RUN/best, RUN/latest, RUN/checkpoints or a checkpoint. Returns any other path unchanged."""
    if path.name in ("best", "latest") and not path.exists() and (path.parent / "checkpoints").is_dir():
        return path.parent
    if path.is_file() or RunDir(path).eval.is_file():
        return path
    for folder in (path, *path.parents):
        run = RunDir(folder.parent)
        if folder.name == "checkpoints" and (run.config.is_file() or run.metrics.is_file()):
            return run.path
    return path


def read_steps(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """As `read_jsonl`, with the whole number `step` of each row. Raises InputError also for a row without one."""
    for n, row in read_jsonl(path):
        if not isinstance(row.get("step"), int):
            raise InputError("is missing or not a whole number", file=path, line=n, field="step")
        yield n, row


def first_and_last_tenth(values: Iterable[float | None]) -> tuple[float, float] | None:
    """Means over the first and the last tenth (at least one) of the known values; None if no value is known."""
    known = [float(value) for value in values if value is not None and math.isfinite(float(value))]
    tenth = max(1, round(len(known) / 10))
    return (sum(known[:tenth]) / tenth, sum(known[-tenth:]) / tenth) if known else None


def comparable(row: Mapping[str, Any]) -> dict[str, Any]:
    """A metrics row without timings, which differ between identical runs."""
    return {k: v for k, v in row.items() if not k.startswith(TIMING_KEYS)}
