"""`write_hf_dataset`: pairs.jsonl and its images -> a folder that `datasets.load_dataset` reads and the Hub takes.

    pairuni export hf-dataset PAIRS.jsonl --output DIR

One row per pair: both halves as columns (`features`), images as the bytes of their files. Rows are streamed: what is in
memory is the pairs' text and one row group. The data card is card.py's.
"""

import json
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import datasets

from pairuni.config import HfDatasetConfig
from pairuni.data.overview import overview, read_pairing
from pairuni.export.card import Card, similarity_png, write_card
from pairuni.export.folder import RECORD, PairImages, ParquetFile, check_output, read_from, read_numbered
from pairuni.files import atomic_path, file_hash, locked, write_json
from pairuni.outputs import record_folder
from pairuni.progress import track
from pairuni.records import pairs_root
from pairuni.types import Pair, Quadruple

_WRITTEN = r"README\.md|similarity\.png|data/train-\d{5}-of-\d{5}\.parquet"
_FIELDS = ("prompt", "question", "answer", "tag", "id", "side", "image_path")
"""Of each half, beside its image."""
_HALVES = {"generate": "generate_ann", "understand": "understand_ann"}


def features() -> datasets.Features:
    """The columns: id, kind, similarity; generate_* and understand_* for each field of a quadruple; extra."""
    text = datasets.Value("string")
    columns: dict[str, Any] = {"id": text, "kind": text, "similarity": datasets.Value("float64")}
    for half in _HALVES:
        columns |= {f"{half}_image": datasets.Image()}
        columns |= {f"{half}_{name}": text for name in _FIELDS}
    return datasets.Features(columns | {"extra": text})


def write_hf_dataset(config: HfDatasetConfig) -> dict[str, Any]:
    """Writes the folder whole or not at all, and returns what its pairuni_export.json holds, and `notes`.

    Raises:
        InputError: a line of the pairs is wrong, an image is missing or broken (naming file, line and field), or
            `output` holds something else than an earlier export and `overwrite` is not set.
    """
    path, output = Path(config.pairs), Path(config.output)
    root = pairs_root(path, config.image_root)
    numbered = read_numbered(path, root)
    pairs = [pair for _, pair in numbered]
    check_output(output, config.overwrite, read_from(path, root, pairs), _WRITTEN)
    pairing = read_pairing(path)
    fresh = pairing[0] if pairing is not None and pairing[1] else None
    notes = _notes(config, pairing is not None, fresh is not None)
    with locked(output, beside=True), atomic_path(output) as folder:
        (folder / "data").mkdir(parents=True)
        shards = _Shards(folder / "data", config.shard_mb * 1_000_000)
        images = PairImages(path, root)
        try:
            for n, pair in track(numbered, "export", unit="pair"):
                shards.add(_row(pair, images, n))
        finally:
            shards.close()
        files = _counted(shards.files)
        record = {
            "pairuni": metadata.version("pairuni"),
            "pairs": len(pairs),
            "files": len(files),
            "bytes": sum(file.stat().st_size for file in files),
            "pairs_hash": file_hash(path),
            "images_hash": images.hash(),
        }
        counted = overview(pairs)
        similarity_png(counted.similarities, folder / "similarity.png")
        examples = [pair.to_json() for pair in _examples(pairs)]
        write_card(folder / "README.md", Card(config, counted, fresh, record, examples))
        write_json(folder / RECORD, record)
        record_folder(folder, "export")
    return {**record, "notes": notes}


class _Shards:
    """Parquet files in `folder`; a new one begins after `limit` bytes of images."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.files: list[Path] = []
        self._folder, self._limit = folder, limit
        self._schema = features().arrow_schema  # says to `datasets` which columns are images
        self._file: ParquetFile | None = None

    def add(self, row: dict[str, Any]) -> None:
        if self._file is None:
            self.files.append(self._folder / f"{len(self.files)}.parquet")
            self._file = ParquetFile(self.files[-1], self._schema, self._limit)
        self._file.add(row, sum(len(row[f"{half}_image"]["bytes"]) for half in _HALVES))
        if self._file.image_bytes >= self._limit:
            self.close()

    def close(self) -> None:
        """Ends the file that is being written, if there is one."""
        if self._file is not None:
            self._file.close()
        self._file = None


def _row(pair: Pair, images: PairImages, line: int) -> dict[str, Any]:
    row: dict[str, Any] = {"id": pair.id, "kind": pair.kind, "similarity": pair.similarity}
    extra = {"pair": pair.extra} if pair.extra else {}
    for name, key in _HALVES.items():
        half: Quadruple = vars(pair)[name]
        content = images.read(half.image_path, line, f"{key}.image_path")
        row[f"{name}_image"] = {"bytes": content, "path": Path(half.image_path).name}
        known = {field_name: vars(half)[field_name] for field_name in _FIELDS}
        known["side"] = None if half.side is None else str(half.side)
        row |= {f"{name}_{field_name}": value for field_name, value in known.items()}
        extra |= {key: half.extra} if half.extra else {}
    row["extra"] = json.dumps(extra, ensure_ascii=False) if extra else None
    return row


def _counted(files: Sequence[Path]) -> list[Path]:
    """The files under the names that the Hub gives them, which tell how many there are."""
    named = [file.with_name(f"train-{n:05d}-of-{len(files):05d}.parquet") for n, file in enumerate(files)]
    return [file.rename(name) for file, name in zip(files, named, strict=True)]


def _examples(pairs: Sequence[Pair]) -> Iterator[Pair]:
    """Two of each kind, from the middle of its range of similarity."""
    for kind in ("aligned", "retrieved"):
        found = sorted((pair for pair in pairs if pair.kind == kind), key=lambda pair: pair.similarity)
        yield from found[len(found) // 2 :][:2]


def _notes(config: HfDatasetConfig, known: bool, fresh: bool) -> list[str]:
    notes = [] if config.license else ["no license was named: the data card states none"]
    if not known:
        notes.append("no pairing.json beside the pairs: the data card does not say how they were made")
    elif not fresh:
        notes.append("pairing.json was written with another pairs file: the data card leaves it out")
    return notes
