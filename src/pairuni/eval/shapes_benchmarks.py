"""Held-out benchmarks of the Shapes world: multiple-choice questions by type, and exact images by task.

An image is right where the detector reads exactly what the prompt requires and nothing else. Images are drawn at
temperature 1 with guidance, as rollouts are, or greedily.
"""

from collections.abc import Sequence

import numpy as np

from pairuni.config import EvalConfig
from pairuni.eval.base import Answer, Benchmark, Item, Score, mean_score
from pairuni.rewards.choice import extract_choice
from pairuni.shapes.captions import fits
from pairuni.shapes.detector import detect
from pairuni.shapes.held_out import held_out_prompts, held_out_questions
from pairuni.shapes.questions import LETTERS
from pairuni.types import Side


class ShapesUnderstanding(Benchmark):
    """Six question types: existence, comparison, count, colour, position, binding."""

    factor = 100.0
    answer_tokens = 16  # the longest option with its letter has about ten

    def __init__(self, config: EvalConfig, temperature: float) -> None:
        super().__init__(config)
        self.temperature = temperature
        self.protocol = "greedy" if temperature == 0 else f"sampled, temperature {temperature:g}"

    def items(self) -> Sequence[Item]:
        drawn = held_out_questions(self.config.questions or 2000, self.config.split)
        return [Item(i.id, i.question.type, i.question.text, (i.image,), i.question) for i in drawn]

    def answer(self, item: Item, output: str | np.ndarray) -> Answer:
        question = item.gold
        letter = extract_choice(str(output), dict(zip(LETTERS, question.options, strict=False)))
        record = {"question": question.text, "gold": question.answer, "answer": str(output), "letter": letter}
        record["chance"] = 1 / len(question.options)
        return Answer(item.id, item.part, float(letter == question.answer), letter is not None, record)

    def total(self, answers: Sequence[Answer]) -> Score:
        return mean_score(answers, 100.0)


class ShapesGeneration(ShapesUnderstanding):
    """Six tasks: single, two, counting, colours, position, attribution; one image per prompt."""

    side = Side.GENERATION

    def items(self) -> Sequence[Item]:
        drawn = held_out_prompts(self.config.prompts or 1000, self.config.split)
        return [Item(i.id, i.task, i.text, (), i.requirement) for i in drawn]

    def answer(self, item: Item, output: str | np.ndarray) -> Answer:
        found = detect(np.asarray(output))
        right = found.scene is not None and fits(item.gold, found.scene)
        read = [f"{t.colour} {t.shape} at {t.cell}" for t in found.things]
        record = {"prompt": item.text, "found": read, "unread": found.unread}
        return Answer(item.id, item.part, float(right), found.unread == 0, record)
