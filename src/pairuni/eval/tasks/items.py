"""What the tasks share: items from files in the layout of their authors, or as the `datasets` library reads them."""

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
from pairuni.types import SamplingSpec, Side


@dataclass(frozen=True)
class Questions:
    """What benchmarks of questions on images have in common: greedy answers, read under the rules of `protocol`."""

    config: EvalConfig
    side: Side = Side.UNDERSTANDING
    unit: str = "per cent"
    judge: str | None = None
    keeps_images: bool = False
    recorded: bool = False
    answer_tokens: int = 20
    """Longest answer."""

    @property
    def protocol(self) -> str:
        return self.config.protocol

    @property
    def factor(self) -> float | None:
        return None

    def spec(self) -> SamplingSpec:
        return SamplingSpec(temperature=0.0, max_new_tokens=self.answer_tokens)


def place(config: EvalConfig, name: str, default: str = "") -> str:
    """Where the items of a benchmark are. Raises InputError where nothing is said and there is no default."""
    where = config.data.get(name, default)
    if not where:
        raise InputError("says where its items are; there is no default", field=f"{config.group}data.{name}")
    return where


def rows_of(where: str, split: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(number, row) of a hub id, of local parquet or arrow files, or of JSON Lines with the same columns.

    Images are as `stored` takes them. Raises InputError.
    """
    if where.endswith(".jsonl"):
        yield from read_jsonl(where)
        return
    copies: dict[bytes, bytes] = {}  # benchmarks ask several questions about an image: it is held once
    for n, row in enumerate(stream_rows(where, SourceConfig(format="datasets", split=split)), 1):
        for name, value in row.items():
            if isinstance(value, dict) and value.get("bytes"):
                row[name] = {"bytes": copies.setdefault(value["bytes"], value["bytes"])}
        yield n, row


def field_of(row: Mapping[str, Any], name: str, where: str, n: int) -> Any:
    """Raises InputError where the row lacks it."""
    if row.get(name) is None:
        raise InputError("is missing", file=where, line=n, field=name)
    return row[name]


def stored(image: Any, where: str, n: int, field: str = "image") -> Path | StoredImage:
    """A row's image: {"bytes"} or {"path"}, or in JSON Lines a path from the file's folder. Raises InputError."""
    given: Any = {"path": image} if isinstance(image, str) else image
    try:
        content = given.get("bytes")
        found = Path(where).parent / given["path"] if content is None else StoredImage(content, where, n)
        # Its kind and size only; the rest is decoded when it is asked about.
        Image.open(found if isinstance(found, Path) else io.BytesIO(found.content)).close()
    except (*BROKEN_IMAGE, TypeError, KeyError, AttributeError) as err:
        raise InputError(f"cannot be read ({err})", file=where, line=n, field=field) from None
    return found


def find_image(folder: Path, name: str) -> Path | None:
    """The file of that name; for COCO's older names (COCO_val2014_000000000042.jpg) also 000000000042.jpg."""
    for candidate in (name, name.rpartition("_")[2] if name.startswith("COCO_") else ""):
        if candidate and (folder / candidate).is_file():
            return folder / candidate
    return None


def with_images(items: list[tuple[Item, str]], config: EvalConfig, name: str, default: Path) -> list[Item]:
    """Items with their files found in the folder of `images`; those without one as `missing_images` says.

    Raises:
        InputError: an image is missing (or all are), naming the file.
    """
    folder = Path(config.images.get(name, default))
    found: list[Item] = []
    for item, file in items:
        image = find_image(folder, file)
        if image is None and config.missing_images == "error":
            raise InputError(f"no such image for {item.id}: missing_images: skip leaves it out", file=folder / file)
        if image is not None:
            found.append(replace(item, images=(image,), group=file))
    if not found:
        raise InputError(f"holds none of the images of {name}", file=folder)
    return found
