"""Samples, quadruples and pairs as JSON Lines: reading, validating, and where their images are.

pairs.jsonl is the published PairUG format (paper section 2, record format) plus `kind`; unknown keys are kept. No torch
and no pixels here. The types are types.py.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

from pydantic import ConfigDict, StrictFloat, TypeAdapter, ValidationError

from pairuni.errors import InputError
from pairuni.files import gathering, read_json, read_jsonl
from pairuni.types import Kind, Pair, Quadruple, Sample, Side
from pairuni.validation import input_error

ALIASES = {"image_path": "image", "prompt": "caption"}
"""Our name of a key -> the other one under which samples and quadruples may have it."""
_ROW = ConfigDict(extra="allow")  # not strict as a whole: strict dataclasses refuse dicts


@dataclass(frozen=True)
class _HalfRow:
    __pydantic_config__ = _ROW
    image_path: str
    prompt: str
    question: str
    answer: str
    id: str | None = None
    side: Literal["understanding", "generation"] | None = None
    tag: str = ""


@dataclass(frozen=True)
class _QuadrupleRow:
    __pydantic_config__ = _ROW
    side: Literal["understanding", "generation"]
    image_path: str
    prompt: str
    question: str
    answer: str
    id: str | None = None
    tag: str = ""


@dataclass(frozen=True)
class _PairRow:
    __pydantic_config__ = _ROW
    similarity: StrictFloat
    generate_ann: _HalfRow
    understand_ann: _HalfRow
    kind: Kind | None = None
    id: str | None = None


@dataclass(frozen=True)
class _SampleRow:
    __pydantic_config__ = _ROW
    image_path: str
    id: str | None = None
    prompt: str | None = None
    question: str | None = None
    answer: str | None = None
    tag: str = ""


Row = TypeVar("Row")
_PAIR, _QUADRUPLE, _SAMPLE = TypeAdapter(_PairRow), TypeAdapter(_QuadrupleRow), TypeAdapter(_SampleRow)


def read_pairs(path: str | Path, image_root: str | Path | None = None) -> list[Pair]:
    """Reads pairs.jsonl (or the published PairUG files, which have no `kind`).

    Without `kind`, a pair is aligned iff both halves name the same image. Image paths are checked to stay inside
    `image_root` (default: `pairs_root`) but are not opened.

    Raises:
        InputError: a line is not JSON, a field is missing, of the wrong type or empty, a similarity is outside
            [0, 1], an aligned pair has a similarity other than 1 or two images, or an image path leaves the root.
    """
    return list(numbered_pairs(path, image_root).values())


def numbered_pairs(
    path: str | Path, image_root: str | Path | None = None, faults: list[InputError] | None = None
) -> dict[int, Pair]:
    """As `read_pairs`, by line. Where `faults` is given, what is wrong with lines is put there, and they are left out.

    Raises InputError as `read_pairs` does.
    """
    path = Path(path)
    root = pairs_root(path, image_root)
    pairs: dict[int, Pair] = {}
    for n, raw in read_jsonl(path, faults):
        with gathering(faults):
            pairs[n] = _to_pair(validate_row(_PAIR, raw, path, n), raw, path, n, root)
    _check_unique({n: p.id for n, p in pairs.items()}, path, faults)
    if not pairs and not faults:
        raise InputError("holds no pairs", file=path)
    return pairs


def read_quadruples(path: str | Path, image_root: str | Path | None = None) -> list[Quadruple]:
    """Reads quadruples.jsonl. Raises InputError as `read_pairs` does, also for an id that occurs twice."""
    return list(numbered_quadruples(path, image_root).values())


def numbered_quadruples(
    path: str | Path, image_root: str | Path | None = None, faults: list[InputError] | None = None
) -> dict[int, Quadruple]:
    """As `read_quadruples`, by line; `faults` as in `numbered_pairs`. Raises InputError likewise."""
    path = Path(path)
    root = Path(image_root) if image_root is not None else path.parent
    quadruples: dict[int, Quadruple] = {}
    made: Counter[str] = Counter()
    for n, given in read_jsonl(path, faults):
        with gathering(faults), _as_given(given) as raw:
            row = validate_row(_QUADRUPLE, raw, path, n)
            side = Side(row.side)
            id = row.id or _made_id(side, (row.image_path, row.prompt, row.question, row.answer), made)
            quadruples[n] = _to_quadruple(row, raw, id, side, (path, n, "", root))
    _check_unique({n: q.id for n, q in quadruples.items()}, path, faults)
    if not quadruples and not faults:
        raise InputError("holds no quadruples", file=path)
    return quadruples


def iter_samples(
    path: str | Path, side: Side, image_root: str | Path | None = None, faults: list[InputError] | None = None
) -> Iterator[tuple[int, Sample]]:
    """(line, sample) of one side's source file: {"id", "image_path", "prompt"} or {..., "question", "answer"}.

    image and caption will do for image_path and prompt. A sample without an id gets one that its content decides.
    Raises InputError as `read_pairs` does, but does not look for ids that occur twice; `faults` as in `numbered_pairs`.
    """
    path = Path(path)
    root = Path(image_root) if image_root is not None else path.parent
    empty = True
    made: Counter[str] = Counter()
    for n, given in read_jsonl(path, faults):
        empty, sample = False, None
        with gathering(faults), _as_given(given) as raw:
            row = validate_row(_SAMPLE, raw, path, n)
            half = (row.prompt,) if side is Side.GENERATION else (row.question, row.answer)
            id = row.id or _made_id(side, (row.image_path, *half), made)
            sample = _to_sample(replace(row, id=id), raw, side, (path, n, root))
        if sample is not None:
            yield n, sample
    if empty and not faults:
        raise InputError("holds no samples", file=path)


def _to_sample(row: _SampleRow, raw: dict[str, Any], side: Side, where: tuple[Path, int, Path]) -> Sample:
    path, n, root = where
    resolve_image(row.image_path, root, file=path, line=n)
    for name in ("prompt",) if side is Side.GENERATION else ("question", "answer"):
        if not (raw.get(name) or "").strip():
            raise InputError("is missing or empty", file=path, line=n, field=name)
    kept = {"prompt": row.prompt} if side is Side.GENERATION else {"question": row.question, "answer": row.answer}
    extra = {k: v for k, v in raw.items() if k not in ("id", "side", "image_path", "tag", *kept)}
    return Sample(row.id or "", side, row.image_path, tag=row.tag, extra=extra, **kept)


@contextmanager
def _as_given(given: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The row under our names of its keys. An InputError about one of them has the name that the file gave it."""
    renamed = {ours: other for ours, other in ALIASES.items() if ours not in given and other in given}
    ours = {other: name for name, other in renamed.items()}
    try:
        yield {ours.get(key, key): value for key, value in given.items()}
    except InputError as err:
        if err.field not in renamed:
            raise
        raise InputError(err.message, file=err.file, line=err.line, field=renamed[err.field]) from None


def _made_id(side: Side, content: tuple[str | None, ...], made: Counter[str]) -> str:
    """An id that the content decides; of equal rows the second and later ones are numbered, which `made` counts."""
    id = f"{side[0]}{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]}"
    made[id] += 1
    return id if made[id] == 1 else f"{id}.{made[id]}"


def pairs_root(pairs: str | Path, image_root: str | Path | None = None) -> Path:
    """The folder that the image paths of a pairs file are relative to.

    `image_root` where it is given, else the one that `pair` wrote into pairing.json beside the file, else the file's.

    Raises:
        InputError: pairing.json is there and broken.
    """
    if image_root is not None:
        return Path(image_root)
    folder = Path(pairs).parent
    record = folder / "pairing.json"
    recorded = read_json(record).get("image_root") if record.is_file() else None
    return Path(os.path.normpath(folder / recorded)) if isinstance(recorded, str) else folder


def read_samples(path: str | Path, side: Side, image_root: str | Path | None = None) -> list[Sample]:
    """All of `iter_samples`. Raises InputError likewise, and for an id that occurs twice."""
    return list(numbered_samples(path, side, image_root).values())


def numbered_samples(
    path: str | Path, side: Side, image_root: str | Path | None = None, faults: list[InputError] | None = None
) -> dict[int, Sample]:
    """As `read_samples`, by line; `faults` as in `numbered_pairs`. Raises InputError likewise."""
    samples = dict(iter_samples(path, side, image_root, faults))
    _check_unique({n: s.id for n, s in samples.items()}, Path(path), faults)
    return samples


def resolve_image(
    image_path: str, root: str | Path, *, file: str | Path | None = None, line: int | None = None, field: str = ""
) -> Path:
    """The image's path under `root`. Raises InputError for absolute paths and for paths that leave the root."""
    pure = PurePosixPath(image_path)
    depth = 0
    for part in pure.parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            break
    if not image_path or pure.is_absolute() or depth < 0 or "\0" in image_path:
        message = f"{image_path!r} must be a relative path inside {root}"
        raise InputError(message, file=file, line=line, field=field or "image_path")
    return Path(root) / pure


def validate_row(adapter: TypeAdapter[Row], raw: dict[str, Any], path: Path, n: int) -> Row:
    """Line `n` of a file as what `adapter` makes of it. Raises InputError naming file, line and field."""
    try:
        return adapter.validate_python(raw)
    except ValidationError as err:
        raise input_error(err, file=path, line=n) from None


def _to_quadruple(
    row: _HalfRow | _QuadrupleRow, raw: dict[str, Any], id: str, side: Side | None, where: tuple[Path, int, str, Path]
) -> Quadruple:
    path, n, prefix, root = where
    for name in ("prompt", "question", "answer"):
        if not raw[name].strip():
            raise InputError("is empty", file=path, line=n, field=prefix + name)
    resolve_image(row.image_path, root, file=path, line=n, field=prefix + "image_path")
    extra = {k: v for k, v in raw.items() if k not in _QuadrupleRow.__dataclass_fields__}
    return Quadruple(id, side, row.image_path, row.prompt, row.question, row.answer, row.tag, extra)


def _to_pair(row: _PairRow, raw: dict[str, Any], path: Path, n: int, root: Path) -> Pair:
    same = row.generate_ann.image_path == row.understand_ann.image_path
    kind: Kind = row.kind or ("aligned" if same else "retrieved")
    if not 0.0 <= row.similarity <= 1.0:
        raise InputError(f"must be in [0, 1], not {row.similarity}", file=path, line=n, field="similarity")
    if row.kind == "aligned" and row.similarity != 1.0:
        raise InputError(f"an aligned pair has 1.0, not {row.similarity}", file=path, line=n, field="similarity")
    if row.kind == "aligned" and not same:
        raise InputError("an aligned pair has one image, this one two", file=path, line=n, field="kind")
    halves = {}
    for key, half, fallback in (
        ("generate_ann", row.generate_ann, Side.GENERATION),
        ("understand_ann", row.understand_ann, Side.UNDERSTANDING),
    ):
        side = Side(half.side) if half.side else None if kind == "aligned" else fallback
        id = half.id or f"{n}.{'a' if same else fallback[0]}"
        halves[key] = _to_quadruple(half, raw[key], id, side, (path, n, f"{key}.", root))
    extra = {k: v for k, v in raw.items() if k not in _PairRow.__dataclass_fields__}
    similarity = 1.0 if kind == "aligned" else row.similarity
    return Pair(row.id or str(n), kind, similarity, halves["generate_ann"], halves["understand_ann"], extra)


def _check_unique(id_of_line: Mapping[int, str], path: Path, faults: list[InputError] | None = None) -> None:
    first: dict[str, int] = {}
    for n, id in id_of_line.items():
        with gathering(faults):
            if first.setdefault(id, n) != n:
                raise InputError(f"{id!r} stands in line {first[id]} already", file=path, line=n, field="id")
