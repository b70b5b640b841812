"""`write_gallery`: a pairs file and what did not become pairs -> one HTML page to look through (paper 2.2).

    pairuni analyse pairs PAIRS.jsonl

The page refers to nothing outside itself. All text of the user's is escaped by the templates, and a content security
policy lets only the page's own script run, which filters and sorts cards (templates/gallery.js).
"""

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from glob import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pairuni.analysis.chart import HEIGHT, WIDTH, SimilarityChart, similarity_chart
from pairuni.analysis.leftovers import Leftover, LeftoverFile, read_leftovers, rejected_files
from pairuni.config import GalleryConfig
from pairuni.data.overview import Overview, PairingRecord, overview, read_pairing
from pairuni.data.pictures import Picture, embed
from pairuni.errors import InputError
from pairuni.files import atomic_path, check_folder
from pairuni.outputs import Outputs
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
class PairCard:
    """A pair; `understand` is None for a pair of one image."""

    pair: Pair
    generate: Picture
    understand: Picture | None


@dataclass(frozen=True)
class LeftoverCard:
    """A left-over sample, and the image that it copies where that is known."""

    row: Leftover
    picture: Picture
    other: Picture | None


@dataclass(frozen=True)
class Section:
    """A tab of the page: `total` rows of `paths`, of which cards are shown."""

    name: str
    about: str
    paths: list[str]
    total: int
    cards: Sequence[PairCard | LeftoverCard]
    lost: int
    """Pictures among the cards that could not be shown."""


@dataclass(frozen=True)
class _Inputs:
    """What is shown, read and checked."""

    path: Path
    root: Path
    pairs: list[Pair]
    record: PairingRecord | None
    fresh: bool
    leftovers: dict[str, list[LeftoverFile]]


def write_gallery(config: GalleryConfig) -> dict[str, Any]:
    """Writes the page whole or not at all. Images that are missing or broken become placeholders and are counted.

    Returns {"page", "sections": {name: {"total", "shown", "lost"}}, "notes"}.

    Raises:
        InputError: a file is missing, or a line of it is wrong (naming file, line and field), or the page cannot be
            written.
    """
    out = Path(config.pairs).parent / "gallery.html" if config.out is None else Path(config.out)
    if out.is_dir():
        raise InputError("is a folder; name the page's file", file=out)
    check_folder(out.parent)
    inputs = _read(config)
    if out.resolve() in {path.resolve() for path in (inputs.path, *_paths(inputs))}:
        raise InputError("is one of the files that are shown; name another one for the page", file=out)
    with Outputs(out.parent, "analyse pairs", [escape(out.name)], config.overwrite):
        return _gallery(config, inputs, out)


def _gallery(config: GalleryConfig, inputs: _Inputs, out: Path) -> dict[str, Any]:
    sections = [_pairs_section(inputs, config), *_leftover_sections(inputs, config)]
    counted = overview(inputs.pairs)
    notes = _notes(inputs, sections, config)
    environment = _environment()
    script = _script(environment)
    page = environment.get_template("gallery.html").stream(
        title=f"Pairs of {inputs.path.parent.resolve().name}/{inputs.path.name}",
        path=str(inputs.path),
        overview=counted,
        chart=_chart(inputs, counted),
        chart_size=(WIDTH, HEIGHT),
        record=inputs.record,
        counts=[] if inputs.record is None else _flat(inputs.record.counts),
        notes=notes,
        sections=sections,
        values=_values(sections),
        script=Markup(script),  # the package's own text
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    with atomic_path(out) as temporary:
        page.dump(str(temporary), encoding="utf-8", errors="replace")
    counts = {s.name: {"total": s.total, "shown": len(s.cards), "lost": s.lost} for s in sections}
    return {"page": str(out), "sections": counts, "notes": notes}


def stratified(keys: Sequence[tuple], limit: int, seed: int) -> list[int]:
    """At most `limit` rows (0: all), in file order: one of each of `limit` equal stretches of the rows sorted by key.

    So every kind, range of similarity and tag has its share, to within one row.
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
        raise InputError(f"{root} is no folder", field="image_root")
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


def _paths(inputs: _Inputs) -> list[Path]:
    return [file.path for files in inputs.leftovers.values() for file in files]


def _pairs_section(inputs: _Inputs, config: GalleryConfig) -> Section:
    keys = [(p.kind, p.similarity, p.generate.tag, p.understand.tag) for p in inputs.pairs]
    picture = _pictures(config.thumbnail)
    cards = []
    for n in track(stratified(keys, config.limit, config.seed), "pairs", unit="pair"):
        pair = inputs.pairs[n]
        one = pair.generate.image_path == pair.understand.image_path
        halves = [picture(half.image_path, inputs.root) for half in (pair.generate, pair.understand)[: 1 if one else 2]]
        cards.append(PairCard(pair, halves[0], None if one else halves[1]))
    lost = sum(p is not None and p.uri is None for card in cards for p in (card.generate, card.understand))
    return Section("pairs", "", [str(inputs.path)], len(inputs.pairs), cards, lost)


def _leftover_sections(inputs: _Inputs, config: GalleryConfig) -> list[Section]:
    """Those that have a row. A copy is shown beside what it copies, where one of the files names that image."""
    picture, sections = _pictures(config.thumbnail), []
    images = {half.id: half.image_path for pair in inputs.pairs for half in (pair.generate, pair.understand)}
    images |= {row.id: row.image_path for file in inputs.leftovers.get("unmatched", []) for row in file.rows}
    for name, about in _ABOUT.items():
        files = inputs.leftovers.get(name, [])
        rows = [(row, file.root) for file in files for row in file.rows]
        keys = [(row.cause, row.side or "", row.similarity or 0.0, row.tag) for row, _ in rows]
        cards = []
        for n in stratified(keys, config.limit, config.seed):
            row, root = rows[n]
            other = images.get(row.of or "") if name == "removed" else None
            shown = None if other is None else picture(other, inputs.root)
            cards.append(LeftoverCard(row, picture(row.image_path, root), shown))
        lost = sum(card.picture.uri is None for card in cards)
        if rows:
            sections.append(Section(name, about, [str(file.path) for file in files], len(rows), cards, lost))
    return sections


def _pictures(side: int) -> Callable[[str, Path], Picture]:
    return lambda name, root: embed(name, root, name, side, jpeg=True)


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


def _chart(inputs: _Inputs, counted: Overview) -> SimilarityChart | None:
    return similarity_chart(counted.similarities, inputs.record.random_pair_cosine if inputs.record else None)


def _flat(counts: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Counts by name, those in groups with the group's name before theirs."""
    rows: list[tuple[str, Any]] = []
    for name, value in counts.items():
        label = prefix + name.replace("_", " ")
        rows += _flat(value, f"{label}: ") if isinstance(value, dict) else [(label, value)]
    return rows


def _values(sections: Sequence[Section]) -> dict[str, list[str]]:
    """What the filters offer: every value that a card has."""
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


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("pairuni.analysis"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _script(environment: Environment) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, "gallery.js")[0]
