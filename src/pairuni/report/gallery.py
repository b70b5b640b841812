"""Pictures of a run: pairs side by side, and samples at the same prompts before and after training.

An image that is missing, broken or outside its folder leaves a note in its place (data/pictures.py): a report is often
made where the data no longer is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pairuni.data.pictures import Picture, embed
from pairuni.report.data import PairFile, SampleRow, read_sample_rows
from pairuni.types import Pair, Quadruple, Side

GALLERY_PAIRS = 24
SHOWN_PROMPTS = 8
"""Prompts per side in the before/after part."""
SHOWN_ROLLOUTS = 4
"""Rollouts per prompt and step there."""


@dataclass(frozen=True)
class PairCard:
    """A pair with the picture of each half."""

    pair: Pair
    generate: Picture
    understand: Picture


@dataclass(frozen=True)
class Shot:
    """One rollout: a picture or a text, and its rewards."""

    row: SampleRow
    picture: Picture | None


@dataclass(frozen=True)
class Group:
    """The rollouts of one prompt at the first and the last sampled step; means are over all of them, per reward."""

    side: str
    pair_id: str
    asked: str
    first: list[Shot]
    last: list[Shot]
    first_mean: dict[str, float | None]
    last_mean: dict[str, float | None]


@dataclass(frozen=True)
class BeforeAfter:
    """Samples of a run. With samples of one step only, `last_step` is None and the groups' `last` are empty."""

    first_step: int
    last_step: int | None
    groups: list[Group]
    notes: list[str]


def pair_cards(pairs: PairFile) -> list[PairCard]:
    """At most GALLERY_PAIRS pairs, evenly over the file."""
    count = min(GALLERY_PAIRS, len(pairs.pairs))
    chosen = np.linspace(0, len(pairs.pairs) - 1, count).round().astype(int)
    cards = []
    for pair in (pairs.pairs[i] for i in chosen.tolist()):
        generate = _half_picture(pair.half(Side.GENERATION), pairs.root)
        aligned = pair.generate.image_path == pair.understand.image_path
        understand = generate if aligned else _half_picture(pair.half(Side.UNDERSTANDING), pairs.root)
        cards.append(PairCard(pair, generate, understand))
    return cards


def before_after(folders: Sequence[tuple[int, Path]]) -> BeforeAfter | None:
    """The first and the last of the sample folders (step, path) at the prompts that both have.

    None without folders. Raises InputError when a samples.jsonl is missing or broken.
    """
    if not folders:
        return None
    (first_step, first), (last_step, last) = folders[0], folders[-1]
    old = _by_prompt(read_sample_rows(first))
    if first_step == last_step:
        notes = [f"Only step {first_step} was sampled."]
        keys = _limit(list(old), notes)
        return BeforeAfter(first_step, None, [_group(key, (old[key], first), ([], first)) for key in keys], notes)
    new = _by_prompt(read_sample_rows(last))
    common, notes = [key for key in old if key in new], []
    lone = len(old) + len(new) - 2 * len(common)
    if lone:
        notes.append(f"{lone} prompts were sampled at one of the two steps only and are left out.")
    keys = _limit(common, notes)
    groups = [_group(key, (old[key], first), (new[key], last)) for key in keys]
    return BeforeAfter(first_step, last_step, groups, notes)


def _half_picture(half: Quadruple, root: Path) -> Picture:
    return embed(half.image_path, root, half.image_path)


Key = tuple[str, str, str]


def _by_prompt(rows: Sequence[SampleRow]) -> dict[Key, list[SampleRow]]:
    groups: dict[Key, list[SampleRow]] = {}
    for row in rows:
        groups.setdefault((row.side, row.pair_id, row.asked), []).append(row)
    return {key: sorted(group, key=lambda row: row.rollout) for key, group in groups.items()}


def _limit(keys: Sequence[Key], notes: list[str]) -> list[Key]:
    """At most SHOWN_PROMPTS of each side, generation first."""
    shown = []
    for side in (Side.GENERATION, Side.UNDERSTANDING):
        own = [key for key in keys if key[0] == side]
        if len(own) > SHOWN_PROMPTS:
            notes.append(f"{SHOWN_PROMPTS} of {len(own)} {side} prompts are shown.")
        shown += own[:SHOWN_PROMPTS]
    return shown


def _group(key: Key, first: tuple[list[SampleRow], Path], last: tuple[list[SampleRow], Path]) -> Group:
    shots = [[_shot(row, folder) for row in rows[:SHOWN_ROLLOUTS]] for rows, folder in (first, last)]
    return Group(*key, shots[0], shots[1], _means(first[0]), _means(last[0]))


def _shot(row: SampleRow, folder: Path) -> Shot:
    return Shot(row, None if row.image is None else embed(row.image, folder, row.asked))


def _means(rows: Sequence[SampleRow]) -> dict[str, float | None]:
    """Mean of each reward over the rollouts that have it, None where none has."""
    means: dict[str, float | None] = {}
    for name in dict.fromkeys(name for row in rows for name in row.rewards):
        known = [value for row in rows if (value := row.rewards.get(name)) is not None]
        means[name] = sum(known) / len(known) if known else None
    return means
