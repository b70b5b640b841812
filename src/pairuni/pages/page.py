"""The parts that all pages share: templates, tables, cards, and the way to write a page.

A page is a single file that refers to nothing outside itself. The templates escape all text of the user's.
An image that is missing, broken or outside its folder becomes a note (data/pictures.py), because a page is often made
on a machine without the data.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pairuni.data.pictures import MAX_SIDE, Picture, embed
from pairuni.files import atomic_path
from pairuni.types import Pair


@dataclass(frozen=True)
class Table:
    """A table whose rows begin with a heading. A cell is text, Markup, a number, or None."""

    rows: Sequence[Sequence[Any]]
    head: Sequence[str] = ()
    caption: str = ""
    words: Sequence[int] = ()
    """Columns of words; the other columns hold numbers and are aligned to the right."""


@dataclass(frozen=True)
class PairCard:
    """A pair; `understand` is None for a pair of one image."""

    pair: Pair
    generate: Picture
    understand: Picture | None

    @property
    def lost(self) -> int:
        """Number of its pictures that cannot be shown."""
        return sum(picture is not None and picture.uri is None for picture in (self.generate, self.understand))


@dataclass(frozen=True)
class Output:
    """A picture or a text with a line below it."""

    picture: Picture | None = None
    text: str = ""
    note: str = ""


@dataclass(frozen=True)
class SampleCard:
    """Outputs at one prompt, in one or several columns of (title, outputs)."""

    label: str
    asked: str
    columns: Sequence[tuple[str, Sequence[Output]]]


def pair_card(pair: Pair, root: Path, side: int = MAX_SIDE, jpeg: bool = False) -> PairCard:
    """The card of a pair. Image paths are relative to `root`; `side` and `jpeg` are those of `embed`."""
    halves = [pair.generate.image_path, pair.understand.image_path]
    first, *other = (embed(path, root, path, side, jpeg) for path in dict.fromkeys(halves))
    return PairCard(pair, first, other[0] if other else None)


@cache
def templates() -> Environment:
    """The templates of all pages."""
    environment = Environment(
        loader=PackageLoader("pairuni.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = plain
    return environment


def source(name: str) -> str:
    """The text of a template."""
    environment = templates()
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def write_page(path: Path, template: str, values: Mapping[str, Any]) -> None:
    """Writes a page whole or not at all. A lone surrogate, which UTF-8 cannot encode, becomes a question mark."""
    with atomic_path(path) as temporary:
        page = templates().get_template(template).stream(values)
        page.dump(str(temporary), encoding="utf-8", errors="replace")


def plain(value: Any) -> Any:
    """A cell's value as text: four digits of a float, a whole number with commas, a dash for None."""
    if value is None:
        return "–"
    if isinstance(value, bool | str):
        return value
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def flat_counts(counts: Mapping[str, Any], group: str = "") -> Iterator[tuple[str, Any]]:
    """Counts with names in words; those of a group begin with the group's name."""
    for name, value in counts.items():
        words = group + name.replace("_", " ")
        if isinstance(value, Mapping):
            yield from flat_counts(value, f"{words}: ")
        else:
            yield words, value
