"""GenEval: 553 prompts about objects, counts, colours and positions; a detector decides (arXiv 2310.11513).

The score is the unweighted mean of the six tasks' shares of right images. Images are kept in the authors' layout, so
that their own evaluator can be run on them; `detections` then takes its results instead of the approximate detector's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pairuni.config import EvalConfig
from pairuni.errors import InputError
from pairuni.eval import geneval
from pairuni.eval.base import Answer, Item, Score
from pairuni.eval.tasks.items import field_of, place
from pairuni.files import read_jsonl
from pairuni.rewards.detector import Mask2FormerDetector, coloured_classes
from pairuni.types import SamplingSpec, Side

IMAGES = 4
"""Per prompt."""
_FILE = "evaluation_metadata.jsonl"


@dataclass(frozen=True)
class GenEval:
    """Items: evaluation_metadata.jsonl of the authors (or its folder), each prompt several times."""

    config: EvalConfig
    side: Side = Side.GENERATION
    unit: str = "0 to 1"
    factor: float | None = None
    judge: str | None = None

    @property
    def recorded(self) -> bool:
        return bool(self.config.detections)

    @property
    def keeps_images(self) -> bool:
        return not self.recorded

    @property
    def protocol(self) -> str:
        if self.config.detections:
            return "official, results of the authors' evaluator"
        return f"official rules, approximate: {self.config.detector}"

    def spec(self) -> SamplingSpec:
        return SamplingSpec(temperature=1.0, guidance=self.config.guidance)

    def items(self) -> Sequence[Item]:
        where = Path(place(self.config, "geneval"))
        path = where / _FILE if where.is_dir() else where
        items = []
        for n, (line, row) in enumerate(read_jsonl(path)):
            prompt, task = field_of(row, "prompt", str(path), line), field_of(row, "tag", str(path), line)
            for k in range(self.config.images_per_prompt or IMAGES):
                items.append(Item(f"{n:05d}/samples/{k:04d}", str(task), str(prompt), (), row, f"{n:05d}"))
        return items

    def answer(self, item: Item, output: str | np.ndarray) -> Answer:
        record: dict[str, Any] = {"prompt": item.text}
        if self.config.detections:
            result = self._results.get(item.id)
            if result is None:
                raise InputError(f"has no result of {item.id}.png", file=self.config.detections)
            return Answer(item.id, item.part, float(result), True, record, item.group)
        found = self._detector(np.asarray(output), coloured_classes(item.gold))
        right = geneval.score(found, item.gold)
        return Answer(item.id, item.part, float(right), True, {**record, "detections": found}, item.group)

    def total(self, answers: Sequence[Answer]) -> Score:
        rights = [({"tag": answer.part, "prompt": answer.group}, answer.score == 1) for answer in answers]
        means = geneval.aggregate(rights)
        return Score(means["overall"], means["parts"] | {name: means[name] for name in ("images", "prompts")})

    @cached_property
    def _detector(self) -> Mask2FormerDetector:
        return Mask2FormerDetector(self.config.detector, self.config.colours)

    @cached_property
    def _results(self) -> Mapping[str, bool]:
        """{"00000/samples/0000": right} of the evaluator's results.jsonl, whose file names end so."""
        results = {}
        for line, row in read_jsonl(self.config.detections):
            name = str(field_of(row, "filename", self.config.detections, line))
            right = field_of(row, "correct", self.config.detections, line)
            if not isinstance(right, bool):
                raise InputError("must be true or false", file=self.config.detections, line=line, field="correct")
            results["/".join(Path(name).with_suffix("").parts[-3:])] = right
        return results
