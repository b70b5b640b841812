"""Captions of the Shapes world: the requirements of a text on a scene, written in varied words and read back again.

`Requirement` is the meaning, `write` and `read` go between it and text, `fits` and `credit` compare it with a scene.
The six tasks mirror GenEval's: single object, two objects, counting, colours, position, attribution.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np

from pairuni.shapes.scenes import (
    CELLS,
    COLOURS,
    MOST,
    SHAPES,
    Scene,
    Split,
    Thing,
    is_held_out,
    kinds_held_out,
    place,
    scene_split,
)

TASKS = ("single", "two", "counting", "colours", "position", "attribution")
NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4}
RELATIONS: dict[str, tuple[int, int]] = {"left of": (0, -1), "right of": (0, 1), "above": (-1, 0), "below": (1, 0)}
"""Relation -> (sign of row difference, sign of column difference) of the first thing to the second; 0: any."""
OPENINGS = ("", "a picture of ", "an image of ", "a drawing of ", "there is ", "this shows ", "we see ", "a photo of ")
"""How texts begin in training and in the test."""
VALIDATION_OPENINGS = (
    "this is ",
    "this is a picture of ",
    "this picture shows ",
    "this image shows ",
    "this drawing shows ",
    "there is a drawing of ",
    "we see an image of ",
    "we see a photo of ",
)
"""How validation prompts begin, and no others: the words of OPENINGS, joined otherwise."""
_RELATION_WORDS = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}


@dataclass(frozen=True)
class Group:
    """`number` things of one shape; of one colour and in one cell where these are not None (any)."""

    number: int
    shape: str
    colour: str | None = None
    cell: str | None = None

    def takes(self, thing: Thing) -> bool:
        """Whether the thing is of this shape and colour, wherever it is."""
        return thing.shape == self.shape and self.colour in (None, thing.colour)


@dataclass(frozen=True)
class Requirement:
    """The scene holds exactly these groups; with a relation, the first group's thing is so placed to the second's."""

    groups: tuple[Group, ...]
    relation: str | None = None


def describe(scene: Scene) -> Requirement:
    """All that is in the scene, with colours; of two single things also a relation that holds."""
    counts = Counter(t.kind for t in scene.things)
    groups = tuple(Group(n, shape, colour) for (colour, shape), n in counts.items())
    if len(scene.things) != 2 or len(groups) != 2:
        return Requirement(groups)
    first, second = scene.things
    relation = next(name for name in RELATIONS if related(name, first, second))
    return Requirement(groups, relation)


def related(relation: str, first: Thing, second: Thing) -> bool:
    down, right = RELATIONS[relation]
    return (first.row - second.row) * down > 0 or (first.column - second.column) * right > 0


def fits(requirement: Requirement, scene: Scene) -> bool:
    """Whether the scene is exactly what is required: every group in full, nothing else, the relation true."""
    return credit(requirement, scene.things) == 1.0


def credit(requirement: Requirement, things: tuple[Thing, ...]) -> float:
    """How much of the requirement `things` meet, in [0, 1]; 1 exactly where `fits`.

    The best assignment of things to required places: each place gives the share of its stated facts (shape, colour,
    cell) that are true, over the larger of required and found numbers; a relation counts as one more place.
    """
    places = [g for g in requirement.groups for _ in range(g.number)]
    size = max(len(places), len(things))
    if size == 0 or len(things) > 2 * MOST:
        return 0.0
    best, padded = 0.0, [*things, *[None] * (len(places) - len(things))]
    for order in permutations(padded, len(places)):
        points = sum(_points(group, thing) for group, thing in zip(places, order, strict=True))
        if requirement.relation is None:
            best = max(best, points / size)
        else:
            first, second = order[0], order[1]
            holds = first is not None and second is not None and related(requirement.relation, first, second)
            # The relation is worth nothing between the wrong things.
            right = holds and _points(places[0], first) == _points(places[1], second) == 1
            best = max(best, (points + right) / (size + 1))
    return best


def _points(group: Group, thing: Thing | None) -> float:
    if thing is None:
        return 0.0
    said = [(group.shape, thing.shape), (group.colour, thing.colour), (group.cell, thing.cell)]
    met = [wanted == found for wanted, found in said if wanted is not None]
    return sum(met) / len(met)


def write(requirement: Requirement, rng: np.random.Generator, openings: Sequence[str] = OPENINGS) -> str:
    """The requirement as text, in wording drawn from `rng`. `read` gives it back."""
    phrases = [_phrase(g, rng) for g in requirement.groups]
    if requirement.relation is not None:
        wording = str(rng.choice(_RELATION_WORDS[requirement.relation]))
        text = f"{phrases[0]} {wording} {phrases[1]}"
    elif len(phrases) == 1:
        text = phrases[0]
    else:
        text = ", ".join(phrases[:-1]) + " and " + phrases[-1]
    return str(rng.choice(openings)) + text


def _phrase(group: Group, rng: np.random.Generator) -> str:
    colour = "" if group.colour is None else group.colour + " "
    if group.number == 1:
        where = f" {'in' if group.cell == 'centre' else 'at'} the {group.cell}" if group.cell else ""
        return f"a {colour}{group.shape}{where}"
    plural = group.shape + ("es" if group.shape.endswith("s") else "s")
    number = next(word for word, n in NUMBERS.items() if n == group.number)
    return f"{number if rng.random() < 0.7 else group.number} {colour}{plural}"


_PHRASE = re.compile(
    rf"\b(an?|{'|'.join(NUMBERS)}|[1-9])\s+(?:({'|'.join(COLOURS)})\s+)?({'|'.join(SHAPES)})(?:e?s)?\b"
    rf"(?:\s+(?:at|in)\s+the\s+({'|'.join(CELLS)})\b)?",
    re.IGNORECASE,
)


def read(text: str) -> Requirement | None:
    """The requirement that `text` states, None where it names no shapes."""
    groups, ends = [], []
    for match in _PHRASE.finditer(text):
        word = match[1].lower()
        number = int(word) if word.isdigit() else NUMBERS.get(word, 1)
        groups.append(Group(number, match[3].lower(), *(m and m.lower() for m in match.group(2, 4))))
        ends.append(match.span())
    if not groups:
        return None
    relation = None
    if len(groups) == 2 and all(g.number == 1 for g in groups):
        between = text[ends[0][1] : ends[1][0]].lower()
        for name, words in _RELATION_WORDS.items():
            relation = name if any(re.search(rf"\b{w}\b", between) for w in words) else relation
    return Requirement(tuple(groups), relation)


def random_task(
    task: str, rng: np.random.Generator, split: Split, openings: Sequence[str] = OPENINGS
) -> tuple[str, Requirement]:
    """A (text, requirement) of a generation task in `split`: held-out texts and kinds never occur in training."""
    while True:
        shapes = [str(s) for s in rng.choice(SHAPES, size=2, replace=False)]
        colours = [str(c) for c in rng.choice(list(COLOURS), size=2, replace=False)]
        plain, coloured = ([Group(1, *said) for said in zip(shapes, c, strict=True)] for c in ((None, None), colours))
        groups = {
            "single": plain[:1],
            "two": plain,
            "colours": coloured[:1],
            "attribution": coloured,
            "position": plain,
        }
        if task == "counting":
            colour = colours[0] if rng.random() < 0.5 else None
            groups["counting"] = [Group(int(rng.integers(2, MOST + 1)), shapes[0], colour)]
        if task not in groups:
            raise ValueError(f"unknown task {task!r}")
        relation = str(rng.choice(list(RELATIONS))) if task == "position" else None
        requirement = Requirement(tuple(groups[task]), relation)
        text = write(requirement, rng, openings)
        if prompt_split(text, requirement) == split:
            return text, requirement


def prompt_split(text: str, requirement: Requirement) -> Split:
    """Held out by what it combines: kinds where several have a colour, shapes and their relation; else by the words.

    Without colours or a relation there are too few combinations to hold some out (four shapes, six pairs of them, 24
    coloured shapes), so there the wording alone is new: a fixed share of the texts, and all with a validation opening.
    """
    kinds = [(g.colour, g.shape) for g in requirement.groups for _ in range(g.number) if g.colour is not None]
    if relation_held_out(requirement) or (len(kinds) > 1 and kinds_held_out(kinds)):
        return "held_out"
    combines = len(kinds) > 1 or requirement.relation is not None
    return "held_out" if not combines and (is_validation_prompt(text) or is_held_out("prompt", text)) else "train"


def is_validation_prompt(text: str) -> bool:
    """Whether a held-out text belongs to the validation items, not to the test: how it begins decides."""
    return text.startswith(VALIDATION_OPENINGS)


def relation_held_out(requirement: Requirement) -> bool:
    """Whether these shapes in this relation are held out; "a above b" and "b below a" are one combination."""
    if requirement.relation is None:
        return False
    first, second = (g.shape for g in requirement.groups)
    if requirement.relation in ("right of", "below"):
        first, second = second, first
    across = RELATIONS[requirement.relation][0] == 0
    return is_held_out("relation", first, "left of" if across else "above", second)


def example(requirement: Requirement, rng: np.random.Generator, split: Split) -> Scene:
    """A random scene of `split` that fits the requirement (free colours are drawn)."""
    while True:
        kinds = [
            (g.colour or str(rng.choice(list(COLOURS))), g.shape) for g in requirement.groups for _ in range(g.number)
        ]
        scene = place(kinds, rng)
        if fits(requirement, scene) and scene_split(scene) == split:
            return scene


def caption(scene: Scene, rng: np.random.Generator, detailed: bool = True) -> str:
    """A caption that is true of the scene and complete.

    Kinds come in random order. Half of the detailed ones say where each single thing is; of the others, half of those
    with two single things state a relation. Without `detailed` colours and places are left out, as colourless tasks do.
    """
    counts = Counter((t.colour if detailed else None, t.shape) for t in scene.things)
    kinds = list(counts)
    groups = tuple(Group(counts[kinds[i]], kinds[i][1], kinds[i][0]) for i in rng.permutation(len(kinds)))
    relation = None
    if detailed and rng.random() < 0.5:
        return write(Requirement(tuple(placed(g, scene) for g in groups)), rng)
    if len(groups) == 2 and len(scene.things) == 2 and rng.random() < 0.5:
        first, second = (next(t for t in scene.things if g.takes(t)) for g in groups)
        relation = str(rng.choice([name for name in RELATIONS if related(name, first, second)]))
    return write(Requirement(groups, relation), rng)


def placed(group: Group, scene: Scene) -> Group:
    """A single thing's group with its cell; other groups as they are."""
    if group.number != 1:
        return group
    return replace(group, cell=next(t.cell for t in scene.things if group.takes(t)))
