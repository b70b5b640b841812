"""Training data of the Shapes world: source files for the pipeline.

They share no combination of things and no prompt text with the held-out items (scenes.py, captions.py, held_out.py).
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pairuni.config import CompleteConfig, PairConfig, ShapesConfig
from pairuni.errors import InputError
from pairuni.files import check_folder, put, write_jsonl, writing
from pairuni.shapes.captions import TASKS, caption, example, prompt_split, random_task, read
from pairuni.shapes.questions import TYPES, Question, ask
from pairuni.shapes.renderer import BACKGROUND, TINTS, render
from pairuni.shapes.scenes import Scene, Split, random_scene
from pairuni.streams import Stream, generator

SOURCES = ("understanding.jsonl", "generation.jsonl")
"""Files of a world's two sources."""
QUADRUPLES = "quadruples.jsonl"
SCENE = "scene"
"""The tag of a caption that describes a whole scene, beside those of the six tasks."""


def random_question(type: str, rng: np.random.Generator, split: Split) -> tuple[Scene, Question]:
    """A scene of `split` and a question of `type` about it."""
    while True:
        scene = random_scene(rng, split)
        question = ask(scene, type, rng)
        if question is not None:
            return scene, question


def write_world(config: ShapesConfig) -> None:
    """Writes images/*.png, understanding.jsonl and generation.jsonl of the training split into `config.output`.

    Understanding samples have a question and no caption, generation samples a caption and no question, as from two
    unrelated sources. Half of the captions describe scenes, half are prompts of the six tasks, unless `tasks` says
    otherwise. Each option has random streams of its own, so that changing one does not change the draws of the others.

    Raises:
        InputError: a question type or task that there is not, or files that cannot be written.
    """
    for field, known in (("question_types", TYPES), ("tasks", (SCENE, *TASKS))):
        unknown = [name for name in vars(config)[field] if name not in known]
        if unknown:
            raise InputError(f"{unknown[0]!r} is not one of {', '.join(known)}", field=field)
    folder = Path(config.output)
    check_folder(folder / "images")
    questions, prompts = [], []
    with writing(folder, "shapes", SOURCES, config.overwrite, many=("images/*.png",)):
        for i in range(config.understanding):
            scene, question, rng = _asked(i, config)
            row = {"id": f"u{i:05d}", "image_path": f"images/u{i:05d}.png"}
            _save(folder / row["image_path"], render(scene, rng, background=_background(1, i, config)))
            questions.append(row | {"question": question.text, "answer": question.answer, "tag": question.type})
        # Generation samples that show the scene of an understanding sample once more: each another while they last.
        rng = generator(config.seed, Stream.WORLD_COMMON)
        chosen = rng.permutation(config.generation)[: round(config.common * config.generation)]
        scenes = np.resize(rng.permutation(config.understanding), len(chosen))
        again = dict(zip(chosen.tolist(), scenes.tolist(), strict=True))
        for i in range(config.generation):
            rng = generator(config.seed, Stream.WORLD_CAPTION, i)
            if i in again:
                scene, tag = _asked(again[i], config)[0], SCENE
                text = caption(scene, rng)
                while not _is_train(text):
                    text = caption(scene, rng)
            else:
                text, scene, tag = _captioned(i, rng, config.tasks)
            row = {"id": f"g{i:05d}", "image_path": f"images/g{i:05d}.png"}
            _save(folder / row["image_path"], render(scene, rng, background=_background(2, i, config)))
            prompts.append(row | {"prompt": text, "tag": tag})
        for name, rows in zip(SOURCES, (questions, prompts), strict=True):
            write_jsonl(folder / name, rows)


def _asked(i: int, config: ShapesConfig) -> tuple[Scene, Question, np.random.Generator]:
    """Understanding sample i, and the generator that goes on to draw it."""
    rng = generator(config.seed, Stream.WORLD_QUESTION, i)
    types = config.question_types or TYPES
    return *random_question(types[i % len(types)], rng, "train"), rng


def _background(source: int, i: int, config: ShapesConfig) -> tuple[int, int, int]:
    """The background of image i of source 1 (understanding) or 2 (generation)."""
    if config.backgrounds == "mixed":
        return TINTS[int(generator(config.seed, Stream.WORLD_BACKGROUND, source, i).integers(len(TINTS)))]
    return TINTS[source - 1] if config.backgrounds == "apart" else BACKGROUND


def _captioned(i: int, rng: np.random.Generator, tasks: Sequence[str]) -> tuple[str, Scene, str]:
    kind = tasks[i % len(tasks)] if tasks else TASKS[(i // 2) % len(TASKS)] if i % 2 else SCENE
    if kind != SCENE:
        text, requirement = random_task(kind, rng, "train")
        return text, example(requirement, rng, "train"), kind
    while True:
        scene = random_scene(rng, "train")
        text = caption(scene, rng)
        if _is_train(text):
            return text, scene, SCENE


def _is_train(text: str) -> bool:
    requirement = read(text)
    return requirement is not None and prompt_split(text, requirement) == "train"


def _save(path: Path, image: np.ndarray) -> None:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    put(path, content.getvalue())


def recipe(world: ShapesConfig) -> tuple[CompleteConfig, PairConfig]:
    """Configs of `complete` and `pair` that make a world's pairs, all in the world's own folder and with its seed.

    A fifth of the images become aligned pairs, and near a third of the pairs: the paper's share (4,971 of 16,320).
    """
    folder = Path(world.output)
    complete = CompleteConfig(*(str(folder / name) for name in SOURCES), output=world.output, seed=world.seed)
    clusters = max(1, (world.understanding + world.generation) // 5)
    quadruples = str(folder / QUADRUPLES)
    return complete, PairConfig(quadruples, world.output, extractor="colour_hog", clusters=clusters, seed=world.seed)
