"""Questions about scenes: multiple choice with inline options and a letter as answer, yes/no among them.

Six types mirror the six generation tasks: existence (single), comparison (two), count (counting), colour (colours),
position (position), binding (attribution). Every question can be answered from the scene alone, and `answer_text`
gives the words before the letter that a model is taught to write ("blue (B)").
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from pairuni.shapes.captions import RELATIONS, related
from pairuni.shapes.scenes import CELLS, COLOURS, MOST, SHAPES, Scene, Thing, random_kind

TYPES = ("existence", "comparison", "count", "colour", "position", "binding")
LETTERS = "ABCD"


@dataclass(frozen=True)
class Question:
    """A question with its options inline and the letter of the right one."""

    type: str
    stem: str
    options: tuple[str, ...]
    answer: str

    @property
    def text(self) -> str:
        inline = " ".join(f"{letter}. {option}" for letter, option in zip(LETTERS, self.options, strict=False))
        return f"{self.stem} {inline}"

    @property
    def answer_text(self) -> str:
        """The option in words, then its letter."""
        return f"{self.options[LETTERS.index(self.answer)]} ({self.answer})"

    @property
    def first_option(self) -> str:
        """The first option in the form of `answer_text`, right or wrong."""
        return f"{self.options[0]} ({LETTERS[0]})"


def ask(scene: Scene, type: str, rng: np.random.Generator) -> Question | None:
    """A random question of `type`, None where the scene does not allow one (comparing a lone thing, say).

    Raises:
        ValueError: an unknown type.
    """
    if type not in _WRITERS:
        raise ValueError(f"unknown question type {type!r}")
    drawn = _WRITERS[type](scene, rng)
    if drawn is None:
        return None
    stem, right, wrong = drawn
    yes_no = right in ("yes", "no")
    options = ["yes", "no"] if yes_no else [str(option) for option in rng.permutation([right, *wrong])]
    return Question(type, stem, tuple(options), LETTERS[options.index(right)])


def ask_any(scene: Scene, rng: np.random.Generator) -> Question:
    """A random question of a random type that the scene allows."""
    for type in rng.permutation(TYPES):
        question = ask(scene, str(type), rng)
        if question is not None:
            return question
    raise AssertionError("every scene allows a question about existence")


Drawn = tuple[str, str, list[str]] | None


def _yes_no(stem: str, truth: bool) -> Drawn:
    return stem, "yes" if truth else "no", []


def _others(right: str, pool: Iterable[str], rng: np.random.Generator) -> list[str]:
    return [str(other) for other in rng.permutation([each for each in pool if each != right])[:3]]


def _existence(scene: Scene, rng: np.random.Generator) -> Drawn:
    present = sorted({t.shape for t in scene.things})
    absent = [s for s in SHAPES if s not in present]
    if rng.random() < 0.5 or len(absent) < 3:
        ask_present = bool(rng.random() < 0.5) or not absent
        shape = str(rng.choice(present if ask_present else absent))
        return _yes_no(f"Is there a {shape}?", ask_present)
    return "Which shape is there?", str(rng.choice(present)), absent[:3]


def _comparison(scene: Scene, rng: np.random.Generator) -> Drawn:
    counts = Counter(t.shape for t in scene.things)
    first, second = (str(s) for s in rng.choice(SHAPES, size=2, replace=False))
    more = counts[first] - counts[second]
    if counts[first] + counts[second] == 0:
        return None
    right = "the same" if more == 0 else _plural(first) if more > 0 else _plural(second)
    options = [_plural(first), _plural(second), "the same"]
    return f"Are there more {_plural(first)} or {_plural(second)}?", right, [o for o in options if o != right]


def _count(scene: Scene, rng: np.random.Generator) -> Drawn:
    counts = Counter(t.shape for t in scene.things)
    if rng.random() < 0.4:
        noun, number = "things", len(scene.things)
    else:
        shape = str(rng.choice(sorted(counts)))
        noun, number = _plural(shape), counts[shape]
    return f"How many {noun} are there?", str(number), [str(n) for n in range(1, MOST + 1) if n != number]


def _colour(scene: Scene, rng: np.random.Generator) -> Drawn:
    single = _single(scene)
    if not single:
        return None
    thing = single[int(rng.integers(len(single)))]
    return f"What colour is the {thing.shape}?", thing.colour, _others(thing.colour, COLOURS, rng)


def _position(scene: Scene, rng: np.random.Generator) -> Drawn:
    single = _single(scene)
    if not single:
        return None
    if len(single) > 1 and rng.random() < 0.5:
        first, second = (single[int(i)] for i in rng.choice(len(single), size=2, replace=False))
        truth = bool(rng.random() < 0.5)
        relation = str(rng.choice([name for name in RELATIONS if related(name, first, second) == truth]))
        return _yes_no(f"Is the {first.shape} {relation} the {second.shape}?", truth)
    thing = single[int(rng.integers(len(single)))]
    return f"Where is the {thing.shape}?", thing.cell, _others(thing.cell, CELLS, rng)


def _binding(scene: Scene, rng: np.random.Generator) -> Drawn:
    kinds = {t.kind for t in scene.things}
    right = " ".join(sorted(kinds)[int(rng.integers(len(kinds)))])
    wrong: list[str] = []
    while len(wrong) < 3:
        # Half of the wrong options swap the colours and shapes that are there: only binding tells them apart.
        colour, shape = random_kind(rng)
        if rng.random() < 0.5:
            colour = str(rng.choice(sorted(c for c, _ in kinds)))
        if rng.random() < 0.5:
            shape = str(rng.choice(sorted(s for _, s in kinds)))
        if (colour, shape) not in kinds and f"{colour} {shape}" not in wrong:
            wrong.append(f"{colour} {shape}")
    return "Which of these is there?", right, wrong


def _single(scene: Scene) -> list[Thing]:
    """Things that are the only ones of their shape."""
    return [t for t in scene.things if sum(o.shape == t.shape for o in scene.things) == 1]


def _plural(shape: str) -> str:
    return shape + ("es" if shape.endswith("s") else "s")


_WRITERS: dict[str, Callable[[Scene, np.random.Generator], Drawn]] = {
    "existence": _existence,
    "comparison": _comparison,
    "count": _count,
    "colour": _colour,
    "position": _position,
    "binding": _binding,
}
