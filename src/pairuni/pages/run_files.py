"""Reads and checks the files of a report: run directories and eval.json files.

A missing file of a run becomes a note, because a run may be unfinished and its pairs elsewhere. A broken file is an
InputError with file and line.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ConfigDict, StrictFloat, StrictInt, StrictStr, TypeAdapter, ValidationError

from pairuni.config.renamed import with_new_names
from pairuni.data.overview import PairingRecord, read_pairing
from pairuni.errors import InputError
from pairuni.files import read_json, read_jsonl
from pairuni.records import pairs_root, read_pairs, validate_row
from pairuni.runs import RunDir, first_and_last_tenth, read_steps
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
            row = validate_row(_ANSWER, raw, path, n)
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
        value: Any = self.config
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value


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
        entries[name] = _validated(_ENTRY, entry, path, f"benchmarks.{name}")
    skipped = _validated(_SKIPPED, raw.get("skipped", {}), path, "skipped")
    return Evaluation(path, str(raw.get("model", "")), entries, skipped)


def read_run(run: RunDir) -> RunFiles:
    """Reads a run directory; missing files become notes. Raises InputError: a file is broken."""
    notes: list[str] = []
    config = with_new_names(run.read_config()) if run.config.is_file() else {}
    if not run.config.is_file():
        notes.append("No config.yaml: model, data and options are not known.")
    metrics = _read_metrics(run.metrics) if run.metrics.is_file() else None
    if metrics is None:
        notes.append("No metrics.jsonl, or an empty one: no curves.")
    environment = read_json(run.environment, shown=True) if run.environment.is_file() else None
    if environment is None:
        notes.append("No environment.json.")
    # Evaluations during training: eval_history.jsonl, which has step 0, or else the eval/ keys of the metrics.
    scores = None
    if run.eval_history.is_file():
        scores = _read_metrics(run.eval_history, "settings")
    elif metrics is not None:
        columns = {k.removeprefix("eval/"): v for k, v in metrics.columns.items() if k.startswith("eval/")}
        scores = Metrics(metrics.steps, columns) if columns else None
    # eval_before/ and eval_after/, or the run's own eval.json as the latter.
    paths = {name: run.path / f"eval_{name}" / "eval.json" for name in ("before", "after")}
    found = {name: read_evaluation(path) for name, path in paths.items() if path.is_file()}
    own = read_evaluation(run.eval) if run.eval.is_file() else None
    if own is not None and "after" in found and own.entries != found["after"].entries:
        notes.append("eval.json differs from eval_after/eval.json; the tables show eval_after/.")
    before, after = found.get("before"), found.get("after", own)
    if before is None and after is None:
        notes.append("No eval.json: the run has not been evaluated.")
    folders = [path for path in (run.path / "samples").glob("step_*") if path.is_dir()]
    samples = sorted((int(path.name[5:]), path) for path in folders if re.fullmatch(r"step_\d+", path.name))
    files = RunFiles(run.path, config, environment, metrics, scores, before, after, samples, None, notes)
    return replace(files, pairs=_read_pairs(files))


def read_sample_rows(folder: Path) -> list[RolloutRow]:
    """Reads samples.jsonl of a sample folder.

    Raises:
        InputError: the file is missing or broken, or a row lacks a field that its side needs.
    """
    path = folder / "samples.jsonl"
    rows = []
    for n, raw in read_jsonl(path):
        row = validate_row(_SAMPLE, raw, path, n)
        for name in ("prompt", "image") if row.side == "generation" else ("question", "text"):
            if raw.get(name) is None:
                raise InputError("is missing", file=path, line=n, field=name)
        rows.append(row)
    return rows


def _validated(adapter: TypeAdapter[Any], raw: Any, path: Path, field: str) -> Any:
    try:
        return adapter.validate_python(raw)
    except ValidationError as err:
        raise input_error(err, file=path, prefix=field) from None


def _read_metrics(path: Path, other: str = "") -> Metrics | None:
    """The rows of a metrics file as columns, without the key `other`; None for a file without rows."""
    rows: list[dict[str, Any]] = []
    for n, row in read_steps(path):
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


def _read_pairs(files: RunFiles) -> PairFile | None:
    for name in ("data.pairs", "data.image_root"):
        value = files.setting(name)
        if value is not None and not isinstance(value, str):
            raise InputError(f"must be a path, not {value!r}", file=RunDir(files.directory).config, field=name)
    pairs = files.setting("data.pairs")
    if pairs is None:
        files.notes.append("config.yaml names no data.pairs: no gallery of pairs.")
        return None
    path = Path(pairs)
    if not path.is_file():
        missing = f"The pairs file {pairs} is not there (paths are as the run's config has them): no gallery."
        files.notes.append(missing)
        return None
    root = pairs_root(path, files.setting("data.image_root"))
    record, fresh = read_pairing(path) or (None, False)
    return PairFile(path, root, read_pairs(path, root), record, fresh)
