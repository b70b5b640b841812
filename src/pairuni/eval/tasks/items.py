"""What the tasks share: items from files in the layout of their authors, or as the `datasets` library reads them."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from pairuni.config import EvalConfig, SourceConfig
from pairuni.data.sources import stream_rows
from pairuni.errors import InputError
from pairuni.eval.base import Item
from pairuni.policies.base import SamplingSpec
from pairuni.records import Side


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


def hub_rows(where: str, split: str, subset: str | None = None) -> Iterator[Mapping[str, Any]]:
    """Rows of a hub id or of local parquet or arrow files; images as {"bytes", "path"}. Raises InputError."""
    return stream_rows(where, SourceConfig(format="datasets", split=split, subset=subset))


def field_of(row: Mapping[str, Any], name: str, where: str, n: int) -> Any:
    """Raises InputError where the row lacks it."""
    if row.get(name) is None:
        raise InputError("is missing", file=where, line=n, field=name)
    return row[name]


def decoded(image: Any, where: str, n: int) -> np.ndarray:
    """uint8 [H, W, 3] of a row's image. Raises InputError."""
    try:
        content = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    except (OSError, UnidentifiedImageError, TypeError, KeyError, ValueError) as err:
        raise InputError(f"cannot be read ({err})", file=where, line=n, field="image") from None


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
            found.append(Item(item.id, item.part, item.text, image, item.gold, file))
    if not found:
        raise InputError(f"holds none of the images of {name}", file=folder)
    return found
