"""`write_hf_dataset`: pairs.jsonl and its images -> a folder that `datasets.load_dataset` reads and the Hub takes.

    pairuni export hf-dataset PAIRS.jsonl --output DIR

One row per pair: both halves as columns (`features`), images as the bytes of their files. Rows are streamed: the
pairs' text and one row group are in memory. The data card is card.py's.
"""

import json
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from typing import Any

import datasets

from pairuni.config import HfDatasetConfig
from pairuni.data.overview import overview, read_pairing
from pairuni.export.card import ExportCard, similarity_png, write_card
from pairuni.export.folder import RECORD, PairImages, ParquetFile, export_folder
from pairuni.files import file_hash, write_json
from pairuni.progress import track
from pairuni.types import Pair, Quadruple

_WRITTEN = r"README\.md|similarity\.png|data/train-\d{5}-of-\d{5}\.parquet"
_FIELDS = ("prompt", "question", "answer", "tag", "id", "side", "image_path")
"""The columns of each half, beside its image."""
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
    with export_folder(config, _WRITTEN) as (folder, numbered, images):
        path = Path(config.pairs)
        pairing = read_pairing(path)
        fresh = pairing[0] if pairing is not None and pairing[1] else None
        notes = [] if config.license else ["no license was named: the data card states none"]
        if pairing is None:
            notes.append("no pairing.json beside the pairs: the data card does not say how they were made")
        elif fresh is None:
            notes.append("pairing.json was written with another pairs file: the data card leaves it out")
        pairs = [pair for _, pair in numbered]
        (folder / "data").mkdir()
        schema = features().arrow_schema  # says to `datasets` which columns are images
        limit, shards = config.shard_mb * 1_000_000, list[ParquetFile]()
        with ExitStack() as stack:
            for n, pair in track(numbered, "export", unit="pair"):
                if not shards or shards[-1].image_bytes >= limit:
                    stack.close()  # ends the file before
                    shards.append(ParquetFile(folder / "data" / f"{len(shards)}.parquet", schema, limit))
                    stack.callback(shards[-1].close)
                row = _row(pair, images, n)
                shards[-1].add(row, sum(len(row[f"{half}_image"]["bytes"]) for half in _HALVES))
        # The Hub's names, which tell how many files there are.
        names = (f"train-{n:05d}-of-{len(shards):05d}.parquet" for n in range(len(shards)))
        files = [shard.path.rename(shard.path.with_name(name)) for shard, name in zip(shards, names, strict=True)]
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
        examples = []  # two of each kind, from the middle of its range of similarity
        for kind in ("aligned", "retrieved"):
            found = sorted((pair for pair in pairs if pair.kind == kind), key=lambda pair: pair.similarity)
            examples += [pair.to_json() for pair in found[len(found) // 2 :][:2]]
        write_card(folder / "README.md", ExportCard(config, counted, fresh, record, examples))
        write_json(folder / RECORD, record)
    return {**record, "notes": notes}


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
