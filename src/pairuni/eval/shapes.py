"""Held-out benchmarks of the Shapes world: multiple-choice questions by type, and exact images by task.

An image is right when the detector reads exactly what the prompt requires and nothing else. Sampled at temperature 1
with guidance, as rollouts are, or greedily.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pairuni.config import EvalConfig
from pairuni.eval.base import Answer, Item, Score, mean_score
from pairuni.rewards.choice import extract_choice
from pairuni.shapes.captions import fits
from pairuni.shapes.detector import detect
from pairuni.shapes.held_out import held_out_prompts, held_out_questions
from pairuni.shapes.questions import LETTERS
from pairuni.types import SamplingSpec, Side

ANSWER_TOKENS = 16
"""Longest answer; the longest option with its letter has about ten tokens."""


@dataclass(frozen=True)
class _Shapes:
    config: EvalConfig
    temperature: float
    factor: float | None = 100.0
    unit: str = "per cent"
    judge: str | None = None
    recorded: bool = False
    keeps_images: bool = False  # small, and drawn again in a minute

    @property
    def protocol(self) -> str:
        return "greedy" if self.temperature == 0 else f"sampled, temperature {self.temperature:g}"

    def total(self, answers: Sequence[Answer]) -> Score:
        return mean_score(answers, 100.0)


@dataclass(frozen=True)
class ShapesUnderstanding(_Shapes):
    """Six question types: existence, comparison, count, colour, position, binding."""

    side: Side = Side.UNDERSTANDING

    def items(self) -> Sequence[Item]:
        drawn = held_out_questions(self.config.questions or 2000, self.config.split)
        return [Item(i.id, i.question.type, i.question.text, (i.image,), i.question) for i in drawn]

    def spec(self) -> SamplingSpec:
        return SamplingSpec(temperature=self.temperature, max_new_tokens=ANSWER_TOKENS)

    def answer(self, item: Item, output: str | np.ndarray) -> Answer:
        question = item.gold
        letter = extract_choice(str(output), dict(zip(LETTERS, question.options, strict=False)))
        record = {"question": question.text, "gold": question.answer, "answer": str(output), "letter": letter}
        record["chance"] = 1 / len(question.options)
        return Answer(item.id, item.part, float(letter == question.answer), letter is not None, record)


@dataclass(frozen=True)
class ShapesGeneration(_Shapes):
    """Six tasks: single, two, counting, colours, position, attribution; one image per prompt."""

    side: Side = Side.GENERATION

    def items(self) -> Sequence[Item]:
        drawn = held_out_prompts(self.config.prompts or 1000, self.config.split)
        return [Item(i.id, i.task, i.text, (), i.requirement) for i in drawn]

    def spec(self) -> SamplingSpec:
        return SamplingSpec(temperature=self.temperature, guidance=self.config.guidance)

    def answer(self, item: Item, output: str | np.ndarray) -> Answer:
        found = detect(np.asarray(output))
        right = found.scene is not None and fits(item.gold, found.scene)
        read = [f"{t.colour} {t.shape} at {t.cell}" for t in found.things]
        record = {"prompt": item.text, "found": read, "unread": found.unread}
        return Answer(item.id, item.part, float(right), found.unread == 0, record)
