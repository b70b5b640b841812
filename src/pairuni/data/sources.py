"""Understanding and generation samples from where they are (paper 2, inputs), one at a time.

JSON Lines beside image files, and everything that the `datasets` library streams: hub data sets, parquet, arrow,
folders of images, tar shards. A wrong line of a JSON Lines file stops the run. A wrong image, or a wrong row of the
other forms, does not, since large collections always hold some: it gets a `SourceItem.fault` and is
counted and rejected.
"""

import hashlib
import itertools
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pairuni.config import CompleteConfig, SourceConfig
from pairuni.errors import InputError
from pairuni.records import iter_samples, resolve_image
from pairuni.types import Sample, Side

_HALF = {Side.UNDERSTANDING: ("question", "answer"), Side.GENERATION: ("prompt",)}
_SAFE = re.compile(r"[^A-Za-z0-9._-]+")
_BROKEN = (OSError, EOFError, ValueError, RuntimeError, TypeError, LookupError, tarfile.TarError)
"""Errors of `datasets` for files and names that it cannot use; its own errors derive from these."""


@dataclass(frozen=True)
class SourceItem:
    """A sample with its image file, and the fault that makes it unusable, if there is one."""

    sample: Sample
    content: Path | bytes
    fault: str | None = None

    def read(self) -> bytes:
        """The image file's bytes. Raises OSError."""
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()


class Sources:
    """The samples of both sides, understanding first, and the folder that their image paths are relative to."""

    def __init__(self, config: CompleteConfig) -> None:
        """Looks at where both sources are and at every line of JSON Lines; the rest is read when it is iterated.

        Raises:
            InputError: JSON Lines in different folders without an image_root, options that do not fit the format, or a
                wrong line.
        """
        for side in Side:
            location, how = _source(config, side)
            if kind(location, how) == "jsonl" and (how.fields or how.strip or how.skip):
                raise InputError("fields, strip and skip are not for JSON Lines", field=f"{side}_source")
        folders = {Path(_source(config, side)[0]).parent.resolve() for side in Side}
        self.config, self.gathers = config, gathers(config)
        if not self.gathers and config.image_root is None and len(folders) > 1:
            raise InputError("is needed, because the two files lie in different folders", field="image_root")
        own = Path(config.image_root or Path(config.understanding).parent)
        self.image_root = Path(config.output) if self.gathers else own
        self.left_out: Counter[str] = Counter()
        """Rows passed over so far because of `skip`, by "field: value"."""
        for _ in self._items(only_files=True):
            pass

    def __iter__(self) -> Iterator[SourceItem]:
        """Raises InputError: a source cannot be read, or an id occurs twice."""
        return self._items()

    def _items(self, only_files: bool = False) -> Iterator[SourceItem]:
        seen: set[bytes] = set()
        for side in Side:
            location, how = _source(self.config, side)
            if only_files and kind(location, how) != "jsonl":
                continue
            for line, item in self._of(side, location, how):
                digest = hashlib.blake2b(item.sample.id.encode(), digest_size=8).digest()
                if digest in seen and line is not None:
                    raise InputError(f"{item.sample.id!r} occurs twice", file=location, line=line, field="id")
                yield replace(item, fault="the id occurs twice") if digest in seen else item
                seen.add(digest)

    def _of(self, side: Side, location: str, how: SourceConfig) -> Iterator[tuple[int | None, SourceItem]]:
        """(line of a JSON Lines file, item) of one source."""
        if kind(location, how) == "jsonl":
            root = Path(location).parent if self.config.image_root is None else Path(self.config.image_root)
            samples = iter_samples(location, side, root)
            for n, sample in itertools.islice(samples, how.limit or None):
                file = resolve_image(sample.image_path, root)
                if self.gathers:
                    place = image_place(sample.id, sample.side, Path(sample.image_path).suffix)
                    sample = replace(sample, image_path=place)
                yield n, SourceItem(sample, file)
            return
        for n, row in enumerate(itertools.islice(stream_rows(location, how), how.limit or None)):
            found = ((name, _text(_pick(row, name))) for name in how.skip)
            skipped = next((f"{name}: {value}" for name, value in found if value in how.skip[name]), None)
            if skipped is not None:
                self.left_out[skipped] += 1
            else:
                yield None, _item(row, side, how, f"{side[0]}{n:08d}", Path(location))


def gathers(config: CompleteConfig) -> bool:
    """Whether images are put into the output: a source has them inside its own files."""
    return any(kind(*_source(config, side)) != "jsonl" for side in Side)


def kind(location: str, how: SourceConfig) -> str:
    """The format of a source, auto resolved."""
    if how.format != "auto":
        return how.format
    return {"jsonl": "jsonl", "tar": "webdataset"}.get(location.rpartition(".")[2], "datasets")


def image_place(id: str, side: Side, suffix: str) -> str:
    """images/SIDE/ID.SUFFIX; an id that is no file name is made one, told apart by a hash."""
    name = _SAFE.sub("_", id)[:100]
    if name != id:
        name += "-" + hashlib.sha256(id.encode()).hexdigest()[:8]
    return f"images/{side}/{name}{suffix.lower() or '.img'}"


def _source(config: CompleteConfig, side: Side) -> tuple[str, SourceConfig]:
    if side is Side.UNDERSTANDING:
        return config.understanding, config.understanding_source
    return config.generation, config.generation_source


def stream_rows(location: str, how: SourceConfig) -> Iterator[dict[str, Any]]:
    """Rows as the `datasets` library streams them, images as they are in the file: {"bytes", "path"}.

    Raises InputError: it cannot be read.
    """
    import datasets  # here, since JSON Lines need none of it

    def opened() -> Any:
        found, path = kind(location, how), Path(location)
        split: Any = how.split
        if found == "imagefolder":
            return datasets.load_dataset("imagefolder", data_dir=location, split=split, streaming=True)
        if found == "webdataset":
            return datasets.load_dataset("webdataset", data_files=location, split=split, streaming=True)
        if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
            saved: Any = datasets.load_from_disk(location)
            return (saved[how.split] if isinstance(saved, datasets.DatasetDict) else saved).to_iterable_dataset()
        for form in ("parquet", "arrow"):
            files = sorted(map(str, path.rglob(f"*.{form}"))) if path.is_dir() else [location] * location.endswith(form)
            if files:
                return datasets.load_dataset(form, data_files=files, split="train", streaming=True)
        return datasets.load_dataset(location, how.subset, split=split, revision=how.revision, streaming=True)

    try:
        stream = opened()
        for name, feature in (stream.features or {}).items():
            bare = getattr(feature, "feature", feature)
            if isinstance(bare, datasets.Image):
                raw = datasets.Image(decode=False)
                stream = stream.cast_column(name, raw if bare is feature else datasets.List(raw))
        yield from stream
    except _BROKEN as err:
        raise InputError(f"cannot be read: {' '.join(str(err).split())[:300]}", file=location) from None


def _item(row: Mapping[str, Any], side: Side, how: SourceConfig, made_id: str, location: Path) -> SourceItem:
    values = {name: _pick(row, how.fields.get(name, name)) for name in ("id", "image", "tag", *_HALF[side])}
    texts = {name: _text(values[name]).replace(how.strip.get(name, "\0"), "").strip() for name in _HALF[side]}
    id = _text(values["id"]).strip() or made_id
    missing = [name for name, text in texts.items() if not text]
    content, suffix, fault = _image(values["image"], location)
    if missing:
        fault = f"{' and '.join(missing)} missing or empty"
        texts |= dict.fromkeys(missing, "?")  # a Sample has its half; this one is rejected
    told = {"id": id, **texts, "tag": _text(values["tag"])}
    whole = {name: text.encode("utf-8", "replace").decode() for name, text in told.items()}
    if whole != told:  # out of JSON within a row: no file could be written with it
        fault = "a text holds a lone surrogate (\\ud800 to \\udfff)"
    half: dict[str, Any] = whole
    return SourceItem(Sample(side=side, image_path=image_place(whole["id"], side, suffix), **half), content, fault)


def _image(value: Any, location: Path) -> tuple[bytes, str, str | None]:
    """(bytes, file ending, what is wrong)."""
    if isinstance(value, bytes):
        value = {"bytes": value}
    if isinstance(value, str):
        value = {"path": value}
    if not isinstance(value, Mapping):
        return b"", "", "the row has no image"
    name, content = _text(value.get("path")), value.get("bytes")
    if content is None and name:
        place = Path(name) if Path(name).is_absolute() else location / name
        if not place.resolve().is_relative_to(location.resolve()):
            return b"", "", "the image's path leaves the data set"
        try:
            content = place.read_bytes()
        except OSError:
            return b"", "", "the image does not exist"
    return content or b"", Path(name).suffix, None


def _pick(row: Any, path: str) -> Any:
    """The value at a dotted path, None where there is none. A name that has dots itself is found first."""
    if isinstance(row, Mapping) and path in row:
        return row[path]
    for part in path.split("."):
        if isinstance(row, str):
            try:
                row = json.loads(row)
            except ValueError:
                return None
        if isinstance(row, Mapping):
            row = row.get(part)
        elif isinstance(row, list) and re.fullmatch(r"-?\d+", part) and -len(row) <= int(part) < len(row):
            row = row[int(part)]
        else:
            return None
    return row


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
