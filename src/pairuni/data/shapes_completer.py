"""The offline completer of the Shapes world: reads images with the detector, captions them, asks about them."""

import numpy as np

from pairuni.data.completion import Attempt
from pairuni.data.images import LoadedImage
from pairuni.data.verify import told
from pairuni.shapes.captions import Requirement, describe, placed, prompt_split, relation_held_out, write
from pairuni.shapes.detector import read_scene
from pairuni.shapes.questions import ask
from pairuni.streams import Stream, generator
from pairuni.types import Sample

WORDINGS = 20
"""Tries at a caption whose wording is not held out; one in six is."""


class ShapesCompleter:
    """Captions Shapes images whole, and asks what a caption can answer.

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
