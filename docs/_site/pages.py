"""Adapts docs/*.md while Sphinx reads them, so that the files themselves stay as GitHub shows them.

- index.md gets the table of contents that its own lists are: a heading, then `- [Name](page.md): ...` per page.
  Pages that it does not name come last.
- configuration.md gets the options of all commands in the place of its marker (reference.py).
- Links to files of the repository lead to its address, or become paths where the settings name none. A file that is
  not there is a warning, which `make docs` takes for an error.
"""

import re
from collections.abc import Callable
from pathlib import Path

from pygments.lexers.data import JsonLexer
from reference import reference
from sphinx.application import Sphinx
from sphinx.util import logging

MARKER = "<!-- The options stand here on the site. -->"
_CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`(?!\]\())", re.MULTILINE | re.DOTALL)
_OUTSIDE = re.compile(r"(?<!!)\[([^\]]+)\]\((\.\./[^)\s]+)\)")
_LISTED = re.compile(r"^(?:## (?P<heading>.+)|- \[(?P<name>[^\]]+)\]\((?P<page>[\w-]+)\.md\).*)$", re.MULTILINE)

_log = logging.getLogger(__name__)


def contents(index: str, pages: list[str]) -> str:
    """Sphinx' form of the lists in index.md."""
    parts: list[tuple[str, list[str]]] = []
    listed = set()
    for match in _LISTED.finditer(index):
        if match["heading"]:
            parts.append((match["heading"], []))
        elif parts:
            listed.add(match["page"])
            parts[-1][1].append(f"{match['name']} <{match['page']}>")
    parts.append(("More", [page for page in pages if page not in listed | {"index"}]))
    trees = (
        ["```{toctree}", ":hidden:", f":caption: {heading}", "", *entries, "```", ""]
        for heading, entries in parts
        if entries
    )
    return "\n".join(line for tree in trees for line in tree)


def outside_links(text: str, docs: Path, repository: str, warn: Callable[[str], None]) -> str:
    """The text with its links to files beside docs/ led to the repository's address, or turned into paths."""

    def one(match: re.Match[str]) -> str:
        label, (target, _, anchor) = match[1], match[2].partition("#")
        place = (docs / target).resolve()
        if not place.exists():
            warn(f"no such file in the repository: {target}")
        path = place.relative_to(docs.parent).as_posix()
        if repository:
            return f"[{label}]({repository.rstrip('/')}/blob/main/{path}{'#' + anchor if anchor else ''})"
        named = path.endswith(label.strip("`")) or place.stem == label
        return f"`{path}`" if named else f"{label}: `{path}`"

    # Odd parts are code, which shows links and has none.
    parts = _CODE.split(text)
    return "".join(part if n % 2 else _OUTSIDE.sub(one, part) for n, part in enumerate(parts))


def _read(app: Sphinx, page: str, source: list[str]) -> None:
    def warn(message: str) -> None:
        _log.warning(message, location=page)

    docs = Path(app.srcdir).resolve()
    text = outside_links(source[0], docs, app.config.pairuni_repository, warn)
    if page == "index":
        text = f"{text}\n{contents(text, sorted(app.env.found_docs))}"
    if page == "configuration":
        if MARKER not in text:
            warn("the marker of the options is gone")
        text = text.replace(MARKER, reference())
    source[0] = text


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_config_value("pairuni_repository", "", "env")
    app.connect("source-read", _read)
    app.add_lexer("jsonl", JsonLexer)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
