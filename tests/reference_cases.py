"""Answers of the published evaluators on made inputs, from the development data (no part of the repository)."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(os.environ.get("PAIRUNI_REAL_DATA", Path(__file__).parents[2] / "shared" / "data")) / "benchmarks"
needs_reference = pytest.mark.skipif(
    not BENCHMARKS.is_dir(), reason=f"no reference cases at {BENCHMARKS}; set PAIRUNI_REAL_DATA"
)


def reference(name: str) -> Any:
    """The content of a JSON file of the benchmarks."""
    return json.loads((BENCHMARKS / name).read_text(encoding="utf-8"))


def reference_lines(name: str) -> list[Any]:
    """The rows of a JSON Lines file of the benchmarks."""
    return [json.loads(line) for line in (BENCHMARKS / name).read_text(encoding="utf-8").splitlines()]
