"""The run directory: its paths, metrics.jsonl, the resolved config and the record of the environment. Torch-free."""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from pairuni.errors import InputError
from pairuni.files import read_jsonl, write_jsonl, write_text

TIMING_KEYS = ("seconds/", "tokens_per_second/")
"""Prefixes of metrics that may differ between identical runs."""


def environment() -> dict[str, Any]:
    """What a run ran on: versions, platform, processors. No host or user names."""
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
    """Paths and files of one training run (design: records and files)."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def eval(self) -> Path:
        return self.path / "eval.json"

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

    def latest_checkpoint(self) -> Path | None:
        """The folder that `latest` names, None for a run without a checkpoint. Raises InputError when it is gone."""
        if not self.latest.is_file():
            return None
        folder = self.path / "checkpoints" / self.latest.read_text(encoding="utf-8").strip()
        if not folder.is_dir():
            raise InputError(f"names {folder.name}, which does not exist", file=self.latest)
        return folder

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Adds one object to metrics.jsonl and syncs it. Non-finite values are written as null."""
        clean = {k: None if isinstance(v, float) and not _finite(v) else v for k, v in row.items()}
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(clean, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read_metrics(self) -> list[dict[str, Any]]:
        """All rows of metrics.jsonl. Raises InputError for a missing or broken file."""
        return [row for _, row in read_jsonl(self.metrics)]

    def cut_metrics(self, after: int) -> None:
        """Drops rows of steps later than `after`, and a last line that a crash cut short: resume writes them again."""
        kept = []
        if self.metrics.is_file():
            for line in self.metrics.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:
                    break
                if row["step"] <= after:
                    kept.append(row)
        write_jsonl(self.metrics, kept)

    def write_config(self, resolved: Mapping[str, Any]) -> None:
        write_text(self.config, yaml.safe_dump(dict(resolved), sort_keys=False, allow_unicode=True))


def comparable(row: Mapping[str, Any]) -> dict[str, Any]:
    """A metrics row without what may differ between identical runs."""
    return {k: v for k, v in row.items() if not k.startswith(TIMING_KEYS)}


def _finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")
