"""The data card of an exported data set: README.md with the YAML block that the Hub reads, and similarity.png."""

import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.ticker import MaxNLocator

from pairuni.config import HfDatasetConfig
from pairuni.data.overview import Overview, PairingRecord, histogram
from pairuni.files import write_text
from pairuni.pages.chart_style import LINES, figure_file

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
TASKS = ("text-to-image", "visual-question-answering", "image-text-to-text")
_FILES = {"split": "train", "path": "data/train-*"}
_BINS = 20
_BAR = 40
_LOCAL = {"quadruples", "output", "image_root", "ray_address"}
"""Options of `pair` that say where one machine had its files and nothing about the data."""


@dataclass(frozen=True)
class ExportCard:
    """The contents of a card. `record` is pairuni_export.json; `examples` are pairs in their JSON form."""

    config: HfDatasetConfig
    overview: Overview
    pairing: PairingRecord | None
    record: dict[str, Any]
    examples: Sequence[dict[str, Any]]


def write_card(path: Path, card: ExportCard) -> None:
    """Writes README.md."""
    title = card.config.title or Path(card.config.output).resolve().name
    environment = Environment(
        loader=PackageLoader("pairuni.export"),
        autoescape=False,  # Markdown: cells are escaped by the filter, JSON stands in fences
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": _cell, "json": lambda value: json.dumps(value, indent=2, ensure_ascii=False)}
    text = environment.get_template("card.md").render(
        front=yaml.safe_dump(front_matter(card, title), sort_keys=False, allow_unicode=True),
        title=title,
        config=card.config,
        overview=card.overview,
        bars=_bars(card.overview.similarities),
        pairing=card.pairing,
        options={} if card.pairing is None else _portable(card.pairing.options),
        record=card.record,
        examples=card.examples,
    )
    write_text(path, text)


def front_matter(card: ExportCard, title: str) -> dict[str, Any]:
    """The YAML block: it tells the Hub the facts to show, and `datasets` where the rows are."""
    config, pairs = card.config, card.record["pairs"]
    licence = {"license": config.license, "license_name": config.license_name, "license_link": config.license_link}
    size = next((name for most, name in SIZES if pairs < most), "n>1M")
    return {
        "pretty_name": title,
        **{name: value for name, value in licence.items() if value},
        **({"language": list(config.language)} if config.language else {}),
        "task_categories": list(TASKS),
        "size_categories": [size],
        "tags": ["pairuni", "understanding-generation-pairs"],
        "configs": [{"config_name": content_name(card.record), "data_files": [_FILES]}],
    }


def content_name(record: Mapping[str, Any]) -> str:
    """A name that only exports of equal content share.

    `datasets` keeps what it has read under the names of the folder and of the config, and never looks at the files
    again: under one name another folder's rows would be read, or those of an earlier export. A single config is found
    whatever its name is.
    """
    content = "\n".join(str(record.get(name)) for name in ("pairuni", "pairs_hash", "images_hash"))
    return f"pairs-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def similarity_png(values: Sequence[float], path: Path) -> None:
    """Writes a histogram of the similarities of retrieved pairs; it says so where there are none."""
    with figure_file(path, 6, 2.6) as figure:
        axes = figure.subplots()
        bins = histogram(values, 2 * _BINS)
        if bins:
            axes.bar(
                [low for low, _, _ in bins], [n for *_, n in bins], 0.9 / (2 * _BINS), align="edge", color=LINES[0]
            )
            axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        else:
            axes.text(0.5, 0.5, "no retrieved pairs", ha="center", transform=axes.transAxes)
            axes.set_yticks([])
        axes.set_xlabel("cosine similarity of the two images of a retrieved pair")


def _bars(values: Sequence[float]) -> list[tuple[str, int, str]]:
    bins = histogram(values, _BINS)
    most = max((n for *_, n in bins), default=1)
    return [(f"{low:.2f} to {high:.2f}", n, "█" * round(_BAR * n / most)) for low, high, n in bins]


def _cell(text: str) -> str:
    """A user's text in a table: one line that is neither Markdown nor HTML."""
    text = " ".join(html.escape(text, quote=False).split())
    return "".join(f"\\{c}" if c in "\\`*_[]|~#!" else c for c in text)


def _portable(options: dict[str, Any]) -> dict[str, Any]:
    """Options without where files lay: of an absolute path its last part stays."""

    def bare(value: Any) -> Any:
        if isinstance(value, list):
            return [bare(each) for each in value]
        return PurePath(value).name if isinstance(value, str) and PurePath(value).is_absolute() else value

    return {name: bare(value) for name, value in options.items() if name not in _LOCAL}
