"""Reads and checks the files of a report: run directories and eval.json files.

A missing file of a run becomes a note, because a run may be unfinished and its pairs elsewhere. A broken file is an
InputError with file and line.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import yaml
from pydantic import ConfigDict, StrictFloat, StrictInt, StrictStr, TypeAdapter, ValidationError

from pairuni.config.renamed import with_new_names
from pairuni.data.overview import PairingRecord, read_pairing
from pairuni.errors import InputError
from pairuni.files import read_json, read_jsonl
from pairuni.records import pairs_root, read_pairs
from pairuni.runs import RunDir, first_and_last_tenth
from pairuni.types import Pair
from pairuni.validation import input_error

_ROW = ConfigDict(allow_inf_nan=False)  # not strict as a whole: strict dataclasses refuse dicts


@dataclass(frozen=True)
class Entry:
    """One benchmark's entry of eval.json; scores in the benchmark's own unit."""

    __pydantic_config__ = _ROW
    score: StrictFloat
    unit: StrictStr
    n: StrictInt
    groups: StrictInt | None = None
    """Of items that are not independent, such as images of one prompt; files of earlier versions do not say."""
    stderr: StrictFloat | None = None
    protocol: StrictStr | None = None
    judge: StrictStr | None = None
    unparsed: StrictInt | None = None
    split: StrictStr | None = None
    chosen: bool = False
    """The model was chosen by its score on these items."""
    parts: dict[StrictStr, StrictFloat | None] = field(default_factory=dict)


@dataclass(frozen=True)
class AnswerRow:
    """The fields of a line of answers_<benchmark>.jsonl that the report uses."""

    __pydantic_config__ = _ROW
    id: StrictStr
    score: StrictFloat
    part: StrictStr = ""
    group: StrictStr = ""
    prompt: StrictStr = ""

    @property
    def cluster(self) -> str:
        """The cluster of the item. Items of one image or prompt share it, because they are not independent."""
        return self.group or self.prompt or self.id


@dataclass(frozen=True)
class RolloutRow:
    """A line of samples.jsonl: one rollout at a fixed prompt."""

    __pydantic_config__ = _ROW
    pair_id: StrictStr
    side: Literal["understanding", "generation"]
    rollout: StrictInt
    rewards: dict[StrictStr, StrictFloat | None]
    prompt: StrictStr | None = None
    question: StrictStr | None = None
    text: StrictStr | None = None
    image: StrictStr | None = None

    @property
    def asked(self) -> str:
        """The prompt or the question."""
        return (self.prompt if self.side == "generation" else self.question) or ""


@dataclass(frozen=True)
class Evaluation:
    """An eval.json."""

    path: Path
    model: str
    entries: dict[str, Entry]
    skipped: dict[str, str] = field(default_factory=dict)
    """Benchmarks that the model cannot do, with the reason."""

    def answers(self, benchmark: str) -> dict[str, AnswerRow] | None:
        """Rows by item id of answers_<benchmark>.jsonl beside eval.json, None where there is no such file.

        Raises InputError: a line is broken, or an id occurs twice.
        """
        path = self.answers_path(benchmark)
        if not path.is_file():
            return None
        rows: dict[str, AnswerRow] = {}
        for n, raw in read_jsonl(path):
            row = _validate(_ANSWER, raw, path, n)
            if row.id in rows:
                raise InputError(f"{row.id!r} occurs twice", file=path, line=n, field="id")
            rows[row.id] = row
        return rows

    def answers_path(self, benchmark: str) -> Path:
        return self.path.parent / f"answers_{benchmark}.jsonl"


@dataclass(frozen=True)
class Metrics:
    """metrics.jsonl by column: `steps` [S], each column [S] with NaN where a row lacks the key or has null."""

    steps: np.ndarray
    columns: dict[str, np.ndarray]

    def column(self, key: str) -> np.ndarray | None:
        """The values [S], None where the key is missing or null in all rows."""
        return self.columns.get(key)

    def ends(self, key: str) -> tuple[float, float] | None:
        """`first_and_last_tenth` of a column, None without any value."""
        values = self.column(key)
        return None if values is None else first_and_last_tenth(values.tolist())


@dataclass(frozen=True)
class PairFile:
    """The pairs that a run was trained on, and pairing.json beside them."""

    path: Path
    root: Path
    pairs: list[Pair]
    pairing: PairingRecord | None
    fresh: bool
    """Whether pairing.json belongs to this version of the pairs file."""


@dataclass(frozen=True)
class RunFiles:
    """A run directory. `scores` are evaluations during training."""

    directory: Path
    config: dict[str, Any]
    environment: dict[str, Any] | None
    metrics: Metrics | None
    scores: Metrics | None
    before: Evaluation | None
    after: Evaluation | None
    samples: list[tuple[int, Path]]
    """Folders of sample grids with their steps, ascending."""
    pairs: PairFile | None
    notes: list[str]

    def setting(self, name: str) -> Any:
        """A value of config.yaml by its dotted name; None if it is absent."""
        return _setting(self.config, name)


Row = TypeVar("Row")
_ENTRY, _ANSWER, _SAMPLE = TypeAdapter(Entry), TypeAdapter(AnswerRow), TypeAdapter(RolloutRow)
_SKIPPED = TypeAdapter(dict[str, str])


def read_input(path: Path) -> RunFiles | Evaluation:
    """A run directory (a folder with config.yaml or metrics.jsonl), an eval.json, or the folder of one.

    Raises:
        InputError: it is none of these, or a file of it is broken.
    """
    run = RunDir(path)
    if run.config.is_file() or run.metrics.is_file():
        return read_run(run)
    if path.is_file():
        return read_evaluation(path)
    if run.eval.is_file():
        return read_evaluation(run.eval)
    what = "no such file or folder" if not path.exists() else "is neither a run directory nor an eval.json"
    raise InputError(what, file=path)


def read_evaluation(path: Path) -> Evaluation:
    """Reads an eval.json. Raises InputError naming file and field."""
    raw = read_json(path)
    benchmarks = raw.get("benchmarks")
    if not isinstance(benchmarks, dict):
        raise InputError("is missing or not an object: not an eval.json", file=path, field="benchmarks")
    entries = {}
    for name, entry in benchmarks.items():
        if Path(name).name != name or len(name) > 100:
            raise InputError(f"{name!r} is not a benchmark's name", file=path, field="benchmarks")
        entries[name] = _validate(_ENTRY, entry, path, None, f"benchmarks.{name}")
    skipped = _validate(_SKIPPED, raw.get("skipped", {}), path, None, "skipped")
    return Evaluation(path, str(raw.get("model", "")), entries, skipped)


def read_run(run: RunDir) -> RunFiles:
    """Reads a run directory; missing files become notes. Raises InputError: a file is broken."""
    notes: list[str] = []
    config = _read_config(run, notes)
    metrics = _read_metrics(run.metrics) if run.metrics.is_file() else None
    if metrics is None:
        notes.append("No metrics.jsonl, or an empty one: no curves.")
    environment = read_json(run.environment, shown=True) if run.environment.is_file() else None
    if environment is None:
        notes.append("No environment.json.")
    before, after = _read_evaluations(run, notes)
    pairs = _read_pairs(config, run, notes)
    samples = _sample_folders(run)
    return RunFiles(run.path, config, environment, metrics, _scores(run, metrics), before, after, samples, pairs, notes)


def read_sample_rows(folder: Path) -> list[RolloutRow]:
    """Reads samples.jsonl of a sample folder.

    Raises:
        InputError: the file is missing or broken, or a row lacks a field that its side needs.
    """
    path = folder / "samples.jsonl"
    rows = []
    for n, raw in read_jsonl(path):
        row = _validate(_SAMPLE, raw, path, n)
        for name in ("prompt", "image") if row.side == "generation" else ("question", "text"):
            if raw.get(name) is None:
                raise InputError("is missing", file=path, line=n, field=name)
        rows.append(row)
    return rows


def _validate(adapter: TypeAdapter[Row], raw: Any, path: Path, line: int | None, prefix: str = "") -> Row:
    try:
        return adapter.validate_python(raw)
    except ValidationError as err:
        raise input_error(err, file=path, line=line, prefix=prefix) from None


def _read_config(run: RunDir, notes: list[str]) -> dict[str, Any]:
    if not run.config.is_file():
        notes.append("No config.yaml: model, data and options are not known.")
        return {}
    try:
        config = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise InputError("is not UTF-8 text", file=run.config) from None
    except yaml.YAMLError as err:
        mark = err.problem_mark if isinstance(err, yaml.MarkedYAMLError) else None
        line = None if mark is None else mark.line + 1
        raise InputError("is not valid YAML", file=run.config, line=line) from None
    if not isinstance(config, dict):
        raise InputError("must be a mapping", file=run.config)
    return with_new_names(config)


def _setting(config: Mapping[str, Any], name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _path_setting(config: Mapping[str, Any], name: str, run: RunDir) -> str | None:
    value = _setting(config, name)
    if value is not None and not isinstance(value, str):
        raise InputError(f"must be a path, not {value!r}", file=run.config, field=name)
    return value


def _read_metrics(path: Path, other: str = "") -> Metrics | None:
    """The rows of a metrics file as columns, without the key `other`; None for a file without rows."""
    rows: list[dict[str, Any]] = []
    for n, row in read_jsonl(path):
        if not isinstance(row.get("step"), int):
            raise InputError("is missing or not a whole number", file=path, line=n, field="step")
        row.pop(other, None)
        for key, value in row.items():
            if value is not None and not isinstance(value, int | float):
                raise InputError(f"must be a number or null, not {value!r}", file=path, line=n, field=key)
        rows.append(row)
    if not rows:
        return None
    columns = {}
    for key in dict.fromkeys(key for row in rows for key in row if key != "step"):
        values = np.array([math.nan if row.get(key) is None else float(row[key]) for row in rows])
        values[~np.isfinite(values)] = math.nan
        if np.isfinite(values).any():
            columns[key] = values
    return Metrics(np.array([row["step"] for row in rows]), columns)


def _scores(run: RunDir, metrics: Metrics | None) -> Metrics | None:
    """Evaluations during training: eval_history.jsonl, which includes step 0, or else the eval/ keys of the metrics."""
    if run.eval_history.is_file():
        return _read_metrics(run.eval_history, "settings")
    columns = {} if metrics is None else {k: v for k, v in metrics.columns.items() if k.startswith("eval/")}
    if metrics is None or not columns:
        return None
    return Metrics(metrics.steps, {k.removeprefix("eval/"): v for k, v in columns.items()})


def _read_evaluations(run: RunDir, notes: list[str]) -> tuple[Evaluation | None, Evaluation | None]:
    """eval_before/ and eval_after/, or the run's own eval.json as the latter."""
    paths = {name: run.path / f"eval_{name}" / "eval.json" for name in ("before", "after")}
    found = {name: read_evaluation(path) for name, path in paths.items() if path.is_file()}
    own = read_evaluation(run.eval) if run.eval.is_file() else None
    if own is not None and "after" in found and own.entries != found["after"].entries:
        notes.append("eval.json differs from eval_after/eval.json; the tables show eval_after/.")
    after = found.get("after", own)
    if after is None and "before" not in found:
        notes.append("No eval.json: the run has not been evaluated.")
    return found.get("before"), after


def _read_pairs(config: Mapping[str, Any], run: RunDir, notes: list[str]) -> PairFile | None:
    pairs, image_root = _path_setting(config, "data.pairs", run), _path_setting(config, "data.image_root", run)
    if pairs is None:
        notes.append("config.yaml names no data.pairs: no gallery of pairs.")
        return None
    path = Path(pairs)
    if not path.is_file():
        notes.append(f"The pairs file {pairs} is not there (paths are as the run's config has them): no gallery.")
        return None
    root = pairs_root(path, image_root)
    record, fresh = read_pairing(path) or (None, False)
    return PairFile(path, root, read_pairs(path, root), record, fresh)


def _sample_folders(run: RunDir) -> list[tuple[int, Path]]:
    folders = []
    for path in (run.path / "samples").glob("step_*"):
        name = re.fullmatch(r"step_(\d+)", path.name)
        if name and path.is_dir():
            folders.append((int(name.group(1)), path))
    return sorted(folders)
