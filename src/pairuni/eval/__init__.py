"""Benchmarks of both abilities; one table, lazily imported: name -> module:Class and its temperature."""

from importlib import import_module

from pairuni.errors import InputError
from pairuni.eval.base import Benchmark

BENCHMARKS: dict[str, tuple[str, float]] = {
    "shapes_understanding": ("pairuni.eval.shapes:ShapesUnderstanding", 0.0),
    "shapes_understanding_sampled": ("pairuni.eval.shapes:ShapesUnderstanding", 1.0),
    "shapes_generation": ("pairuni.eval.shapes:ShapesGeneration", 1.0),
    "shapes_generation_greedy": ("pairuni.eval.shapes:ShapesGeneration", 0.0),
}


def load_benchmark(name: str) -> Benchmark:
    """Raises InputError for a name that is not in BENCHMARKS."""
    if name not in BENCHMARKS:
        raise InputError(f"unknown benchmark {name!r}; there are {', '.join(BENCHMARKS)}", field="eval.benchmarks")
    path, temperature = BENCHMARKS[name]
    module, cls = path.split(":")
    return vars(import_module(module))[cls](temperature)
