"""Shared readers of items: files in the layout of their authors, or rows as the `datasets` library reads them."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from pairuni.config import EvalConfig, SourceConfig
from pairuni.data.images import BROKEN_IMAGE, StoredImage
from pairuni.data.sources import stream_rows
from pairuni.errors import InputError
from pairuni.eval.base import Item
from pairuni.files import read_jsonl


@dataclass(frozen=True)
class Row:
    """A row of a benchmark's data. Messages about it name its file and line."""

    values: Mapping[str, Any]
    file: str
    line: int

    def __getitem__(self, name: str) -> Any:
        """Raises InputError where the row lacks the field."""
        if self.values.get(name) is None:
            raise InputError("is missing", file=self.file, line=self.line, field=name)
        return self.values[name]

    def image(self, field: str = "image") -> Path | StoredImage:
        """Its image: {"bytes"} or {"path"}, or in JSON Lines a path from the file's folder. Raises InputError."""
        image = self.values.get(field)
        given: Any = {"path": image} if isinstance(image, str) else image
        try:
            content = given.get("bytes")
            found = StoredImage(content, self.file, self.line)
            if content is None:
                found = Path(self.file).parent / given["path"]
            # Its kind and size only; the rest is decoded when it is asked about.
            Image.open(found if isinstance(found, Path) else io.BytesIO(found.content)).close()
        except (*BROKEN_IMAGE, TypeError, KeyError, AttributeError) as err:
            raise InputError(f"cannot be read ({err})", file=self.file, line=self.line, field=field) from None
        return found


def read_rows(path: str | Path) -> Iterator[Row]:
    """The rows of a JSON Lines file. Raises InputError."""
    return (Row(row, str(path), n) for n, row in read_jsonl(path))


def rows_of(where: str, split: str) -> Iterator[Row]:
    """Rows of a hub id, of local parquet or arrow files, or of JSON Lines of the same columns. Raises InputError."""
    if where.endswith(".jsonl"):
        yield from read_rows(where)
        return
    copies: dict[bytes, bytes] = {}  # benchmarks ask several questions about an image: it is held once
    for n, row in enumerate(stream_rows(where, SourceConfig(format="datasets", split=split)), 1):
        for name, value in row.items():
            if isinstance(value, dict) and value.get("bytes"):
                row[name] = {"bytes": copies.setdefault(value["bytes"], value["bytes"])}
        yield Row(row, where, n)


def with_images(items: list[tuple[Item, str]], config: EvalConfig, name: str, default: Path) -> list[Item]:
    """(item, file name) -> items with their files in the folder of `images`; a missing file as `missing_images` says.

    COCO's older names (COCO_val2014_000000000042.jpg) stand for 000000000042.jpg too.

    Raises:
        InputError: an image is missing (or all are), naming the file.
    """
    folder = Path(config.images.get(name, default))
    found: list[Item] = []
    for item, file in items:
        names = [file, file.rpartition("_")[2]] if file.startswith("COCO_") else [file]
        image = next((folder / name for name in names if name and (folder / name).is_file()), None)
        if image is None and config.missing_images == "error":
            raise InputError(f"no such image for {item.id}: missing_images: skip leaves it out", file=folder / file)
        if image is not None:
            found.append(replace(item, images=(image,), group=file))
    if not found:
        raise InputError(f"holds none of the images of {name}", file=folder)
    return found
