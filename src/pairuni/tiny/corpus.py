"""Texts of the Shapes world's training split, on which the tokenizers of small models are trained."""

import numpy as np

from pairuni.shapes.captions import caption, prompt_split, read
from pairuni.shapes.questions import ask_any
from pairuni.shapes.scenes import Scene, random_scene
from pairuni.streams import Stream, generator

DESCRIBE = ("Describe the picture.", "What is in the picture?", "Write a caption.")


def training_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption whose text is in the training split; two thirds of them name the colours."""
    while True:
        text = caption(scene, rng, detailed=bool(rng.random() < 0.67))
        requirement = read(text)
        if requirement is not None and prompt_split(text, requirement) == "train":
            return text


def corpus(seed: int, size: int = 3000) -> list[str]:
    """Texts to train a tokenizer on."""
    rng = generator(seed, Stream.PRETRAIN_CORPUS)
    texts: list[str] = list(DESCRIBE)
    for _ in range(size):
        scene = random_scene(rng, "train")
        question = ask_any(scene, rng)
        texts += [" " + training_caption(scene, rng), question.text, " " + question.answer_text]
    return texts
