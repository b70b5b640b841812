"""The parts that all pages share: templates, tables, and the way to write a page.

A page is a single file that refers to nothing outside itself. The templates escape all text of the user's.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pairuni.files import atomic_path


@dataclass(frozen=True)
class Table:
    """A table whose rows begin with a heading. A cell is text, Markup, a number, or None."""

    rows: Sequence[Sequence[Any]]
    head: Sequence[str] = ()
    caption: str = ""
    words: Sequence[int] = ()
    """Columns of words; the other columns hold numbers and are aligned to the right."""


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
