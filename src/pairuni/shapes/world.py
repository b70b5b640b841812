"""Data of the Shapes world: source files for the pipeline (training split) and held-out items for evaluation.

The two never share a combination of things or a prompt text (scenes.py, captions.py).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pairuni.config import EvalSplit
from pairuni.files import check_folder, write_jsonl
from pairuni.shapes.captions import TASKS, Requirement, caption, example, prompt_split, random_task, read
from pairuni.shapes.questions import TYPES, Question, ask
from pairuni.shapes.renderer import render
from pairuni.shapes.scenes import Scene, Split, random_scene

_ITEM_SEEDS: dict[EvalSplit, tuple[int, int]] = {"test": (20261124, 1), "validation": (20261124, 2)}


@dataclass(frozen=True)
class HeldOutQuestion:
    """An understanding item: image uint8 [H, W, 3] and its question."""

    id: str
    image: np.ndarray
    question: Question


@dataclass(frozen=True)
class HeldOutPrompt:
    """A generation item: text, what it requires, and which of the six tasks it is."""

    id: str
    task: str
    text: str
    requirement: Requirement


def random_question(type: str, rng: np.random.Generator, split: Split) -> tuple[Scene, Question]:
    """A scene of `split` and a question of `type` about it."""
    while True:
        scene = random_scene(rng, split)
        question = ask(scene, type, rng)
        if question is not None:
            return scene, question


def held_out_questions(number: int, split: EvalSplit = "test") -> list[HeldOutQuestion]:
    """The first `number` held-out questions of `split`: types in turn, item i the same for every number."""
    items = []
    for i in range(number):
        rng = np.random.default_rng([*_ITEM_SEEDS[split], 1, i])
        scene, question = random_question(TYPES[i % len(TYPES)], rng, "held_out")
        items.append(HeldOutQuestion(f"q{i:05d}", render(scene, rng), question))
    return items


def held_out_prompts(number: int, split: EvalSplit = "test") -> list[HeldOutPrompt]:
    """The first `number` held-out prompts of `split`: tasks in turn, item i the same for every number."""
    items = []
    for i in range(number):
        rng = np.random.default_rng([*_ITEM_SEEDS[split], 2, i])
        task = TASKS[i % len(TASKS)]
        items.append(HeldOutPrompt(f"p{i:05d}", task, *random_task(task, rng, "held_out")))
    return items


def write_world(folder: Path, understanding: int, generation: int, seed: int) -> None:
    """Writes images/*.png, understanding.jsonl and generation.jsonl of the training split into `folder`.

    Understanding samples have a question and no caption, generation samples a caption and no question, as from two
    unrelated sources. Half of the captions describe scenes, half are prompts of the six tasks.
    """
    check_folder(folder / "images")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    questions, prompts = [], []
    for i in range(understanding):
        rng = np.random.default_rng([seed, 1, i])
        scene, question = random_question(TYPES[i % len(TYPES)], rng, "train")
        row = {"id": f"u{i:05d}", "image_path": f"images/u{i:05d}.png"}
        _save(folder / row["image_path"], render(scene, rng))
        questions.append(row | {"question": question.text, "answer": question.answer, "tag": question.type})
    for i in range(generation):
        rng = np.random.default_rng([seed, 2, i])
        text, scene, tag = _captioned(i, rng)
        row = {"id": f"g{i:05d}", "image_path": f"images/g{i:05d}.png"}
        _save(folder / row["image_path"], render(scene, rng))
        prompts.append(row | {"prompt": text, "tag": tag})
    write_jsonl(folder / "understanding.jsonl", questions)
    write_jsonl(folder / "generation.jsonl", prompts)


def _captioned(i: int, rng: np.random.Generator) -> tuple[str, Scene, str]:
    if i % 2:
        task = TASKS[(i // 2) % len(TASKS)]
        text, requirement = random_task(task, rng, "train")
        return text, example(requirement, rng, "train"), task
    while True:
        scene = random_scene(rng, "train")
        text = caption(scene, rng)
        requirement = read(text)
        if requirement is not None and prompt_split(text, requirement) == "train":
            return text, scene, "scene"


def _save(path: Path, image: np.ndarray) -> None:
    Image.fromarray(image).save(path)
