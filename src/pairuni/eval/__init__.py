"""Benchmarks of both abilities in one table, imported on use: name -> module:Class and its arguments."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pairuni.config import EvalConfig
from pairuni.errors import InputError

if TYPE_CHECKING:
    from pairuni.eval.base import Benchmark

BENCHMARKS: dict[str, tuple[str, dict[str, Any]]] = {
    "shapes_understanding": ("pairuni.eval.shapes_benchmarks:ShapesUnderstanding", {"temperature": 0.0}),
    "shapes_understanding_sampled": ("pairuni.eval.shapes_benchmarks:ShapesUnderstanding", {"temperature": 1.0}),
    "shapes_generation": ("pairuni.eval.shapes_benchmarks:ShapesGeneration", {"temperature": 1.0}),
    "shapes_generation_greedy": ("pairuni.eval.shapes_benchmarks:ShapesGeneration", {"temperature": 0.0}),
    "pope": ("pairuni.eval.tasks.pope:Pope", {}),
    "mme": ("pairuni.eval.tasks.mme:Mme", {}),
    "mmstar": ("pairuni.eval.tasks.mmstar:MmStar", {}),
    "mmmu": ("pairuni.eval.tasks.mmmu:Mmmu", {}),
    "geneval": ("pairuni.eval.tasks.geneval:GenEval", {}),
    "wise": ("pairuni.eval.tasks.wise:Wise", {}),
    "imgedit": ("pairuni.eval.tasks.imgedit:ImgEdit", {}),
}
EDITING = ("imgedit",)
"""Those that want images edited, which only some models can."""


def check_benchmarks(config: EvalConfig) -> None:
    """Raises InputError for a name that is not in BENCHMARKS. Loads nothing."""
    for name in config.names:
        if name not in BENCHMARKS:
            message = f"unknown benchmark {name!r}; there are {', '.join(BENCHMARKS)}"
            raise InputError(message, field=f"{config.group}benchmarks")


def load_benchmark(name: str, config: EvalConfig) -> "Benchmark":
    """The benchmark of a name that `check_benchmarks` lets pass. Raises InputError where its options do not fit it."""
    path, arguments = BENCHMARKS[name]
    module, member = path.split(":")
    return vars(import_module(module))[member](config, **arguments)
