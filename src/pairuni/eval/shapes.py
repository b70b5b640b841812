"""Held-out benchmarks of the Shapes world: multiple-choice questions by type, and exact images by task.

An image is right when the detector reads exactly what the prompt requires and nothing else. Sampled at temperature 1
with guidance, as rollouts are, or greedily.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm

from pairuni.config import EvalConfig
from pairuni.eval.base import Answer
from pairuni.policies.base import Sampler, SamplingSpec
from pairuni.policies.sampling import seeds_for
from pairuni.records import Prompt, Side
from pairuni.rewards.choice import extract_choice
from pairuni.shapes.captions import fits
from pairuni.shapes.detector import detect
from pairuni.shapes.questions import LETTERS
from pairuni.shapes.world import held_out_prompts, held_out_questions

ANSWER_TOKENS = 16
"""Longest answer; the longest option with its letter has about ten tokens."""


@dataclass(frozen=True)
class ShapesUnderstanding:
    """Six question types: existence, comparison, count, colour, position, binding."""

    temperature: float

    @property
    def protocol(self) -> str:
        return "greedy" if self.temperature == 0 else f"sampled, temperature {self.temperature:g}"

    def run(self, sampler: Sampler, config: EvalConfig) -> Sequence[Answer]:
        items = held_out_questions(config.questions or 2000, config.split)
        spec = SamplingSpec(temperature=self.temperature, max_new_tokens=ANSWER_TOKENS)
        answers = []
        for start in tqdm(range(0, len(items), config.batch), desc="questions", leave=False):
            batch = items[start : start + config.batch]
            prompts = [Prompt(Side.UNDERSTANDING, i.question.text, i.image) for i in batch]
            seeds = seeds_for(config.seed, 0, [i.id for i in batch], Side.UNDERSTANDING, 1)
            texts = sampler.sample(Side.UNDERSTANDING, prompts, 1, spec, seeds).texts
            assert texts is not None
            for item, (text,) in zip(batch, texts, strict=True):
                question = item.question
                letter = extract_choice(text, dict(zip(LETTERS, question.options, strict=False)))
                record = {"question": question.text, "gold": question.answer, "answer": text, "letter": letter}
                record["chance"] = 1 / len(question.options)
                right = float(letter == question.answer)
                answers.append(Answer(item.id, question.type, right, letter is not None, record))
        return answers


@dataclass(frozen=True)
class ShapesGeneration:
    """Six tasks: single, two, counting, colours, position, attribution; one image per prompt."""

    temperature: float

    @property
    def protocol(self) -> str:
        return "greedy" if self.temperature == 0 else f"sampled, temperature {self.temperature:g}"

    def run(self, sampler: Sampler, config: EvalConfig) -> Sequence[Answer]:
        items = held_out_prompts(config.prompts or 1000, config.split)
        spec = SamplingSpec(temperature=self.temperature, guidance=config.guidance)
        answers = []
        for start in tqdm(range(0, len(items), config.batch), desc="images", leave=False):
            batch = items[start : start + config.batch]
            prompts = [Prompt(Side.GENERATION, i.text) for i in batch]
            seeds = seeds_for(config.seed, 0, [i.id for i in batch], Side.GENERATION, 1)
            images = sampler.sample(Side.GENERATION, prompts, 1, spec, seeds).images_BRHWC
            assert images is not None
            for item, image in zip(batch, images[:, 0], strict=True):
                found = detect(image)
                right = found.scene is not None and fits(item.requirement, found.scene)
                read = [f"{t.colour} {t.shape} at {t.cell}" for t in found.things]
                record = {"prompt": item.text, "found": read, "unread": found.unread}
                answers.append(Answer(item.id, item.task, float(right), found.unread == 0, record))
        return answers
