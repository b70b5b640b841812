"""results.jsonl: a row per finished run, small enough to commit and sufficient for every table and figure.

A row keeps the score of every item, as bits if items are right or wrong, so that differences between arms can be paired
by item after the runs are deleted.
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

from pairuni.data.dataset import chance
from pairuni.data.images import load_image
from pairuni.data.mixing import mix
from pairuni.data.shapes_content import ShapesContent
from pairuni.errors import InputError
from pairuni.eval import load_benchmark
from pairuni.files import read_json, read_jsonl, write_jsonl
from pairuni.lab.ablations.schedule import BEFORE, ArmRun, Stage
from pairuni.lab.ablations.suites import ARMS
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
    """The score in `unit`."""
    unit: str
    n: int
    items: str
    """Hash of the items' ids in order; runs with equal hashes can be paired."""
    factor: float | None
    """The score is this times the mean over items; None if the score is not such a mean."""
    parts: dict[str, float]
    right: str | None = None
    """Which items are right, as bits in hex, the first item in the highest bit; None if items have points."""
    points: list[float] | None = None
    """Points of items, or of groups of items such as the images of one prompt; the mean is the same."""

    @property
    def whole(self) -> bool:
        """Whether every item, or its group, has a score. Raises ValueError: `right` is not hex."""
        if self.right is None:
            return 0 < len(self.points or ()) <= self.n
        return len(bytes.fromhex(self.right)) == -(-self.n // 8)

    def scores_N(self) -> np.ndarray:
        """The scores of the items or groups, in order: 0 or 1, or points."""
        if self.right is None:
            return np.array(self.points, dtype=np.float64)
        return np.unpackbits(np.frombuffer(bytes.fromhex(self.right), np.uint8), count=self.n).astype(np.float64)


@dataclass(frozen=True, config=_STRICT)
class Result:
    """A finished run."""

    arm: str
    seed: int
    identity: str
    """The hash of its settings (`ArmRun.identities`)."""
    benchmarks: dict[str, Measured]
    training: dict[str, float]
    """Means of metrics over the steps, and rewards of the first and the last tenth. co_batching_chance is the value of
    co_batching in a random order."""
    pairs: dict[str, float]
    """Counts of pairing.json; the median similarity of retrieved pairs and, in the Shapes world, the mean cosine of the
    contents of their two images."""
    seconds: dict[str, float]
    """Seconds of training, and the number of threads: these may differ between equal runs."""
    streams: int = 1
    """Version of the random streams in training; 1 for the model before training, which has none."""

    @property
    def key(self) -> Key:
        """There is one row per key."""
        return self.arm, self.seed, self.streams

    @property
    def sound(self) -> bool:
        """Whether these streams made the arm what its name says."""
        return self.arm not in ARMS or ARMS[self.arm].sound(self.streams)


_RESULT = TypeAdapter(Result)


def read_results(path: Path) -> dict[Key, Result]:
    """Rows by key, none if there is no file. Raises InputError with the line of a broken row."""
    found: dict[Key, Result] = {}
    for line, row in read_jsonl(path) if path.exists() else ():
        try:
            result = _RESULT.validate_python(row)
            wrong = [name for name, entry in result.benchmarks.items() if not entry.whole]
        except ValidationError as err:
            raise input_error(err, file=path, line=line) from None
        except ValueError:
            raise InputError("is not a string of hex digits", file=path, line=line, field="right") from None
        if wrong:
            raise InputError("differs from the number of items in the row", file=path, line=line, field=f"{wrong[0]}.n")
        found[result.key] = result
    return found


def by_streams(results: Mapping[Key, Result]) -> dict[int, dict[tuple[str, int], Result]]:
    """The sound rows by arm and seed, for each version of the random streams, the newest first.

    Only rows of one version may be compared. The model before training has no version and is in all of them.
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


def known_results(path: Path, runs: Sequence[ArmRun]) -> dict[Key, Result]:
    """Reads the kept results. Raises InputError: one of `runs` has a result with other settings."""
    found = read_results(path)
    for run, version in product(runs, range(1, VERSION + 1)):
        old = found.get((run.arm.name, run.seed, version))
        if old is not None and old.identity != run.identities[version]:
            problem = f"{run.name} has a result with settings that differ from the base; choose another output"
            raise InputError(problem, file=path, field="identity")
    return found


def gather(run: ArmRun, threads: int) -> Result:
    """The result of a run whose stages are done. Raises InputError: a file of the run is broken."""
    stages = {stage.command: stage for stage in run.stages}
    seconds, training, pairs = {"threads": float(threads)}, {}, {}
    if "train" in stages:
        train = stages["train"].config
        rows = RunDir(Path(train.output)).read_metrics()
        training, seconds["training"] = _training(rows), sum(row["seconds/total"] for row in rows)
        if "co_batching" in training:
            mode, batch = train.pair_selection.mode, train.data.batch
            trained = read_pairs(train.data.pairs, train.data.image_root)
            number = len(trained) if mode == "unpaired" else len(mix(trained, mode, train.seed))
            # vanilla draws single halves
            expected = chance(2 * number, 2 * batch) if mode == "vanilla" else chance(number, batch)
            training["co_batching_chance"] = round(expected, 6)
    if "pair" in stages:
        folder, summary = stages["pair"].product.parent, read_json(stages["pair"].product)
        counted = ("aligned_understanding", "aligned_generation", "retrieved")
        pairs |= {name: summary["counts"][name] for name in counted}
        if summary["similarity"]:
            pairs["similarity"] = summary["similarity"]["0.5"]
            if "shapes" in stages:
                pairs["content"] = _content(folder / "pairs.jsonl", Path(summary["options"]["image_root"]))
    streams = VERSION if "train" in stages else 1
    return Result(run.arm.name, run.seed, run.identity, _benchmarks(stages["eval"]), training, pairs, seconds, streams)


def _benchmarks(stage: Stage) -> dict[str, Measured]:
    """The scores of the independent units: items, or groups of items that belong together.

    A group's score is its sum times (groups / items), so that the mean over groups equals the mean over items.
    """
    found = {}
    for name, entry in read_json(stage.product)["benchmarks"].items():
        file = stage.product.parent / f"answers_{name}.jsonl"
        answers = [row for _, row in read_jsonl(file)]
        if len(answers) != entry["n"]:
            problem = f"has {len(answers)} answers, but eval.json is of {entry['n']}"
            raise InputError(f"{problem}; remove eval.json to evaluate again", file=file)
        sums: dict[str, float] = {}
        for row in answers:
            group = str(row.get("group") or row["id"])
            sums[group] = sums.get(group, 0.0) + float(row["score"])
        scores = [score * (len(sums) / len(answers)) for score in sums.values()]
        items = hashlib.sha256("\n".join(sums).encode()).hexdigest()[:16]
        factor = load_benchmark(name, stage.config).factor
        shared = entry["score"], entry["unit"], len(answers), items, factor, entry["parts"]
        if len(sums) == len(answers) and all(score in (0.0, 1.0) for score in scores):
            found[name] = Measured(*shared, right=np.packbits(np.array(scores, dtype=bool)).tobytes().hex())
        else:
            found[name] = Measured(*shared, points=scores)
    return found


def _training(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    tenth, found = max(1, len(rows) // 10), {}
    for side in Side:
        rewards = [row[f"reward_mean/{side}"] for row in rows if row.get(f"reward_mean/{side}") is not None]
        if rewards:
            found |= {f"reward_first/{side}": fmean(rewards[:tenth]), f"reward_last/{side}": fmean(rewards[-tenth:])}
    zero = (f"zero_std_fraction/{side}" for side in Side)
    for name in ("pair_weight_mean", *zero, "gradient_cosine", "grad_norm", "co_batching"):
        values = [row[name] for row in rows if isinstance(row.get(name), (int, float)) and math.isfinite(row[name])]
        if values:
            found[name] = fmean(values)
    return {name: round(value, 6) for name, value in found.items()}


@cache  # several arms have the same pairs
def _content(file: Path, root: Path) -> float:
    """Mean cosine of the contents of the two images of a retrieved pair: how well the halves match in meaning."""
    pairs = [pair for pair in read_pairs(file) if pair.kind == "retrieved"]
    sides = [ShapesContent().features([load_image(root / p.half(side).image_path) for p in pairs]) for side in Side]
    return round(float((sides[0] * sides[1]).sum(1).mean()), 6)
