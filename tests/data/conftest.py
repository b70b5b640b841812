"""Small real inputs: Shapes samples on disk, and the photographs where they are present."""

import os
from pathlib import Path

import numpy as np
import pytest

from data_files import write_image, write_lines
from pairuni.shapes.captions import TASKS, example, random_task
from pairuni.shapes.questions import TYPES, ask
from pairuni.shapes.renderer import render
from pairuni.shapes.scenes import random_scene

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def coco() -> Path:
    """Folder of the COCO photographs and their quadruples; skips where they are absent."""
    place = os.environ.get("PAIRUNI_REAL_DATA")
    folder = (Path(place) if place else ROOT.parent / "shared" / "data") / "coco"
    if not (folder / "quadruples.jsonl").is_file():
        pytest.skip(f"no photographs at {folder} (set PAIRUNI_REAL_DATA)")
    return folder


@pytest.fixture(scope="session")
def shapes_sources(tmp_path_factory) -> Path:
    """understanding.jsonl (every question type) and generation.jsonl (every task) of 36 samples each, with images."""
    folder, rng = tmp_path_factory.mktemp("shapes"), np.random.default_rng(5)
    understanding, generation = [], []
    for n in range(36):
        question = None
        while question is None:
            scene = random_scene(rng, "train")
            question = ask(scene, TYPES[n % len(TYPES)], rng)
        write_image(folder / f"images/u{n}.png", render(scene, rng))
        row = {"id": f"u{n}", "image_path": f"images/u{n}.png", "question": question.text, "answer": question.answer}
        understanding.append({**row, "tag": question.type, "origin": n})
        text, requirement = random_task(TASKS[n % len(TASKS)], rng, "train")
        write_image(folder / f"images/g{n}.png", render(example(requirement, rng, "train"), rng))
        generation.append({"id": f"g{n}", "image_path": f"images/g{n}.png", "prompt": text, "tag": TASKS[n % 6]})
    write_lines(folder / "understanding.jsonl", understanding)
    write_lines(folder / "generation.jsonl", generation)
    return folder
