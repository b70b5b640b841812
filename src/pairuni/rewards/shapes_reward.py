"""The generation rewards of the Shapes world: how much of the caption the detector finds in the image.

`shapes` gives partial credit, so that a model which rarely draws a whole scene right still learns which attempt is
nearer. `shapes_exact` gives 1 where all of it is right and else 0, as the benchmark does (eval/shapes_benchmarks.py).
"""

import numpy as np

from pairuni.errors import InputError
from pairuni.rewards.base import ItemReward, RewardInput
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


def _score(item: RewardInput) -> float:
    requirement = read(item.quadruple.prompt)
    if requirement is None:
        message = f"the prompt of {item.quadruple.id!r} names no shapes: {item.quadruple.prompt!r:.120}"
        raise InputError(message, field="reward shapes")
    return shapes_score(requirement, item.pixels)


SHAPES = ItemReward("shapes", _score, frozenset({Side.GENERATION}))
SHAPES_EXACT = ItemReward("shapes_exact", lambda item: float(_score(item) == 1.0), frozenset({Side.GENERATION}))
