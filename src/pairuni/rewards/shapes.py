"""The generation reward of the Shapes world: how much of the caption the detector finds in the image.

Partial credit, so that a model which rarely gets a whole scene right still sees which attempt is nearer. The exact
score (all of it or nothing) is the benchmark's, in eval/.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pairuni.errors import InputError
from pairuni.rewards.base import RewardInput
from pairuni.shapes.captions import Requirement, credit, read
from pairuni.shapes.detector import detect
from pairuni.types import Side


def shapes_score(requirement: Requirement, image: np.ndarray) -> float:
    """Credit in [0, 1] of a uint8 image [H, W, 3]; 1 exactly where everything required is there and nothing else.

    A region that cannot be read counts as a thing of the wrong shape and colour.
    """
    found = detect(image)
    places = sum(group.number for group in requirement.groups)
    counted = max(places, len(found.things))
    return credit(requirement, found.things) * counted / max(places, len(found.things) + found.unread)


@dataclass(frozen=True)
class ShapesReward:
    """Scores images by their half's prompt. Raises InputError for a prompt that names no shapes."""

    name: str = "shapes"
    sides: frozenset[Side] = frozenset({Side.GENERATION})
    remote: bool = False

    def __call__(self, items: Sequence[RewardInput]) -> Sequence[float]:
        return [_score(item, self.name) for item in items]


@dataclass(frozen=True)
class ShapesExactReward:
    """1 where the image is exactly what is asked for, else 0: the benchmark's score, without partial credit."""

    name: str = "shapes_exact"
    sides: frozenset[Side] = frozenset({Side.GENERATION})
    remote: bool = False

    def __call__(self, items: Sequence[RewardInput]) -> Sequence[float]:
        return [float(_score(item, self.name) == 1.0) for item in items]


def _score(item: RewardInput, reward: str) -> float:
    requirement = read(item.quadruple.prompt)
    if requirement is None:
        message = f"the prompt of {item.quadruple.id!r} names no shapes: {item.quadruple.prompt!r:.120}"
        raise InputError(message, field=f"reward {reward}")
    assert item.image is not None  # RewardInput grants it on the generation side
    return shapes_score(requirement, item.image)
