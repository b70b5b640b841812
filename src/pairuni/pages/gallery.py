"""`write_gallery`: a pairs file and the samples that did not become pairs -> one HTML page (paper 2.2).

    pairuni analyse pairs PAIRS.jsonl

The page's only script (templates/gallery.js) filters and sorts cards; a content security policy forbids all others.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from glob import escape
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from pairuni.config import GalleryConfig
from pairuni.data.overview import PairingRecord, overview, read_pairing
from pairuni.data.pictures import Picture, embed
from pairuni.errors import InputError
from pairuni.files import check_folder
from pairuni.outputs import Outputs
from pairuni.pages.cards import PairCard, pair_card
from pairuni.pages.histogram import similarity_chart
from pairuni.pages.leftovers import Leftover, LeftoverFile, read_leftovers, rejected_files
from pairuni.pages.page import Table, flat_counts, source, write_page
from pairuni.progress import track
from pairuni.records import pairs_root, read_pairs
from pairuni.streams import Stream, generator
from pairuni.types import Pair, Quadruple

_ABOUT = {
    "unmatched": "Quadruples that are in no pair.",
    "removed": "Quadruples that were taken out before Algorithm 1.",
    "rejected": "Samples whose missing half could not be written.",
}


@dataclass(frozen=True)
class LeftoverCard:
    """A left-over sample, and the image that it copies if that is known."""

    row: Leftover
    picture: Picture
    other: Picture | None

    @property
    def lost(self) -> int:
        """1 if its own picture cannot be shown, else 0."""
        return int(self.picture.uri is None)


@dataclass(frozen=True)
class Section:
    """A tab of the page: cards of some or all of the `total` rows of `paths`."""

    name: str
    about: str
    paths: list[str]
    total: int
    cards: Sequence[PairCard | LeftoverCard]

    @property
    def lost(self) -> int:
        """Number of pictures that cannot be shown."""
        return sum(card.lost for card in self.cards)


@dataclass(frozen=True)
class _Inputs:
    """The files of the page, read and checked."""

    path: Path
    root: Path
    pairs: list[Pair]
    record: PairingRecord | None
    fresh: bool
    """Whether pairing.json belongs to this version of the pairs file."""
    leftovers: dict[str, list[LeftoverFile]]


def write_gallery(config: GalleryConfig) -> dict[str, Any]:
    """Writes the page whole or not at all. Missing and broken images become placeholders and are counted.

    Returns {"page", "sections": {name: {"total", "shown", "lost"}}, "notes"}.

    Raises:
        InputError: a file is missing, a line of it is wrong (with file, line and field), or the page cannot be written.
    """
    out = Path(config.pairs).parent / "gallery.html" if config.out is None else Path(config.out)
    if out.is_dir():
        raise InputError("is a folder; name the page's file", file=out)
    check_folder(out.parent)
    inputs = _read(config)
    shown = [inputs.path, *(file.path for files in inputs.leftovers.values() for file in files)]
    if out.resolve() in {path.resolve() for path in shown}:
        raise InputError("is one of the files that the page shows; choose another file for the page", file=out)
    replaced = Outputs(out.parent, "analyse pairs", [escape(out.name)], config.overwrite)
    sections = [_pairs_section(inputs, config), *_leftover_sections(inputs, config)]
    counted, record, notes = overview(inputs.pairs), inputs.record, _notes(inputs, sections, config)
    script = source("gallery.js")
    halves = "of the half that is drawn, and of the half that is asked about"
    values: dict[str, Any] = {
        "title": f"Pairs of {inputs.path.parent.resolve().name}/{inputs.path.name}",
        "path": str(inputs.path),
        "extractor": record and record.extractor,
        "chart": similarity_chart(counted.similarities, record and record.random_pair_cosine),
        "kinds": Table(
            [(_filter("kind", kind), number) for kind, number in counted.kinds.items()],
            ("Pairs in the file", f"{len(inputs.pairs):,}"),
        ),
        "sides": Table(
            [(row.value, row.generate, row.understand) for row in counted.sides],
            ("Originally", "drawn", "asked"),
            f"Original side {halves}",
        ),
        "tags": Table(
            [
                (_filter("tag", row.value) if row.value else "no tag", row.generate, row.understand)
                for row in counted.tags
            ],
            ("Tag", "drawn", "asked"),
            f"Tags {halves}",
        ),
        "counts": Table(list(flat_counts(record.counts))) if record and record.counts else None,
        "notes": notes,
        "sections": sections,
        "values": _values(sections),
        "script": Markup(script),  # the package's own text
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    with replaced:
        write_page(out, "gallery.html", values)
    counts = {s.name: {"total": s.total, "shown": len(s.cards), "lost": s.lost} for s in sections}
    return {"page": str(out), "sections": counts, "notes": notes}


def _filter(name: str, value: str) -> Markup:
    """A link that shows only the cards with this value."""
    return Markup('<a href="#{}={}">{}</a>').format(name, quote(value, safe=""), value)


def stratified(keys: Sequence[tuple], limit: int, seed: int) -> list[int]:
    """At most `limit` rows (0: all) in file order: one from each of `limit` equal stretches of the rows sorted by key.

    Every kind, range of similarity and tag so keeps its share to within one row.
    """
    total = len(keys)
    if not limit or total <= limit:
        return list(range(total))
    rng = generator(seed, Stream.GALLERY)
    ties = rng.permutation(total).tolist()
    order = sorted(range(total), key=lambda n: (keys[n], ties[n]))
    edges = [n * total // limit for n in range(limit + 1)]
    return sorted(order[int(rng.integers(a, b))] for a, b in pairwise(edges))


def _read(config: GalleryConfig) -> _Inputs:
    path = Path(config.pairs)
    root = pairs_root(path, config.image_root)
    if config.image_root is not None and not root.is_dir():
        raise InputError(f"{root} is not a folder", field="image_root")
    pairs = read_pairs(path, root)
    record, fresh = read_pairing(path) or (None, False)
    leftovers: dict[str, list[LeftoverFile]] = {}
    for name in ("unmatched", "removed"):
        beside = path.parent / f"{name}.jsonl"
        if beside.is_file():
            leftovers[name] = [read_leftovers(beside, root)]
    rejected = rejected_files(path, record, config.rejected)
    leftovers["rejected"] = [read_leftovers(p, root if config.image_root else p.parent) for p in rejected]
    return _Inputs(path, root, pairs, record, fresh, leftovers)


def _pairs_section(inputs: _Inputs, config: GalleryConfig) -> Section:
    keys = [(p.kind, p.similarity, p.generate.tag, p.understand.tag) for p in inputs.pairs]
    chosen = [inputs.pairs[n] for n in stratified(keys, config.limit, config.seed)]
    shown = track(chosen, "pairs", unit="pair")
    cards = [pair_card(pair, inputs.root, config.thumbnail, jpeg=True) for pair in shown]
    return Section("pairs", "", [str(inputs.path)], len(inputs.pairs), cards)


def _leftover_sections(inputs: _Inputs, config: GalleryConfig) -> list[Section]:
    """The sections that have rows. A copy is shown beside the image that it copies, if a file names that image."""

    def picture(path: str, root: Path) -> Picture:
        return embed(path, root, path, config.thumbnail, jpeg=True)

    sections = []
    images = {half.id: half.image_path for pair in inputs.pairs for half in (pair.generate, pair.understand)}
    images |= {row.id: row.image_path for file in inputs.leftovers.get("unmatched", []) for row in file.rows}
    for name, about in _ABOUT.items():
        files = inputs.leftovers.get(name, [])
        rows = [(row, file.root) for file in files for row in file.rows]
        keys = [(row.cause, row.side or "", row.similarity or 0.0, row.tag) for row, _ in rows]
        cards = []
        for row, root in (rows[n] for n in stratified(keys, config.limit, config.seed)):
            other = images.get(row.of or "") if name == "removed" else None
            shown = None if other is None else picture(other, inputs.root)
            cards.append(LeftoverCard(row, picture(row.image_path, root), shown))
        if rows:
            sections.append(Section(name, about, [str(file.path) for file in files], len(rows), cards))
    return sections


def _notes(inputs: _Inputs, sections: Sequence[Section], config: GalleryConfig) -> list[str]:
    notes = []
    for section in sections:
        if len(section.cards) < section.total:
            shown = f"{len(section.cards):,} of {section.total:,} {section.name} are on this page: a sample (seed"
            share = "with a fair share of every kind, similarity, reason and tag"
            notes.append(f"{shown} {config.seed}) {share}. limit = 0 shows all.")
        if section.lost:
            notes.append(f"{section.name}: {section.lost:,} missing or broken images, with a placeholder for each.")
    if inputs.record is None:
        notes.append("No pairing.json beside the pairs: nothing is known of random pairs and options.")
        return notes
    if not inputs.fresh:
        notes.append("pairing.json was written with another pairs file: its numbers may not fit.")
    return [*notes, *(f"pair: {notice}" for notice in inputs.record.notices)]


def _values(sections: Sequence[Section]) -> dict[str, list[str]]:
    """The values that the filters offer: all that occur on cards."""
    found: dict[str, set[str]] = {"kind": set(), "tag": set(), "reason": set(), "side": set()}
    for card in (card for section in sections for card in section.cards):
        if isinstance(card, PairCard):
            found["kind"].add(card.pair.kind)
            rows: list[Quadruple | Leftover] = [card.pair.generate, card.pair.understand]
        else:
            found["reason"].add(card.row.cause)
            rows = [card.row]
        found["tag"] |= {row.tag for row in rows}
        found["side"] |= {str(row.side) for row in rows if row.side}
    return {name: sorted(values - {""}) for name, values in found.items()}
