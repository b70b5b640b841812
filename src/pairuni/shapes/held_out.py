"""Held-out items of the Shapes world: the test, which is reported, and validation, on which options are chosen.

Training, validation and test share no scene, hence no question about one, and no prompt. Combinations and wordings
decide what training may not show (scenes.py, captions.py). Of the rest

- a hash of the scene gives validation a quarter of the scenes of several things, without those of the first 2,000 test
  questions: published results are of these, so they stay what they were before validation had scenes of its own. Later
  test questions that would be about a validation scene are drawn again, under another id;
- prompts are validation's where they begin as no other text does: the test has every held-out prompt of the tasks
  single, two and colours in the wordings of training.

So validation has no one-thing scenes, all of which the test has; its prompts combine the same things as the test's, in
other words. Its scores are not to be set beside test scores.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from pairuni.config import EvalSplit
from pairuni.shapes.captions import (
    OPENINGS,
    TASKS,
    VALIDATION_OPENINGS,
    Requirement,
    random_task,
)
from pairuni.shapes.questions import TYPES, Question
from pairuni.shapes.renderer import render
from pairuni.shapes.scenes import Scene, drawn_for_validation, scene_split
from pairuni.shapes.world import random_question
from pairuni.streams import Stream, generator

FIXED_QUESTIONS = 2000
"""Test questions that stay, about any scene."""
_SEED = 20261124
_QUESTIONS = {"test": Stream.TEST_QUESTION, "validation": Stream.VALIDATION_QUESTION}
_PROMPTS = {"test": Stream.TEST_PROMPT, "validation": Stream.VALIDATION_PROMPT}


@dataclass(frozen=True)
class HeldOutQuestion:
    """An understanding item: image uint8 [H, W, 3], the scene that it shows, and its question."""

    id: str
    image: np.ndarray
    scene: Scene
    question: Question


@dataclass(frozen=True)
class HeldOutPrompt:
    """A generation item: text, what it requires, and which of the six tasks it is."""

    id: str
    task: str
    text: str
    requirement: Requirement


def held_out_questions(number: int, split: EvalSplit = "test") -> list[HeldOutQuestion]:
    """The first `number` held-out questions of `split`: types in turn, item i the same for every number."""
    items = []
    for i in range(number):
        rng, again = generator(_SEED, _QUESTIONS[split], i), ""
        while True:
            scene, question = random_question(TYPES[i % len(TYPES)], rng, "held_out")
            if (split == "test" and i < FIXED_QUESTIONS) or split_of_scene(scene) == split:
                break
            # Drawn again, it is another item than the one that had this number once.
            again = "b" if split == "test" else ""
        items.append(HeldOutQuestion(_id("q", i, split) + again, render(scene, rng), scene, question))
    return items


def held_out_prompts(number: int, split: EvalSplit = "test") -> list[HeldOutPrompt]:
    """The first `number` held-out prompts of `split`: tasks in turn, item i the same for every number."""
    items = []
    for i in range(number):
        rng, task = generator(_SEED, _PROMPTS[split], i), TASKS[i % len(TASKS)]
        openings = VALIDATION_OPENINGS if split == "validation" else OPENINGS
        items.append(HeldOutPrompt(_id("p", i, split), task, *random_task(task, rng, "held_out", openings)))
    return items


def split_of_scene(scene: Scene) -> Literal["train", "test", "validation"]:
    """The one split whose images may show the scene."""
    if scene_split(scene) == "train":
        return "train"
    return "validation" if drawn_for_validation(scene) and scene not in _fixed_scenes() else "test"


@cache
def _fixed_scenes() -> frozenset[Scene]:
    """Those of the first test questions: drawing them takes half a second, once."""
    drawn = (generator(_SEED, Stream.TEST_QUESTION, i) for i in range(FIXED_QUESTIONS))
    return frozenset(random_question(TYPES[i % len(TYPES)], rng, "held_out")[0] for i, rng in enumerate(drawn))


def _id(kind: str, i: int, split: EvalSplit) -> str:
    return f"{'v' if split == 'validation' else ''}{kind}{i:05d}"
