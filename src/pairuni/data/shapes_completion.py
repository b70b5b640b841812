"""Completer and verifier of the Shapes world: exact, offline and free (paper 2.1).

The completer reads an image with the detector, captions it, and asks about it. The verifier reads things from the image
and from the caption and answers the question with each: the caption must not contradict the image and must carry the
evidence that the question needs, and the answer must follow from both.
"""

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np

from pairuni.data.completion import Attempt
from pairuni.data.images import LoadedImage
from pairuni.shapes.captions import (
    RELATIONS,
    Requirement,
    describe,
    fits,
    placed,
    prompt_split,
    read,
    relation_held_out,
    write,
)
from pairuni.shapes.detector import read_scene
from pairuni.shapes.questions import ask
from pairuni.shapes.scenes import CELLS, COLOURS, GRID, SHAPES
from pairuni.streams import Stream, generator
from pairuni.types import Quadruple, Sample

WORDINGS = 20
"""Tries at a caption whose wording is not held out; one in six is."""


class ShapesCompleter:
    """Captions whole Shapes images, and asks questions that a caption can answer.

    It writes training data: captions of the held-out split, which evaluation asks for, are never written.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def caption(self, sample: Sample, image: LoadedImage, attempt: Attempt) -> str | None:
        scene = read_scene(image.pixels)
        if scene is None:
            return None
        requirement = describe(scene)
        if (sample.question or "").startswith(("Where is the", "Is the ")):
            requirement = Requirement(tuple(placed(group, scene) for group in requirement.groups))
        if relation_held_out(requirement):
            requirement = Requirement(requirement.groups)
        rng = self._rng(sample, attempt)
        written = (write(requirement, rng) for _ in range(WORDINGS))
        return next((text for text in written if prompt_split(text, requirement) == "train"), None)

    def question(self, sample: Sample, image: LoadedImage, attempt: Attempt) -> tuple[str, str] | None:
        scene = read_scene(image.pixels)
        if scene is None:
            return None
        rng, things = self._rng(sample, attempt), told(sample.prompt or "")
        types = ["existence", "comparison", "count"]
        if any(k.colour is not None for k in things):
            types += ["colour", "binding"]
        if any(k.cell is not None for k in things):
            types.append("position")
        drawn = (ask(scene, str(kind), rng) for kind in rng.permutation(types))
        question = next((q for q in drawn if q is not None), None)
        return None if question is None else (question.text, question.answer)

    def _rng(self, sample: Sample, attempt: Attempt) -> np.random.Generator:
        return generator(self.seed, Stream.SHAPES_COMPLETER, sample.id, attempt.number)


@dataclass(frozen=True)
class Known:
    """Facts about one thing; None where a fact is not known."""

    shape: str
    colour: str | None = None
    cell: str | None = None
    """One of shapes.scenes.CELLS."""


_SHAPE = rf"({'|'.join(SHAPES)})"
_OPTION = re.compile(r"\b([A-Z])\. (.*?)(?=\s+[A-Z]\. |\n|$)")


class ShapesVerifier:
    """Exact for captions and questions in the words of the Shapes world; other texts are contradictions."""

    def contradiction(self, quadruple: Quadruple, image: LoadedImage, attempt: Attempt) -> str | None:
        scene = read_scene(image.pixels)
        if scene is None:
            return "the image does not show a readable scene"
        requirement = read(quadruple.prompt)
        if requirement is None:
            return "the caption names nothing"
        if not fits(requirement, scene):
            return "the caption contradicts the image"
        seen = [Known(t.shape, t.colour, t.cell) for t in scene.things]
        if right_letters(quadruple.question, seen) is None:
            return "the question cannot be understood"
        if right_letters(quadruple.question, seen) != [quadruple.answer.strip()]:
            return "the answer contradicts the image"
        said = right_letters(quadruple.question, told(quadruple.prompt))
        if said is None:
            return "the caption lacks what the question needs"
        return None if said == [quadruple.answer.strip()] else "the answer does not follow from the caption"


def told(caption: str) -> list[Known]:
    """The things that a caption names. It names all there are: captions of this world are complete."""
    requirement = read(caption)
    if requirement is None:
        return []
    return [Known(g.shape, g.colour, g.cell) for g in requirement.groups for _ in range(g.number)]


def right_letters(question: str, things: list[Known]) -> list[str] | None:
    """Letters of the options that are true of `things`; None where one of them cannot be decided."""
    options = _OPTION.findall(question)
    if not options:
        return None
    stem = question[: question.index(f"{options[0][0]}. {options[0][1]}")].strip()
    truths = [(letter, _truth(stem, option.strip(), things)) for letter, option in options]
    return None if any(t is None for _, t in truths) else [letter for letter, t in truths if t]


def _truth(stem: str, option: str, things: list[Known]) -> bool | None:
    counts = Counter(k.shape for k in things)
    if m := re.fullmatch(rf"Is there an? {_SHAPE}\?", stem):
        return (option == "yes") == (counts[m[1]] > 0)
    if stem == "Which shape is there?":
        return counts[option] > 0
    if m := re.fullmatch(rf"Are there more {_SHAPE}e?s or {_SHAPE}e?s\?", stem):
        more = counts[m[1]] - counts[m[2]]
        return more == 0 if option == "the same" else more > 0 if option.startswith(m[1]) else more < 0
    if m := re.fullmatch(rf"How many (?:things|{_SHAPE}e?s) are there\?", stem):
        return str(counts[m[1]] if m[1] else len(things)) == option
    if stem == "Which of these is there?":
        return _bound(option, things)
    if m := re.fullmatch(rf"What colour is the {_SHAPE}\?", stem):
        only = _only(m[1], things)
        return None if only is None or only.colour is None or option not in COLOURS else only.colour == option
    if m := re.fullmatch(rf"Where is the {_SHAPE}\?", stem):
        only = _only(m[1], things)
        return None if only is None or only.cell is None or option not in CELLS else only.cell == option
    if m := re.fullmatch(rf"Is the {_SHAPE} ({'|'.join(RELATIONS)}) the {_SHAPE}\?", stem):
        first, second = _only(m[1], things), _only(m[3], things)
        if first is None or second is None or first.cell is None or second.cell is None:
            return None
        down, right = RELATIONS[m[2]]
        (row, column), (other_row, other_column) = (divmod(CELLS.index(k.cell or ""), GRID) for k in (first, second))
        holds = (row - other_row) * down > 0 or (column - other_column) * right > 0
        return (option == "yes") == holds
    return None


def _only(shape: str, things: list[Known]) -> Known | None:
    """The one thing of that shape, None where there is none or are several."""
    of_shape = [k for k in things if k.shape == shape]
    return of_shape[0] if len(of_shape) == 1 else None


def _bound(option: str, things: list[Known]) -> bool | None:
    colour, _, shape = option.partition(" ")
    if any(k.shape == shape and k.colour == colour for k in things):
        return True
    return None if any(k.shape == shape and k.colour is None for k in things) else False
