"""GenEval: 553 prompts about objects, counts, colours and positions; a detector decides (arXiv 2310.11513).

The score is the unweighted mean of the six tasks' shares of right images. Images are kept in the authors' layout, so
that their own evaluator can be run on them; `detections` then takes its results instead of the approximate detector's.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pairuni.config import EvalConfig
from pairuni.errors import InputError
from pairuni.eval.base import Answer, Benchmark, Item, Score
from pairuni.eval.tasks.items import read_rows
from pairuni.rewards.geneval_rule import Metadata, score
from pairuni.rewards.object_detector import Mask2FormerDetector, coloured_classes
from pairuni.types import Side

IMAGES = 4
"""Per prompt."""
_FILE = "evaluation_metadata.jsonl"


class GenEval(Benchmark):
    """Items: evaluation_metadata.jsonl of the authors (or its folder), each prompt several times."""

    side, unit, temperature = Side.GENERATION, "0 to 1", 1.0

    def __init__(self, config: EvalConfig) -> None:
        super().__init__(config)
        self.recorded = bool(config.detections)
        self.keeps_images = not self.recorded
        self.protocol = f"official rules, approximate: {config.detector}"
        if self.recorded:
            self.protocol = "official, results of the authors' evaluator"

    def items(self) -> Sequence[Item]:
        where = Path(self.source("geneval"))
        path = where / _FILE if where.is_dir() else where
        items = []
        for n, row in enumerate(read_rows(path)):
            prompt, task = str(row["prompt"]), str(row["tag"])
            for k in range(self.config.images_per_prompt or IMAGES):
                items.append(Item(f"{n:05d}/samples/{k:04d}", task, prompt, (), row.values, f"{n:05d}"))
        return items

    def answer(self, item: Item, output: str | np.ndarray) -> Answer:
        record: dict[str, Any] = {"prompt": item.text}
        if self.recorded:
            result = self._results.get(item.id)
            if result is None:
                raise InputError(f"has no result of {item.id}.png", file=self.config.detections)
            return Answer(item.id, item.part, float(result), True, record, item.group)
        found = self._detector(np.asarray(output), coloured_classes(item.gold))
        right = score(found, item.gold)
        return Answer(item.id, item.part, float(right), True, {**record, "detections": found}, item.group)

    def total(self, answers: Sequence[Answer]) -> Score:
        rights = [({"tag": answer.part, "prompt": answer.group}, answer.score == 1) for answer in answers]
        means = aggregate(rights)
        return Score(means["overall"], means["parts"] | {name: means[name] for name in ("images", "prompts")})

    @cached_property
    def _detector(self) -> Mask2FormerDetector:
        return Mask2FormerDetector(self.config.detector, self.config.colours)

    @cached_property
    def _results(self) -> Mapping[str, bool]:
        """{"00000/samples/0000": right} of the evaluator's results.jsonl, whose file names end so."""
        results = {}
        for row in read_rows(self.config.detections):
            name, right = str(row["filename"]), row["correct"]
            if not isinstance(right, bool):
                raise InputError("must be true or false", file=row.file, line=row.line, field="correct")
            results["/".join(Path(name).with_suffix("").parts[-3:])] = right
        return results


def aggregate(results: Iterable[tuple[Metadata, bool]]) -> dict[str, Any]:
    """Scores in [0, 1] of a set of images, as djghosh13/geneval `evaluation/summary_scores.py` (MIT) has them.

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
