"""results.jsonl: one row per finished run, small enough to be kept with the code and enough for every table and figure.

A row has the score of every item, as bits where items are right or wrong, so that differences between arms are paired
by item long after the runs themselves have gone.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from pairuni.analysis.ablations.plan import BEFORE, Run, Stage
from pairuni.analysis.ablations.suites import ARMS
from pairuni.config import TrainConfig
from pairuni.data.images import load_image
from pairuni.data.mixing import mix
from pairuni.data.partners import chance
from pairuni.data.shapes_content import ShapesContent
from pairuni.errors import InputError
from pairuni.eval import load_benchmark
from pairuni.files import read_json, read_jsonl, write_jsonl
from pairuni.records import read_pairs
from pairuni.runs import RunDir
from pairuni.streams import VERSION
from pairuni.types import Side
from pairuni.validation import input_error

Key = tuple[str, int, int]
"""Arm, seed, version of the random streams."""

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, config=_STRICT)
class Measured:
    """One benchmark of one run."""

    score: float
    """In the benchmark's own unit, as `unit` says."""
    unit: str
    n: int
    items: str
    """Hash of the items' ids, in order: equal ones can be paired."""
    factor: float | None
    """The score is this times the mean over items; None where it is no such mean."""
    parts: dict[str, float]
    right: str | None = None
    """Which items are right: bits, the first the highest of the first byte, as hex. None where items have points."""
    points: list[float] | None = None
    """Of items, or of groups of items (images of one prompt, say), whose mean is then that of the items."""

    @property
    def whole(self) -> bool:
        """Whether every item has a score, or lies in a group that has. Raises ValueError: `right` is not hex."""
        if self.right is None:
            return 0 < len(self.points or ()) <= self.n
        return len(bytes.fromhex(self.right)) == -(-self.n // 8)

    def scores_N(self) -> np.ndarray:
        """Of every item or group, in order: 0 or 1, or points."""
        if self.right is None:
            return np.array(self.points, dtype=np.float64)
        return np.unpackbits(np.frombuffer(bytes.fromhex(self.right), np.uint8), count=self.n).astype(np.float64)


@dataclass(frozen=True, config=_STRICT)
class Result:
    """A finished run."""

    arm: str
    seed: int
    identity: str
    """What it was a run of (plan.Run)."""
    benchmarks: dict[str, Measured]
    training: dict[str, float]
    """Means over the steps of what metrics.jsonl has; rewards of the first and last tenth; co_batching_chance is what
    co_batching would be, were each half joined with any other."""
    pairs: dict[str, float]
    """Counts of pairing.json; of retrieved pairs the median similarity and, in the Shapes world, the mean cosine of
    what is in their two images."""
    seconds: dict[str, float]
    """Of training, and threads: what it ran on is not what it measures."""
    streams: int = 1
    """Version of the random streams that it was trained with; 1 of the model before, which has none."""

    @property
    def key(self) -> Key:
        """What there is one row of."""
        return self.arm, self.seed, self.streams

    @property
    def sound(self) -> bool:
        """Whether its arm was what it is called, with these streams."""
        return self.arm not in ARMS or ARMS[self.arm].sound(self.streams)


_RESULT = TypeAdapter(Result)


def read_results(path: Path) -> dict[Key, Result]:
    """Rows by key; none where there is no file. Raises InputError naming the line of a broken one."""
    found: dict[Key, Result] = {}
    for line, row in read_jsonl(path) if path.exists() else ():
        try:
            result = _RESULT.validate_python(row)
            wrong = [name for name, entry in result.benchmarks.items() if not entry.whole]
        except ValidationError as err:
            raise input_error(err, file=path, line=line) from None
        except ValueError:
            raise InputError("is no hex digits", file=path, line=line, field="right") from None
        if wrong:
            raise InputError("is not the number of items that are kept", file=path, line=line, field=f"{wrong[0]}.n")
        found[result.key] = result
    return found


def by_streams(results: Mapping[Key, Result]) -> dict[int, dict[tuple[str, int], Result]]:
    """By version of the random streams, the newest first, what may be compared: its sound rows, by arm and seed.

    The model before training, which no stream made, is in all of them.
    """
    before = {(result.arm, result.seed): result for result in results.values() if result.arm == BEFORE}
    found = {version: dict(before) for version in range(VERSION, 0, -1)}
    for (arm, seed, version), result in results.items():
        if arm != BEFORE and result.sound:
            found.setdefault(version, dict(before))[arm, seed] = result
    return found


def write_results(path: Path, results: Mapping[Key, Result]) -> None:
    """Writes all rows, by arm, seed and streams."""
    write_jsonl(path, (_RESULT.dump_python(results[key], mode="json") for key in sorted(results)))


def known_results(path: Path, runs: Sequence[Run]) -> dict[Key, Result]:
    """The results that are kept. Raises InputError where one of `runs` is there with other settings."""
    found = read_results(path)
    for run, version in product(runs, range(1, VERSION + 1)):
        old = found.get((run.arm.name, run.seed, version))
        if old is not None and old.identity != run.identities[version]:
            problem = f"{run.name} is there with other settings than the base's now; take another output"
            raise InputError(problem, file=path, field="identity")
    return found


def gather(run: Run, threads: int) -> Result:
    """The result of a run whose stages are done. Raises InputError where a file of it is broken."""
    stages = {stage.command: stage for stage in run.stages}
    seconds, training, pairs = {"threads": float(threads)}, {}, {}
    if "train" in stages:
        rows = RunDir(Path(stages["train"].config.output)).read_metrics()
        training, seconds["training"] = _training(rows), sum(row["seconds/total"] for row in rows)
        if "co_batching" in training:
            training["co_batching_chance"] = round(_chance(stages["train"].config), 6)
    if "pair" in stages:
        pairs = _pairs(stages["pair"].product, "shapes" in stages)
    streams = VERSION if "train" in stages else 1
    return Result(run.arm.name, run.seed, run.identity, _benchmarks(stages["eval"]), training, pairs, seconds, streams)


def _benchmarks(stage: Stage) -> dict[str, Measured]:
    folder, found = stage.product.parent, {}
    for name, entry in read_json(stage.product)["benchmarks"].items():
        file = folder / f"answers_{name}.jsonl"
        answers = [row for _, row in read_jsonl(file)]
        if len(answers) != entry["n"]:
            message = (
                f"has {len(answers)} answers, but eval.json is of {entry['n']}; remove eval.json to evaluate again"
            )
            raise InputError(message, file=file)
        ids, scores = _grouped(answers)
        items = hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]
        factor = load_benchmark(name, stage.config).factor
        shared = entry["score"], entry["unit"], len(answers), items, factor, entry["parts"]
        if len(ids) == len(answers) and all(score in (0.0, 1.0) for score in scores):
            found[name] = Measured(*shared, right=np.packbits(np.array(scores, dtype=bool)).tobytes().hex())
        else:
            found[name] = Measured(*shared, points=scores)
    return found


def _grouped(answers: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[float]]:
    """Ids and scores of what may be drawn anew: items, or groups of items that go together.

    A group's score is its sum times groups over items, so that the mean over groups is the mean over items.
    """
    sums: dict[str, float] = {}
    for row in answers:
        group = str(row.get("group") or row["id"])
        sums[group] = sums.get(group, 0.0) + float(row["score"])
    share = len(sums) / len(answers)
    return list(sums), [score * share for score in sums.values()]


def _training(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    tenth = max(1, len(rows) // 10)
    found = {}
    for side in Side:
        rewards = [row[f"reward_mean/{side}"] for row in rows if row.get(f"reward_mean/{side}") is not None]
        if rewards:
            found[f"reward_first/{side}"], found[f"reward_last/{side}"] = (
                fmean(rewards[:tenth]),
                fmean(rewards[-tenth:]),
            )
    means = ("pair_weight_mean", *(f"zero_std_fraction/{side}" for side in Side), "gradient_cosine", "grad_norm")
    for name in (*means, "co_batching"):
        values = [row[name] for row in rows if isinstance(row.get(name), (int, float)) and math.isfinite(row[name])]
        if values:
            found[name] = fmean(values)
    return {name: round(value, 6) for name, value in found.items()}


def _chance(train: TrainConfig) -> float:
    """What co_batching would be of the run's pairs, or of vanilla's single halves, in random order."""
    mode, batch = train.pair_selection.mode, train.data.batch
    pairs = read_pairs(train.data.pairs, train.data.image_root)
    number = len(pairs) if mode == "unpaired" else len(mix(pairs, mode, train.seed))
    return chance(2 * number, 2 * batch) if mode == "vanilla" else chance(number, batch)


def _pairs(pairing: Path, shapes: bool) -> dict[str, float]:
    summary = read_json(pairing)
    names = ("aligned_understanding", "aligned_generation", "retrieved")
    found: dict[str, float] = {name: summary["counts"][name] for name in names}
    if summary["similarity"]:
        found["similarity"] = summary["similarity"]["0.5"]
        if shapes:
            found["content"] = _content(pairing.parent / "pairs.jsonl", Path(summary["options"]["image_root"]))
    return found


@cache  # arms share pairs
def _content(file: Path, root: Path) -> float:
    """Mean cosine of what is in the two images of a retrieved pair: how well the halves match in meaning."""
    pairs = [pair for pair in read_pairs(file) if pair.kind == "retrieved"]
    sides = [ShapesContent().features([load_image(root / p.half(side).image_path) for p in pairs]) for side in Side]
    return round(float((sides[0] * sides[1]).sum(1).mean()), 6)
