"""Training, validation and test of the Shapes world share nothing; the first test items are the published ones."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pairuni.config import EvalSplit, PretrainConfig, ShapesConfig
from pairuni.files import read_jsonl
from pairuni.lab.pretrain.rows import make_pool
from pairuni.shapes import held_out, world
from pairuni.shapes.captions import (
    OPENINGS,
    TASKS,
    VALIDATION_OPENINGS,
    Requirement,
    caption,
    is_validation_prompt,
    prompt_split,
    read,
)
from pairuni.shapes.held_out import held_out_prompts, held_out_questions, split_of_scene
from pairuni.shapes.questions import TYPES
from pairuni.shapes.scenes import Scene
from pairuni.tiny.corpus import corpus, training_caption


@dataclass
class Drawn:
    """What a split shows: prompts, scenes, and questions about scenes."""

    prompts: set[str] = field(default_factory=set)
    scenes: set[Scene] = field(default_factory=set)
    asked: set[tuple[Scene, str]] = field(default_factory=set)


def split_of_prompt(text: str, requirement: Requirement) -> str:
    """The one split that may have the text as a prompt."""
    if prompt_split(text, requirement) == "train":
        return "train"
    return "validation" if is_validation_prompt(text) else "test"


def draw_training(number: int, folder: Path, patch: pytest.MonkeyPatch) -> Drawn:
    shown: list[Scene] = []
    patch.setattr(world, "render", lambda scene, rng, background: shown.append(scene))
    patch.setattr(world, "_save", lambda path, image: None)
    world.write_world(ShapesConfig(str(folder), number, number))
    rows = {name: [row for _, row in read_jsonl(folder / f"{name}.jsonl")] for name in ("understanding", "generation")}
    questions = [row["question"] for row in rows["understanding"]]
    asked = set(zip(islice(shown, number), questions, strict=True))
    return Drawn({row["prompt"] for row in rows["generation"]}, set(shown), asked)


def draw_items(number: int, split: EvalSplit, patch: pytest.MonkeyPatch) -> Drawn:
    patch.setattr(held_out, "render", lambda scene, rng: np.zeros(0))
    questions = held_out_questions(number, split)
    prompts = {item.text for item in held_out_prompts(number, split)}
    return Drawn(prompts, {q.scene for q in questions}, {(q.scene, q.question.text) for q in questions})


@pytest.fixture(scope="module", params=[1_000, pytest.param(20_000, marks=pytest.mark.slow)])
def drawn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Drawn]:
    """Of each split, so many prompts and questions."""
    number = request.param
    with pytest.MonkeyPatch.context() as patch:
        return {
            "train": draw_training(number, tmp_path_factory.mktemp("world"), patch),
            "test": draw_items(number, "test", patch),
            "validation": draw_items(number, "validation", patch),
        }


@pytest.mark.parametrize("what", ["prompts", "scenes", "asked"])
def test_the_splits_share_nothing(drawn: dict[str, Drawn], what: str) -> None:
    every = {name: vars(split)[what] for name, split in drawn.items()}
    shared = {f"{a} and {b}": len(every[a] & every[b]) for a, b in combinations(every, 2)}
    assert shared == {"train and test": 0, "train and validation": 0, "test and validation": 0}
    assert all(every.values())


def test_the_split_of_a_scene_or_prompt_is_a_function_of_its_content(drawn: dict[str, Drawn]) -> None:
    for name, split in drawn.items():
        assert {split_of_scene(scene) for scene in split.scenes} == {name}
        meanings = {text: read(text) for text in split.prompts}
        assert {split_of_prompt(text, meaning) for text, meaning in meanings.items() if meaning} == {name}
        assert None not in meanings.values()


def sha256(rows: Any) -> str:
    digest = hashlib.sha256()
    for said, pixels in rows:
        digest.update(json.dumps(said).encode() + pixels)
    return digest.hexdigest()


def test_the_first_test_items_are_those_of_published_results() -> None:
    """Hashes of what the version before validation had items of its own drew."""
    questions = held_out_questions(2000)
    said = ([q.id, q.question.type, q.question.text, q.question.answer] for q in questions)
    pixels = (q.image.tobytes() for q in questions)
    assert sha256(zip(said, pixels, strict=True)) == "cb5b11959092a63f4722157c25bdf02c96c7510c55da69db495fea6a00ef84e8"
    prompts = (([p.id, p.task, p.text], repr(p.requirement).encode()) for p in held_out_prompts(1000))
    assert sha256(prompts) == "5b2a504a20ea3a6e7fa831ede1f3afb76e06973d8318868e39880a5a5bd8160d"


def test_later_test_questions_change_only_where_validation_has_the_scene() -> None:
    items = held_out_questions(2300)[2000:]
    again = [item for item in items if item.id.endswith("b")]
    assert 0 < len(again) < len(items) / 3
    assert [item.id.removesuffix("b") for item in items] == [f"q{i:05d}" for i in range(2000, 2300)]


def test_validation_has_what_its_page_says(drawn: dict[str, Drawn]) -> None:
    prompts = held_out_prompts(1200, "validation")
    different = Counter(task for task, _ in {(p.task, p.text) for p in prompts})
    assert set(different) == set(TASKS) and min(different.values()) >= 20, different
    assert {len(scene.things) for scene in drawn["validation"].scenes} == {2, 3, 4}
    assert {len(scene.things) for scene in drawn["test"].scenes} == {1, 2, 3, 4}
    questions = held_out_questions(60, "validation")
    assert Counter(q.question.type for q in questions) == dict.fromkeys(TYPES, 10)
    ids = [*(q.id for q in questions), *(p.id for p in prompts)]
    assert not {*ids} & {*(q.id for q in held_out_questions(60)), *(p.id for p in held_out_prompts(1200))}


def test_no_text_begins_both_ways() -> None:
    words = {word for opening in OPENINGS for word in opening.split()}
    for opening in VALIDATION_OPENINGS:
        assert {*opening.split()} <= words
        assert not any(f"{other}a red circle".startswith(opening) for other in OPENINGS)


def test_pre_training_shows_nothing_that_is_held_out() -> None:
    config = PretrainConfig("nowhere")
    pool = make_pool(4000, np.random.default_rng([config.seed, 4]))
    assert Counter(split_of_scene(scene) for scene in pool.scenes) == {"train": 4000}
    rng = np.random.default_rng(0)
    prompts = [training_caption(scene, rng) for scene in pool.scenes]
    # What is answered when an image is to be described is no prompt, but not a validation one either.
    described = [caption(scene, rng) for scene in pool.scenes]
    meanings = [(text, read(text)) for text in (*prompts, *described)]
    splits = [split_of_prompt(text, meaning) for text, meaning in meanings if meaning]
    assert Counter(splits[:4000]) == {"train": 4000} and "validation" not in splits[4000:]
    assert not any(text.strip().startswith(VALIDATION_OPENINGS) for text in corpus(config.seed, 1000))
