"""The base class of benchmarks, and the entries of eval.json.

A benchmark lists its items, scores one output at a time and sums the answers up. runner.py asks the model, keeps the
answers and resumes after a kill; answers that were kept are summed up without the model.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pairuni.config import EvalConfig
from pairuni.data.images import StoredImage
from pairuni.errors import InputError
from pairuni.streams import Stream, generator
from pairuni.types import SamplingSpec, Side

Rule = TypeVar("Rule")
_RESAMPLES = 400  # of the bootstrap; its own error is then about 3.5 % of the standard error


@dataclass(frozen=True)
class Item:
    """One question to answer or one image to draw."""

    id: str
    part: str
    """Question type, task or category."""
    text: str
    """The question to the model, or the caption that it draws, as the protocol builds it."""
    images: tuple[Path | StoredImage | np.ndarray, ...] = ()
    """Images of a question, or to be edited: files, or uint8 [H, W, 3]."""
    gold: Any = None
    """The right answer, for the scorer."""
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
    """Question and answer, as JSON."""
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


class Benchmark(ABC):
    """Items and their rules. A subclass gives `items`, `answer` and `total`, and overrides what else differs."""

    side: Side = Side.UNDERSTANDING
    """Whether it asks questions or has images drawn."""
    unit: str = "per cent"
    """As the benchmark is published: "per cent", "points", "0 to 1", "1 to 5"."""
    factor: float | None = None
    """The score is the mean over answers times this; None where it is something else."""
    temperature: float = 0.0
    answer_tokens: int = 20
    """The longest answer."""
    keeps_images: bool = False
    """Whether drawn images are kept beside the answers."""
    recorded: bool = False
    """True where answers come from a file: nothing is sampled, and `answer` is given ""."""
    judge: str | None = None
    """The model that judges; None where none does."""

    def __init__(self, config: EvalConfig) -> None:
        self.config = config
        self.protocol = config.protocol
        """The name of the rules, as in eval.json."""

    @abstractmethod
    def items(self) -> Sequence[Item]:
        """All items, in order. Raises InputError: its data is missing or broken."""

    @abstractmethod
    def answer(self, item: Item, output: str | np.ndarray) -> Answer:
        """Scores a text, or an image uint8 [H, W, 3]."""

    @abstractmethod
    def total(self, answers: Sequence[Answer]) -> Score:
        """The score of any number of answers, of any items."""

    def spec(self) -> SamplingSpec:
        """How the model is sampled."""
        if self.side is Side.UNDERSTANDING:
            return SamplingSpec(temperature=self.temperature, max_new_tokens=self.answer_tokens)
        return SamplingSpec(temperature=self.temperature, guidance=self.config.guidance)

    def source(self, name: str, default: str = "") -> str:
        """Where the items are. Raises InputError where `data` does not say and there is no default."""
        where = self.config.data.get(name, default)
        if not where:
            raise InputError("says where its items are; there is no default", field=f"{self.config.group}data.{name}")
        return where


def mean_score(answers: Sequence[Answer], factor: float) -> Score:
    """`factor` times the mean over answers, and over those of each part."""
    parts: dict[str, list[float]] = {}
    for answer in answers:
        parts.setdefault(answer.part, []).append(answer.score)
    means = {name: factor * sum(scores) / len(scores) for name, scores in parts.items()}
    return Score(factor * sum(answer.score for answer in answers) / len(answers), means)


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
        "groups": len(_groups(answers)),
        "protocol": benchmark.protocol,
        "judge": benchmark.judge,
        "unparsed": sum(not a.parsed for a in answers),
        "parts": {name: round(value, 4) for name, value in total.parts.items()},
    }


def _groups(answers: Sequence[Answer]) -> dict[str, list[Answer]]:
    """Answers that are not independent together: images of one prompt, questions on one image.

    Answers without a group are grouped by their prompt, as the report does.
    """
    groups: dict[str, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(answer.group or answer.record.get("prompt") or answer.id, []).append(answer)
    return groups


def standard_error(answers: Sequence[Answer], benchmark: Benchmark) -> float:
    """The standard error of the score over the sampling of items; 0 with fewer than two groups.

    The mean of independent answers: the root of the unbiased variance over n. Else a bootstrap over groups, seeded:
    whole groups are drawn.
    """
    groups = _groups(answers)
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


def rule_of(protocol: str, rules: Mapping[str, Rule], benchmark: str) -> Rule:
    """`rules[protocol]`. Raises ValueError that names the protocols of `benchmark` for any other name."""
    if protocol not in rules:
        raise ValueError(f"{benchmark} has no protocol {protocol!r}; known: {', '.join(rules)}")
    return rules[protocol]
