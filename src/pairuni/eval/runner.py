"""Runs benchmarks on a model and writes eval.json and answers_<benchmark>.jsonl."""

import hashlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from pairuni.config import EvalConfig
from pairuni.eval import check_benchmarks, load_benchmark
from pairuni.eval.base import summarise
from pairuni.files import write_json, write_jsonl
from pairuni.policies.base import Sampler

UNSCORED = ("benchmarks", "batch")
"""Fields of EvalConfig that change no benchmark's score."""


def evaluate(sampler: Sampler, config: EvalConfig, output: Path | None = None) -> dict[str, dict[str, Any]]:
    """The entries of eval.json's `benchmarks`; every answer is kept in `output` where one is given.

    Raises:
        InputError: an unknown benchmark, before anything is run.
    """
    check_benchmarks(config)
    benchmarks = {name: load_benchmark(name) for name in config.names}
    results = {}
    for name, benchmark in benchmarks.items():
        answers = benchmark.run(sampler, config)
        results[name] = summarise(answers, benchmark.protocol)
        if output is not None:
            write_jsonl(output / f"answers_{name}.jsonl", [a.to_json() for a in answers])
    return results


def write_eval(output: Path, model: str, config: EvalConfig, results: dict[str, dict[str, Any]]) -> Path:
    """Writes eval.json into `output`. Its config_hash is equal where scores may be compared."""
    protocol = {f.name: vars(config)[f.name] for f in fields(EvalConfig) if f.name not in UNSCORED}
    digest = hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()
    write_json(output / "eval.json", {"model": model, "config_hash": digest[:16], "benchmarks": results})
    return output / "eval.json"


def table(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]] | None = None) -> str:
    """A plain-text table of scores with standard errors, of one model or before -> after."""
    lines = []
    for name, entry in before.items():
        line = f"{name:<32} {entry['score']:6.1f} ± {entry['stderr']:.1f}"
        if after is not None:
            new = after[name]
            line += f"  ->  {new['score']:6.1f} ± {new['stderr']:.1f}   ({new['score'] - entry['score']:+.1f})"
        lines.append(f"{line}   n = {entry['n']}")
    return "\n".join(lines)
