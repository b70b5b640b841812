"""`write_gallery`: a pairs file and the samples that did not become pairs -> one HTML page (paper 2.2).

    pairuni analyse pairs PAIRS.jsonl

The page's only script (templates/gallery.js) filters and sorts cards; a content security policy forbids all others.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from markupsafe import Markup
from pydantic import ConfigDict, StrictFloat, TypeAdapter

from pairuni.config import GalleryConfig
from pairuni.data.overview import PairingRecord, overview, read_pairing
from pairuni.data.pictures import Picture, embed
from pairuni.errors import InputError
from pairuni.files import check_folder, read_jsonl
from pairuni.outputs import Outputs
from pairuni.pages.histogram import similarity_chart
from pairuni.pages.page import PairCard, Table, flat_counts, pair_card, source, write_page
from pairuni.progress import track
from pairuni.records import pairs_root, read_pairs, resolve_image, validate_row
from pairuni.streams import Stream, generator
from pairuni.types import Pair, Quadruple

_ABOUT = {
    "unmatched": "Quadruples that are in no pair.",
    "removed": "Quadruples that were taken out before Algorithm 1.",
    "rejected": "Samples whose missing half could not be written.",
}


@dataclass(frozen=True)
class Leftover:
    """A line of unmatched.jsonl or removed.jsonl of `pair`, or of rejected.jsonl of `complete`."""

    __pydantic_config__ = ConfigDict(allow_inf_nan=False)
    id: str
    image_path: str
    reason: str
    side: Literal["understanding", "generation"] | None = None
    prompt: str | None = None
    question: str | None = None
    answer: str | None = None
    tag: str = ""
    of: str | None = None
    """What a removed sample copies: an id, a reference image, or words."""
    similarity: StrictFloat | None = None
    """Similarity to `of`."""

    @property
    def cause(self) -> str:
        """The reason up to its colon; details of the sample follow there."""
        return self.reason.partition(":")[0].strip()


@dataclass(frozen=True)
class LeftoverFile:
    """A file of left-over samples; image paths are relative to `root`."""

    path: Path
    root: Path
    rows: list[Leftover]


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
    path = Path(config.pairs)
    root = pairs_root(path, config.image_root)
    if config.image_root is not None and not root.is_dir():
        raise InputError(f"{root} is not a folder", field="image_root")
    pairs = read_pairs(path, root)
    record, fresh = read_pairing(path) or (None, False)  # fresh: it belongs to this version of the pairs file
    leftovers = {
        name: [read_leftovers(path.parent / f"{name}.jsonl", root)]
        for name in ("unmatched", "removed")
        if (path.parent / f"{name}.jsonl").is_file()
    }
    rejected = rejected_files(path, record, config.rejected)
    leftovers["rejected"] = [read_leftovers(p, root if config.image_root else p.parent) for p in rejected]
    shown = [path, *(file.path for files in leftovers.values() for file in files)]
    if out.resolve() in {each.resolve() for each in shown}:
        raise InputError("is one of the files that the page shows; choose another file for the page", file=out)
    replaced = Outputs(out.parent, "analyse pairs", [escape(out.name)], config.overwrite)
    keys = [(p.kind, p.similarity, p.generate.tag, p.understand.tag) for p in pairs]
    chosen = [pairs[n] for n in stratified(keys, config.limit, config.seed)]
    cards = [pair_card(pair, root, config.thumbnail, jpeg=True) for pair in track(chosen, "pairs", unit="pair")]
    sections = [Section("pairs", "", [str(path)], len(pairs), cards)]
    sections += _leftover_sections(pairs, root, leftovers, config)
    counted, notes = overview(pairs), _notes(sections, record, fresh, config)
    script = source("gallery.js")
    halves = "of the half that is drawn, and of the half that is asked about"
    values: dict[str, Any] = {
        "title": f"Pairs of {path.parent.resolve().name}/{path.name}",
        "path": str(path),
        "extractor": record and record.extractor,
        "chart": similarity_chart(counted.similarities, record and record.random_pair_cosine),
        "kinds": Table(
            [(_filter("kind", kind), number) for kind, number in counted.kinds.items()],
            ("Pairs in the file", f"{len(pairs):,}"),
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


def _leftover_sections(
    pairs: Sequence[Pair], pairs_folder: Path, leftovers: Mapping[str, list[LeftoverFile]], config: GalleryConfig
) -> list[Section]:
    """The sections that have rows. A copy is shown beside the image that it copies, if a file names that image."""

    def picture(path: str, root: Path) -> Picture:
        return embed(path, root, path, config.thumbnail, jpeg=True)

    sections = []
    images = {half.id: half.image_path for pair in pairs for half in (pair.generate, pair.understand)}
    images |= {row.id: row.image_path for file in leftovers.get("unmatched", []) for row in file.rows}
    for name, about in _ABOUT.items():
        files = leftovers.get(name, [])
        rows = [(row, file.root) for file in files for row in file.rows]
        keys = [(row.cause, row.side or "", row.similarity or 0.0, row.tag) for row, _ in rows]
        cards = []
        for row, root in (rows[n] for n in stratified(keys, config.limit, config.seed)):
            other = images.get(row.of or "") if name == "removed" else None
            shown = None if other is None else picture(other, pairs_folder)
            cards.append(LeftoverCard(row, picture(row.image_path, root), shown))
        if rows:
            sections.append(Section(name, about, [str(file.path) for file in files], len(rows), cards))
    return sections


def _notes(sections: Sequence[Section], record: PairingRecord | None, fresh: bool, config: GalleryConfig) -> list[str]:
    notes = []
    for section in sections:
        if len(section.cards) < section.total:
            shown = f"{len(section.cards):,} of {section.total:,} {section.name} are on this page: a sample (seed"
            share = "with a fair share of every kind, similarity, reason and tag"
            notes.append(f"{shown} {config.seed}) {share}. limit = 0 shows all.")
        if section.lost:
            notes.append(f"{section.name}: {section.lost:,} missing or broken images, with a placeholder for each.")
    if record is None:
        notes.append("No pairing.json beside the pairs: nothing is known of random pairs and options.")
        return notes
    if not fresh:
        notes.append("pairing.json was written with another pairs file: its numbers may not fit.")
    return [*notes, *(f"pair: {notice}" for notice in record.notices)]


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


def read_leftovers(path: Path, root: Path) -> LeftoverFile:
    """Reads one file.

    Raises:
        InputError: it is missing, or a line is not JSON, lacks id, image_path or reason, has a field of the wrong type
            or an image path that leaves `root`.
    """
    rows, adapter = [], TypeAdapter(Leftover)
    for n, raw in read_jsonl(path):
        row = validate_row(adapter, raw, path, n)
        if not row.reason.strip():
            raise InputError("is empty", file=path, line=n, field="reason")
        resolve_image(row.image_path, root, file=path, line=n)
        rows.append(row)
    return LeftoverFile(path, root, rows)


def rejected_files(pairs: Path, record: PairingRecord | None, named: Sequence[str]) -> list[Path]:
    """The named files of rejected samples, or else rejected.jsonl beside the quadruples, or else beside the pairs.

    pairing.json has the path of the quadruples as it was given to `pair`, so it may lead nowhere from here.
    """
    if named:
        return [Path(name) for name in named]
    source = None if record is None else record.options.get("quadruples")
    folders = [Path(source).parent] if isinstance(source, str) else []
    found = [folder / "rejected.jsonl" for folder in (*folders, pairs.parent)]
    return [path for path in found if path.is_file()][:1]
