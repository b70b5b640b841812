"""What a benchmark is and what a result holds (eval.json).

A benchmark lists items, scores one output at a time and sums up; asking the model, keeping answers and going on after a
kill are the runner's. So an answer that is kept can be summed up without the model.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pairuni.data.images import StoredImage
from pairuni.streams import Stream, generator
from pairuni.types import SamplingSpec, Side

_RESAMPLES = 400  # of the bootstrap; its own error is then about 3.5 % of the standard error


@dataclass(frozen=True)
class Item:
    """One question to answer or one image to draw."""

    id: str
    part: str
    """Question type, task or category."""
    text: str
    """What the model is asked, or the caption that it draws, as the protocol builds it."""
    images: tuple[Path | StoredImage | np.ndarray, ...] = ()
    """Of a question, or to be edited: files, or uint8 [H, W, 3]."""
    gold: Any = None
    """What the scorer compares with."""
    group: str = ""
    """Items that are no independent samples (of one image, of one prompt) share it; default: the id."""


@dataclass(frozen=True)
class Answer:
    """One item, answered and scored; a row of answers_<benchmark>.jsonl."""

    id: str
    part: str
    score: float
    """1 for right, 0 for wrong, or the points of a judge."""
    parsed: bool
    """False where no answer could be read from the output; it counts as wrong."""
    record: dict[str, Any] = field(default_factory=dict)
    """What was asked and answered, JSON."""
    group: str = ""

    def to_json(self) -> dict[str, Any]:
        row = {"id": self.id, "part": self.part, "score": self.score, "parsed": self.parsed}
        return {**row, **({"group": self.group} if self.group else {}), **self.record}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Answer":
        known = {"id", "part", "score", "parsed", "group"}
        record = {key: value for key, value in row.items() if key not in known}
        return cls(row["id"], row["part"], row["score"], row["parsed"], record, row.get("group", ""))


@dataclass(frozen=True)
class Score:
    """All answers summed up, in the benchmark's published unit."""

    value: float
    parts: dict[str, float]


class Benchmark(Protocol):
    """Items and their rules."""

    @property
    def side(self) -> Side:
        """Whether it asks or has drawn."""
        ...

    @property
    def protocol(self) -> str:
        """Which rules, as in eval.json."""
        ...

    @property
    def unit(self) -> str:
        """As the benchmark is published: "per cent", "points", "0 to 1", "1 to 5"."""
        ...

    @property
    def factor(self) -> float | None:
        """The score is the mean over answers times this; None where it is something else."""
        ...

    @property
    def keeps_images(self) -> bool:
        """Whether drawn images are kept beside the answers."""
        ...

    @property
    def recorded(self) -> bool:
        """True where answers come from a file: nothing is sampled, and `answer` is given ""."""
        ...

    @property
    def judge(self) -> str | None:
        """The model that judges; None where none does."""
        ...

    def items(self) -> Sequence[Item]:
        """All items, in order. Raises InputError: its data is missing or broken."""
        ...

    def spec(self) -> SamplingSpec:
        """How the model is sampled."""
        ...

    def answer(self, item: Item, output: str | np.ndarray) -> Answer:
        """Scores a text, or an image uint8 [H, W, 3]."""
        ...

    def total(self, answers: Sequence[Answer]) -> Score:
        """Any number of answers, of any items."""
        ...


def mean_score(answers: Sequence[Answer], factor: float) -> Score:
    """`factor` times the mean over answers, and over those of each part."""
    parts: dict[str, list[float]] = {}
    for answer in answers:
        parts.setdefault(answer.part, []).append(answer.score)
    value = factor * sum(a.score for a in answers) / len(answers)
    return Score(value, {name: factor * sum(scores) / len(scores) for name, scores in parts.items()})


def summarise(answers: Sequence[Answer], benchmark: Benchmark) -> dict[str, Any]:
    """An entry of eval.json: score and parts in the benchmark's unit, standard error, unparsed count.

    Raises:
        ValueError: no answers.
    """
    if not answers:
        raise ValueError("a benchmark without answers has no score")
    total = benchmark.total(answers)
    return {
        "score": round(total.value, 4),
        "unit": benchmark.unit,
        "stderr": round(standard_error(answers, benchmark), 4),
        "n": len(answers),
        "protocol": benchmark.protocol,
        "judge": benchmark.judge,
        "unparsed": sum(not a.parsed for a in answers),
        "parts": {name: round(value, 4) for name, value in total.parts.items()},
    }


def standard_error(answers: Sequence[Answer], benchmark: Benchmark) -> float:
    """Of the score over the sampling of items; 0 with fewer than two groups.

    The mean of independent answers: the root of the unbiased variance over n. Else a bootstrap over groups, seeded:
    whole groups are drawn, since images of one prompt or questions on one image go together. Answers without a group
    are grouped by their prompt, as the report does.
    """
    groups: dict[str, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(answer.group or answer.record.get("prompt") or answer.id, []).append(answer)
    if len(groups) < 2:
        return 0.0
    if benchmark.factor is not None and len(groups) == len(answers):
        scores = np.array([answer.score for answer in answers])
        return benchmark.factor * float(scores.std(ddof=1)) / math.sqrt(len(scores))
    rng, kept = generator(0, Stream.SCORE_ERROR), list(groups.values())
    values = []
    for _ in range(_RESAMPLES):
        drawn = rng.integers(len(kept), size=len(kept))
        values.append(benchmark.total([answer for g in drawn.tolist() for answer in kept[g]]).value)
    return float(np.std(values, ddof=1))
