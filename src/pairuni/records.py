"""Samples, quadruples and pairs as JSON Lines: reading, validating, and where their images are.

pairs.jsonl is the published PairUG format (paper section 2, record format) plus `kind`; unknown keys are kept. No torch
and no pixels here. The types are types.py.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, StrictFloat, TypeAdapter, ValidationError, model_validator

from pairuni.errors import InputError
from pairuni.files import gathering, read_json, read_jsonl
from pairuni.types import Kind, Pair, Quadruple, Sample, Side
from pairuni.validation import input_error

ALIASES = {"image_path": "image", "prompt": "caption"}
"""Our name of a key -> the other one under which samples and quadruples may have it."""


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    return text


def _share(number: float) -> float:
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"must be in [0, 1], not {number}")
    return number


_Text = Annotated[str, AfterValidator(_not_blank)]


class _FileRow(BaseModel):
    model_config = ConfigDict(extra="allow")


class _WholeRow(_FileRow):
    image_path: str
    prompt: _Text
    question: _Text
    answer: _Text
    id: str | None = None
    tag: str = ""

    def quadruple(self, id: str, side: Side | None) -> Quadruple:
        texts = self.prompt, self.question, self.answer
        return Quadruple(id, side, self.image_path, *texts, self.tag, self.model_extra or {})


class _HalfRow(_WholeRow):
    side: Literal["understanding", "generation"] | None = None


class _QuadrupleRow(_WholeRow):
    side: Literal["understanding", "generation"]


class _PairRow(_FileRow):
    similarity: Annotated[StrictFloat, AfterValidator(_share)]
    generate_ann: _HalfRow
    understand_ann: _HalfRow
    kind: Kind | None = None
    id: str | None = None

    @model_validator(mode="after")
    def _aligned_is_one_image(self) -> Self:
        if self.kind == "aligned" and self.similarity != 1.0:
            raise InputError(f"an aligned pair has 1.0, not {self.similarity}", field="similarity")
        if self.kind == "aligned" and self.generate_ann.image_path != self.understand_ann.image_path:
            raise InputError("an aligned pair has one image, this one two", field="kind")
        return self


class _SampleRow(_FileRow):
    image_path: str
    id: str | None = None
    prompt: str | None = None
    question: str | None = None
    answer: str | None = None
    tag: str = ""


Row = TypeVar("Row")
Record = TypeVar("Record", Pair, Quadruple, Sample)
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
    path, root = Path(path), pairs_root(path, image_root)

    def pair(n: int, raw: dict[str, Any]) -> Pair:
        row = validate_row(_PAIR, raw, path, n)
        same = row.generate_ann.image_path == row.understand_ann.image_path
        kind: Kind = row.kind or ("aligned" if same else "retrieved")
        halves = {}
        for key, side in (("generate_ann", Side.GENERATION), ("understand_ann", Side.UNDERSTANDING)):
            half: _HalfRow = vars(row)[key]
            resolve_image(half.image_path, root, file=path, line=n, field=f"{key}.image_path")
            known = Side(half.side) if half.side else None if kind == "aligned" else side
            halves[key] = half.quadruple(half.id or f"{n}.{'a' if same else side[0]}", known)
        similarity = 1.0 if kind == "aligned" else row.similarity
        extra = row.model_extra or {}
        return Pair(row.id or str(n), kind, similarity, halves["generate_ann"], halves["understand_ann"], extra)

    return _unique(_made(path, pair, "pairs", faults), path, faults)


def read_quadruples(path: str | Path, image_root: str | Path | None = None) -> list[Quadruple]:
    """Reads quadruples.jsonl. Raises InputError as `read_pairs` does, also for an id that occurs twice."""
    return list(numbered_quadruples(path, image_root).values())


def numbered_quadruples(
    path: str | Path, image_root: str | Path | None = None, faults: list[InputError] | None = None
) -> dict[int, Quadruple]:
    """As `read_quadruples`, by line; `faults` as in `numbered_pairs`. Raises InputError likewise."""
    path = Path(path)
    root = Path(image_root) if image_root is not None else path.parent
    made: Counter[str] = Counter()

    def quadruple(n: int, given: dict[str, Any]) -> Quadruple:
        with _as_given(given) as raw:
            row = validate_row(_QUADRUPLE, raw, path, n)
            resolve_image(row.image_path, root, file=path, line=n)
        side = Side(row.side)
        id = row.id or _made_id(side, (row.image_path, row.prompt, row.question, row.answer), made)
        return row.quadruple(id, side)

    return _unique(_made(path, quadruple, "quadruples", faults), path, faults)


def iter_samples(
    path: str | Path, side: Side, image_root: str | Path | None = None, faults: list[InputError] | None = None
) -> Iterator[tuple[int, Sample]]:
    """(line, sample) of one side's source file: {"id", "image_path", "prompt"} or {..., "question", "answer"}.

    image and caption will do for image_path and prompt. A sample without an id gets one that its content decides.
    Raises InputError as `read_pairs` does, but does not look for ids that occur twice; `faults` as in `numbered_pairs`.
    """
    path = Path(path)
    root = Path(image_root) if image_root is not None else path.parent
    names = ("prompt",) if side is Side.GENERATION else ("question", "answer")
    made: Counter[str] = Counter()

    def sample(n: int, given: dict[str, Any]) -> Sample:
        with _as_given(given) as raw:
            row = validate_row(_SAMPLE, raw, path, n)
            resolve_image(row.image_path, root, file=path, line=n)
            half: dict[str, str] = {name: vars(row)[name] for name in names}
            for name, text in half.items():
                if not (text or "").strip():
                    raise InputError("is missing or empty", file=path, line=n, field=name)
        id = row.id or _made_id(side, (row.image_path, *half.values()), made)
        extra = {k: v for k, v in raw.items() if k not in ("id", "side", "image_path", "tag", *names)}
        return Sample(id, side, row.image_path, tag=row.tag, extra=extra, **half)

    yield from _made(path, sample, "samples", faults)


def read_samples(path: str | Path, side: Side, image_root: str | Path | None = None) -> list[Sample]:
    """All of `iter_samples`. Raises InputError likewise, and for an id that occurs twice."""
    return list(numbered_samples(path, side, image_root).values())


def numbered_samples(
    path: str | Path, side: Side, image_root: str | Path | None = None, faults: list[InputError] | None = None
) -> dict[int, Sample]:
    """As `read_samples`, by line; `faults` as in `numbered_pairs`. Raises InputError likewise."""
    return _unique(iter_samples(path, side, image_root, faults), Path(path), faults)


def _made(
    path: Path, make: Callable[[int, dict[str, Any]], Record], name: str, faults: list[InputError] | None
) -> Iterator[tuple[int, Record]]:
    empty = True
    for n, raw in read_jsonl(path, faults):
        empty, record = False, None
        with gathering(faults):
            record = make(n, raw)
        if record is not None:
            yield n, record
    if empty and not faults:
        raise InputError(f"holds no {name}", file=path)


def _unique(records: Iterator[tuple[int, Record]], path: Path, faults: list[InputError] | None) -> dict[int, Record]:
    """The records by line. Raises InputError for an id that occurs twice."""
    of_line, first = dict(records), dict[str, int]()
    for n, record in of_line.items():
        with gathering(faults):
            if first.setdefault(record.id, n) != n:
                raise InputError(
                    f"{record.id!r} stands in line {first[record.id]} already", file=path, line=n, field="id"
                )
    return of_line


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


def resolve_image(
    image_path: str,
    root: str | Path,
    *,
    file: str | Path | None = None,
    line: int | None = None,
    field: str = "image_path",
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
        raise InputError(message, file=file, line=line, field=field)
    return Path(root) / pure


def validate_row(adapter: TypeAdapter[Row], raw: dict[str, Any], path: Path, n: int) -> Row:
    """Line `n` of a file as what `adapter` makes of it. Raises InputError naming file, line and field."""
    try:
        return adapter.validate_python(raw)
    except ValidationError as err:
        raise input_error(err, file=path, line=n) from None
