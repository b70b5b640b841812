"""GenEval: the decision on an image (rewards/geneval_rule.py, which training may use too) and the published means.

Means as in djghosh13/geneval `evaluation/summary_scores.py` (MIT). Drawing images and detecting objects is elsewhere.
"""

import json
from collections.abc import Iterable
from typing import Any

from pairuni.rewards.geneval_rule import Detection, Judgement, Metadata, judge, relations, score

__all__ = ["Detection", "Judgement", "Metadata", "aggregate", "judge", "relations", "score"]


def aggregate(results: Iterable[tuple[Metadata, bool]]) -> dict[str, Any]:
    """Scores in [0, 1] of a set of images.

    Args:
        results: (metadata of the prompt, whether the image is right), usually four images for each prompt.

    Returns:
        overall: the mean of the tasks' means, each task with the same weight however many prompts it has.
        parts: task -> mean over its images.
        images: share of right images. prompts: share of prompts with at least one right image.
        n: number of images.

    Raises:
        ValueError: no images.
    """
    tasks: dict[str, list[bool]] = {}
    prompts: dict[str, bool] = {}
    for metadata, correct in results:
        tasks.setdefault(metadata["tag"], []).append(correct)
        key = json.dumps(metadata, sort_keys=True)  # equal metadata is one prompt, as upstream groups it
        prompts[key] = prompts.get(key, False) or correct
    if not tasks:
        raise ValueError("GenEval of no images has no score")
    parts = {task: sum(right) / len(right) for task, right in tasks.items()}
    n = sum(map(len, tasks.values()))
    return {
        "overall": sum(parts.values()) / len(parts),
        "parts": parts,
        "images": sum(map(sum, tasks.values())) / n,
        "prompts": sum(prompts.values()) / len(prompts),
        "n": n,
    }
