"""Benchmarks of both abilities; one table, lazily imported: name -> module:Class and its temperature."""

from importlib import import_module
from typing import TYPE_CHECKING

from pairuni.config import EvalConfig
from pairuni.errors import InputError

if TYPE_CHECKING:
    from pairuni.eval.base import Benchmark

BENCHMARKS: dict[str, tuple[str, float]] = {
    "shapes_understanding": ("pairuni.eval.shapes:ShapesUnderstanding", 0.0),
    "shapes_understanding_sampled": ("pairuni.eval.shapes:ShapesUnderstanding", 1.0),
    "shapes_generation": ("pairuni.eval.shapes:ShapesGeneration", 1.0),
    "shapes_generation_greedy": ("pairuni.eval.shapes:ShapesGeneration", 0.0),
}


def check_benchmarks(config: EvalConfig) -> None:
    """Raises InputError for a name that is not in BENCHMARKS. Loads nothing."""
    for name in config.names:
        if name not in BENCHMARKS:
            message = f"unknown benchmark {name!r}; there are {', '.join(BENCHMARKS)}"
            raise InputError(message, field=f"{config.group}benchmarks")


def load_benchmark(name: str) -> "Benchmark":
    """The benchmark of a name that `check_benchmarks` lets pass."""
    path, temperature = BENCHMARKS[name]
    module, cls = path.split(":")
    return vars(import_module(module))[cls](temperature)
