"""Shared by the exports: a folder that replaces only an earlier export, images of pairs, parquet files; for other
trainers a row per half of a pair, with the facts and the weight of its pair.

A trainer draws rows, not pairs. So each row carries its pair's id, kind, similarity and weight, and row i of either
side is pair i. docs/exporters.md says where the weight enters in each trainer. Rows are streamed: one row group is in
memory.
"""

import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

from pairuni.algo.weights import pair_weights
from pairuni.config import HfDatasetConfig, UnirlConfig, VerlOmniConfig
from pairuni.data.images import load_image
from pairuni.errors import InputError
from pairuni.files import atomic_path, check_folder, file_hash, locked, read_jsonl, write_json
from pairuni.outputs import RECORD as WRITTEN
from pairuni.outputs import Outputs, record_folder
from pairuni.progress import track
from pairuni.records import pairs_root, read_pairs, resolve_image
from pairuni.types import Pair, Side

RECORD = "pairuni_export.json"
"""Says that a folder is an export, so that another may replace it."""
_GROUP_ROWS, _GROUP_BYTES = 100, 32_000_000
"""A row group ends at either, so that readers and this writer hold few images at once."""


@contextmanager
def export_folder(
    config: HfDatasetConfig | VerlOmniConfig | UnirlConfig, written: str, plain: bool = False
) -> Iterator[tuple[Path, list[tuple[int, Pair]], "PairImages"]]:
    """Yields (a new folder to fill, each pair with its line, their images); the folder appears whole or not at all.

    Args:
        written: a pattern of the files that this export writes, beside RECORD.
        plain: as `PairImages`.

    Raises:
        InputError: a line of the pairs is wrong, or writing would lose something that is not an earlier export of this
            form: `config.overwrite` allows it, but never where the pairs or their images lie in the folder.
    """
    path, output = Path(config.pairs), Path(config.output)
    root = pairs_root(path, config.image_root)
    pairs = read_pairs(path, root)
    numbered = list(zip((n for n, _ in read_jsonl(path)), pairs, strict=True))
    check_folder(output)
    if output.is_symlink():
        raise InputError("is a link; name the folder itself", file=output)
    whole = output.resolve()
    images = {root / half.image_path for pair in pairs for half in (pair.generate, pair.understand)}
    for place in (path, root, *images, Path.cwd()):
        if place.resolve().is_relative_to(whole):
            raise InputError(f"would be replaced, and {place} lies in it", file=output)
    if not config.overwrite and output.is_dir() and any(output.iterdir()):
        files = [file.relative_to(output).as_posix() for file in output.rglob("*") if not file.is_dir()]
        if RECORD not in files:
            raise InputError("is not empty and no earlier export; overwrite = true replaces it", file=output)
        foreign = sorted(file for file in files if file not in (RECORD, WRITTEN) and not re.fullmatch(written, file))
        if foreign:
            message = f"holds {foreign[0]}, which this export does not write; overwrite = true deletes it with the rest"
            raise InputError(message, file=output)
        Outputs(output, "export", ["**"])  # refuses files that were edited since
    with locked(output, beside=True), atomic_path(output) as folder:
        folder.mkdir(parents=True)
        yield folder, numbered, PairImages(path, root, plain)
        record_folder(folder, "export")


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
        """The hash of all images, in the order of their paths."""
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
        """Bytes of images in the rows so far, those that wait for their row group included."""
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


# ---- rows for other trainers ----------------------------------------------------------------------------------------

IMAGE_FIELD = "understand_ann.image_path"
"""The field of the one image that a trainer gets: the question's."""


@dataclass(frozen=True)
class WeightedPair:
    """A pair, the line of the file that it stands in, and its weight."""

    line: int
    pair: Pair
    weight: float

    def facts(self, side: Side) -> dict[str, str | float]:
        """The facts about the pair and its half in the row of one side."""
        half = self.pair.half(side)
        return {
            "pair_id": self.pair.id,
            "side": str(side),
            "kind": self.pair.kind,
            "similarity": self.pair.similarity,
            "weight": self.weight,
            "sample_id": half.id,
            "tag": half.tag,
            "prompt": half.prompt,
            "question": half.question,
            "answer": half.answer,
            "image_path": half.image_path,
        }


Write = Callable[[Path, Iterable[WeightedPair], PairImages], None]
"""Writes the rows of all pairs into a new folder."""


def write_folder(config: VerlOmniConfig | UnirlConfig, form: str, written: str, write: Write) -> dict[str, Any]:
    """Writes the folder whole or not at all, and returns what its pairuni_export.json holds, and `notes`.

    Raises:
        InputError: a line of the pairs is wrong, an image is missing or broken (naming file, line and field), or
            `output` holds something else than an earlier export and `overwrite` is not set.
    """
    with export_folder(config, written, plain=True) as (folder, numbered, images):
        similarity_B = np.array([pair.similarity for _, pair in numbered], dtype=np.float64)
        aligned_B = [pair.kind == "aligned" for _, pair in numbered]
        weights: list[float] = pair_weights(similarity_B, aligned_B, config.weighting).tolist()
        pairs = [WeightedPair(n, pair, weight) for (n, pair), weight in zip(numbered, weights, strict=True)]
        write(folder, track(pairs, "export", unit="pair"), images)
        kinds = Counter(pair.kind for _, pair in numbered)
        record = {
            "pairuni": metadata.version("pairuni"),
            "form": form,
            "pairs": len(pairs),
            "kinds": {kind: kinds[kind] for kind in ("aligned", "retrieved")},
            "weighting": config.weighting,
            "weights": {"min": min(weights), "mean": sum(weights) / len(weights), "max": max(weights)},
            "images": len(images.hashes),
            "images_encoded_anew": len(images.encoded_anew),
            "bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
            "pairs_hash": file_hash(config.pairs),
            "images_hash": images.hash(),
        }
        write_json(folder / RECORD, record)
    notes = []
    if anew := len(images.encoded_anew):
        notes.append(f"images turned by EXIF, transparent or of 16 bits, written as plain PNG: {anew}")
    if idle := weights.count(0.0):
        notes.append(f"pairs of weight 0, from which nothing is learned: {idle}")
    return {**record, "notes": notes}
