"""GenEval's decision on one image, from the boxes that a detector found in it: pure, no models.

Rule: Ghosh et al. 2023, section 3, as in djghosh13/geneval `evaluation/evaluate_images.py` (MIT), with its defaults,
which drop no overlapping boxes.
object_detector.py finds the boxes and their colours; eval/tasks/geneval.py takes the mean over images.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

THRESHOLD = 0.3
COUNTING_THRESHOLD = 0.9
"""Boxes need a score above these. Counting asks for surer ones, because an extra box is a mistake there."""
MAX_BOXES = 16
"""Boxes of one class that are looked at, the surest ones."""
SLACK = 0.1
"""Share of the two boxes' summed sizes by which their centres must be apart before it counts."""

Detection = Mapping[str, Any]
"""{"class", "box": [x1, y1, x2, y2] with y downwards, "score", "color"}; the colour only where one is asked for."""
Metadata = Mapping[str, Any]
"""A line of evaluation_metadata.jsonl: tag, include, perhaps exclude."""


@dataclass(frozen=True)
class Judgement:
    """Whether an image shows what its prompt asks for, and each thing that is missing or too much."""

    correct: bool
    reasons: tuple[str, ...]
    """One for each clause that is not met; empty where correct."""


def score(detections: Sequence[Detection], metadata: Metadata) -> bool:
    """Whether an image with these detections is right. Raises as `judge` does."""
    return judge(detections, metadata).correct


def judge(detections: Sequence[Detection], metadata: Metadata) -> Judgement:
    """Checks the clauses of `metadata`: every one of `include` must be met and none of `exclude`.

    Only the surest `count` boxes of a class are looked at for colour and position; all of them (up to MAX_BOXES) for
    `exclude`. A position needs every pair of object and target to stand so, and a target that itself met its clause.

    Args:
        detections: all boxes of the image, in any order.

    Raises:
        ValueError: a colour is asked for and a box has none.
    """
    threshold = COUNTING_THRESHOLD if metadata["tag"] == "counting" else THRESHOLD
    boxes: dict[str, list[Detection]] = {}
    # The surest first. Of equal scores the later box comes first: upstream turns an ascending order around.
    for detection in sorted(detections, key=lambda d: d["score"])[::-1]:
        of_class = boxes.setdefault(detection["class"], [])
        if detection["score"] > threshold and len(of_class) < MAX_BOXES:
            of_class.append(detection)
    reasons: list[str] = []
    groups: list[list[Detection] | None] = []
    for clause in metadata.get("include", []):
        found = boxes.get(clause["class"], [])[: clause["count"]]
        reason = _unmet(clause, found, groups)
        groups.append(found if reason is None else None)
        if reason is not None:
            reasons.append(reason)
    for clause in metadata.get("exclude", []):
        number = len(boxes.get(clause["class"], []))
        if number >= clause["count"]:
            reasons.append(f"{clause['class']}: {number} there, {clause['count']} are too many")
    return Judgement(not reasons, tuple(reasons))


def relations(box: Sequence[float], target: Sequence[float]) -> frozenset[str]:
    """Where `box` is, seen from `target`: of left of, right of, above, below; two at once on a diagonal, or none.

    The offset of the centres is shortened on each axis by SLACK times both sizes, then divided by the length of the
    whole offset; what is left of it must be more than half.
    """
    shortened, offsets = [], []
    for low, high in ((0, 2), (1, 3)):
        offset = (box[low] + box[high]) / 2 - (target[low] + target[high]) / 2
        sizes = abs(box[high] - box[low]) + abs(target[high] - target[low])
        offsets.append(offset)
        shortened.append(math.copysign(max(abs(offset) - SLACK * sizes, 0.0), offset))
    if all(abs(part) < 1e-3 for part in shortened):
        return frozenset()
    length = math.sqrt(offsets[0] ** 2 + offsets[1] ** 2)
    right, down = (part / length for part in shortened)
    named = {"left of": -right, "right of": right, "above": -down, "below": down}
    return frozenset(name for name, part in named.items() if part > 0.5)


def _unmet(clause: Mapping[str, Any], found: list[Detection], groups: Sequence[list[Detection] | None]) -> str | None:
    """Why an `include` clause is not met by its surest boxes, None where it is."""
    name, count = clause["class"], clause["count"]
    if len(found) < count:
        return f"{name}: {len(found)} of {count} there"
    if "color" in clause:
        if any("color" not in box for box in found):
            raise ValueError(f"the prompt asks for the colour of {name!r}, but a box of it has no 'color'")
        colours = [box["color"] for box in found]
        if colours.count(clause["color"]) < count:
            return f"{name}: {count} should be {clause['color']}, they are {', '.join(map(str, colours))}"
    if "position" not in clause:
        return None
    wanted, target = clause["position"]
    others = groups[target]
    if others is None:
        return f"{name}: its target, which it should be {wanted}, is not there"
    for box in found:
        for other in others:
            seen = relations(box["box"], other["box"])
            if wanted not in seen:
                return f"{name}: should be {wanted} its target, is {' and '.join(sorted(seen)) or 'in no clear place'}"
    return None
