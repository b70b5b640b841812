"""Scenes of the Shapes world: one to four coloured shapes on a 3 x 3 grid, and the split into training and held-out.

A scene is held out by what it combines (two kinds of thing together, how many of one kind, one thing in one place):
training scenes contain no held-out combination, so the two sets are disjoint by construction. Of the held-out scenes
some are for validation, the others for the test: held_out.py.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (50, 80, 220),
    "yellow": (245, 205, 40),
    "purple": (160, 60, 190),
    "black": (30, 30, 30),
}
_COLOURS = tuple(COLOURS)
GRID = 3
"""Cells per row and column."""
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")


def cell_name(row: int, column: int) -> str:
    """A cell in words: "top left", "bottom centre", "centre"."""
    return "centre" if row == column == GRID // 2 else f"{ROWS[row]} {COLUMNS[column]}"


CELLS = tuple(cell_name(row, column) for row in range(GRID) for column in range(GRID))
MOST = 4
"""Things in a scene, at the most."""
Split = Literal["train", "held_out"]
HELD_OUT_SHARE = 6
"""One combination in this many is held out."""
VALIDATION_SHARE = 4
"""One held-out scene of several things in this many is drawn for validation."""


@dataclass(frozen=True, order=True)
class Thing:
    """One shape in one cell; row 0 is the top."""

    row: int
    column: int
    shape: str
    colour: str

    @property
    def cell(self) -> str:
        """The cell's name, one of CELLS."""
        return cell_name(self.row, self.column)

    @property
    def kind(self) -> tuple[str, str]:
        return self.colour, self.shape


@dataclass(frozen=True)
class Scene:
    """Things in reading order, at most one per cell."""

    things: tuple[Thing, ...]

    def __post_init__(self) -> None:
        if list(self.things) != sorted(self.things):
            raise ValueError("things must be in reading order")
        if len({(t.row, t.column) for t in self.things}) != len(self.things):
            raise ValueError("two things share a cell")


def scene_of(things: list[Thing]) -> Scene:
    return Scene(tuple(sorted(things)))


def is_held_out(*combination: object) -> bool:
    """Whether a combination belongs to the held-out set: a fixed hash, so the split needs no list."""
    return _hash(combination) % HELD_OUT_SHARE == 0


def _hash(content: object) -> int:
    """A fixed hash in 0..255 of a value with a plain `repr`."""
    return hashlib.sha256(repr(content).encode()).digest()[0]


def kinds_held_out(kinds: list[tuple[str, str]]) -> bool:
    """Whether (colour, shape) kinds, one per thing, contain a held-out pair of kinds or a held-out number of one."""
    counts = Counter(kinds)
    pairs = any(is_held_out("pair", *sorted(pair)) for pair in combinations(counts, 2))
    return pairs or any(n > 1 and is_held_out("count", n, kind) for kind, n in counts.items())


def scene_split(scene: Scene) -> Split:
    """`held_out` where the scene contains a held-out combination, else `train`."""
    if len(scene.things) == 1:
        only = scene.things[0]
        return "held_out" if is_held_out("single", only.kind, only.row, only.column) else "train"
    return "held_out" if kinds_held_out([t.kind for t in scene.things]) else "train"


def drawn_for_validation(scene: Scene) -> bool:
    """Whether a fixed hash draws a held-out scene for validation. One-thing scenes it never draws: there are 36."""
    if len(scene.things) == 1:
        return False
    things = [(t.row, t.column, t.shape, t.colour) for t in scene.things]
    return _hash(("validation", things)) % VALIDATION_SHARE == 0


def random_kind(rng: np.random.Generator) -> tuple[str, str]:
    """A (colour, shape). As `rng.choice` would, in a fifth of its time: most scenes that are drawn are put back."""
    return _COLOURS[int(rng.integers(len(_COLOURS)))], SHAPES[int(rng.integers(len(SHAPES)))]


def place(kinds: list[tuple[str, str]], rng: np.random.Generator) -> Scene:
    """Puts (colour, shape) kinds into random free cells."""
    cells = rng.choice(GRID * GRID, size=len(kinds), replace=False)
    return scene_of(
        [Thing(int(c) // GRID, int(c) % GRID, shape, colour) for c, (colour, shape) in zip(cells, kinds, strict=True)]
    )


def random_scene(rng: np.random.Generator, split: Split) -> Scene:
    """A scene of 1 to 4 things; a kind is repeated often enough that counting is worth asking."""
    while True:
        kinds = [random_kind(rng)]
        for _ in range(int(rng.integers(MOST))):
            kinds.append(kinds[-1] if rng.random() < 0.3 else random_kind(rng))
        scene = place(kinds, rng)
        if scene_split(scene) == split:
            return scene
