"""What the exports share: a folder that replaces nothing but an earlier export, images of pairs, and parquet files.

Nothing here knows what a row says. Rows are streamed: what is in memory is one row group.
"""

import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

from pairuni.data.images import load_image
from pairuni.errors import InputError
from pairuni.files import check_folder, read_jsonl
from pairuni.outputs import RECORD as WRITTEN
from pairuni.outputs import Outputs
from pairuni.records import read_pairs, resolve_image
from pairuni.types import Pair

RECORD = "pairuni_export.json"
"""Says that a folder is an export, so that another may replace it."""
_GROUP_ROWS, _GROUP_BYTES = 100, 32_000_000
"""A row group ends at either, so that readers and this writer hold few images at once."""


def read_from(path: Path, root: Path, pairs: Iterable[Pair]) -> Iterator[Path]:
    """All files and folders that an export of these pairs reads."""
    yield from (path, root)
    yield from {root / half.image_path for pair in pairs for half in (pair.generate, pair.understand)}


def read_numbered(path: Path, root: Path) -> list[tuple[int, Pair]]:
    """The pairs of a file, each with its line, which messages about its images name. Raises as `read_pairs` does."""
    pairs = read_pairs(path, root)
    return list(zip((n for n, _ in read_jsonl(path)), pairs, strict=True))


def check_output(output: Path, overwrite: bool, inputs: Iterable[Path], written: str) -> None:
    """Looks at the folder that an export would replace, before any work is done.

    Args:
        inputs: what is read, images too; it may not lie in `output`, whatever `overwrite` says.
        written: a pattern of the files that this export writes into `output`, beside RECORD.

    Raises:
        InputError: writing would lose something that is not an earlier export of this form, or `output` is a link.
    """
    check_folder(output)
    if output.is_symlink():
        raise InputError("is a link; name the folder itself", file=output)
    whole = output.resolve()
    for path in (*inputs, Path.cwd()):
        if path.resolve().is_relative_to(whole):
            raise InputError(f"would be replaced, and {path} lies in it", file=output)
    if overwrite or not output.is_dir() or not any(output.iterdir()):
        return
    files = [path.relative_to(output).as_posix() for path in output.rglob("*") if not path.is_dir()]
    if RECORD not in files:
        raise InputError("is not empty and no earlier export; overwrite = true replaces it", file=output)
    if foreign := sorted(file for file in files if file not in (RECORD, WRITTEN) and not re.fullmatch(written, file)):
        message = f"holds {foreign[0]}, which this export does not write; overwrite = true deletes it with the rest"
        raise InputError(message, file=output)
    Outputs(output, "export", ["**"])


@dataclass
class PairImages:
    """Image files of the pairs, read and looked at; each one's hash is kept once."""

    pairs: Path
    root: Path
    plain: bool = False
    """Encode anew, as PNG, what `Image.open(...).convert("RGB")` shows otherwise than `load_image`: images that EXIF
    turns, that are transparent or have 16 bits. For readers that know no better way to open a file."""
    hashes: dict[str, str] = field(default_factory=dict)
    encoded_anew: set[str] = field(default_factory=set)

    def read(self, image_path: str, line: int, where: str) -> bytes:
        """The file's bytes. Raises InputError with the line and field that name it, unless it decodes."""
        place = resolve_image(image_path, self.root, file=self.pairs, line=line, field=where)
        try:
            pixels = load_image(place) if image_path not in self.hashes or image_path in self.encoded_anew else None
            content = place.read_bytes()
        except InputError as err:
            raise InputError(f"{place}: {err.message}", file=self.pairs, line=line, field=where) from None
        self.hashes[image_path] = sha256(content).hexdigest()
        if not self.plain or pixels is None or _shows(content, pixels):
            return content
        self.encoded_anew.add(image_path)
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, "PNG")
        return encoded.getvalue()

    def hash(self) -> str:
        """Of all images, by their paths' order."""
        return sha256(" ".join(self.hashes[path] for path in sorted(self.hashes)).encode()).hexdigest()


def _shows(content: bytes, pixels: np.ndarray) -> bool:
    """Whether a reader that opens the file as it is sees these pixels, uint8 [H, W, 3]."""
    with Image.open(io.BytesIO(content)) as file:
        return np.array_equal(np.asarray(file.convert("RGB")), pixels)


class ParquetFile:
    """One parquet file, written row group by row group."""

    def __init__(self, path: Path, schema: pyarrow.Schema, group_bytes: int = _GROUP_BYTES) -> None:
        self.path = path
        self.image_bytes = 0
        """Of the rows so far, those that wait for their row group included."""
        self._schema, self._group_bytes = schema, min(_GROUP_BYTES, group_bytes)
        self._writer = pyarrow.parquet.ParquetWriter(path, schema, write_page_index=True)
        self._rows: list[dict[str, Any]] = []
        self._waiting = 0

    def add(self, row: dict[str, Any], image_bytes: int) -> None:
        """Adds a row; `image_bytes` is the size of the images in it."""
        self._rows.append(row)
        self._waiting += image_bytes
        self.image_bytes += image_bytes
        if len(self._rows) >= _GROUP_ROWS or self._waiting >= self._group_bytes:
            self._flush()

    def close(self) -> None:
        """Ends the file."""
        if self._rows:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        self._writer.write_table(pyarrow.Table.from_pylist(self._rows, schema=self._schema))
        self._waiting, self._rows = 0, []
