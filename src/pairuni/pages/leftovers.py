"""Reads the samples that did not become pairs: unmatched.jsonl and removed.jsonl of `pair`, rejected.jsonl of
`complete`. Each line is a sample or quadruple with a `reason`. Each file may be absent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, StrictFloat, TypeAdapter

from pairuni.data.overview import PairingRecord
from pairuni.errors import InputError
from pairuni.files import read_jsonl
from pairuni.records import resolve_image, validate_row


@dataclass(frozen=True)
class Leftover:
    """A line of such a file."""

    __pydantic_config__ = ConfigDict(allow_inf_nan=False)
    id: str
    image_path: str
    reason: str
    side: Literal["understanding", "generation"] | None = None
    prompt: str | None = None
    question: str | None = None
    answer: str | None = None
    tag: str = ""
    of: str | None = None
    """What a removed sample copies: an id, a reference image, or words."""
    similarity: StrictFloat | None = None
    """Similarity to `of`."""

    @property
    def cause(self) -> str:
        """The reason up to its colon; details of the sample follow there."""
        return self.reason.partition(":")[0].strip()


@dataclass(frozen=True)
class LeftoverFile:
    """A file of left-over samples; image paths are relative to `root`."""

    path: Path
    root: Path
    rows: list[Leftover]


_ROW = TypeAdapter(Leftover)


def read_leftovers(path: Path, root: Path) -> LeftoverFile:
    """Reads one file.

    Raises:
        InputError: it is missing, or a line is not JSON, lacks id, image_path or reason, has a field of the wrong type
            or an image path that leaves `root`.
    """
    rows = []
    for n, raw in read_jsonl(path):
        row = validate_row(_ROW, raw, path, n)
        if not row.reason.strip():
            raise InputError("is empty", file=path, line=n, field="reason")
        resolve_image(row.image_path, root, file=path, line=n)
        rows.append(row)
    return LeftoverFile(path, root, rows)


def rejected_files(pairs: Path, record: PairingRecord | None, named: Sequence[str]) -> list[Path]:
    """The named files of rejected samples, or else rejected.jsonl beside the quadruples, or else beside the pairs.

    pairing.json has the path of the quadruples as it was given to `pair`, so it may lead nowhere from here.
    """
    if named:
        return [Path(name) for name in named]
    source = None if record is None else record.options.get("quadruples")
    folders = [Path(source).parent] if isinstance(source, str) else []
    found = [folder / "rejected.jsonl" for folder in (*folders, pairs.parent)]
    return [path for path in found if path.is_file()][:1]
