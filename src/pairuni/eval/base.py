"""What a benchmark is and what a result holds (eval.json, design: records and files)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pairuni.config import EvalConfig
from pairuni.policies.base import Sampler


@dataclass(frozen=True)
class Answer:
    """One item, answered and scored; a row of answers_<benchmark>.jsonl."""

    id: str
    part: str
    score: float
    """1 for right, 0 for wrong."""
    parsed: bool
    """False where no answer could be read from the output; it counts as wrong."""
    record: dict[str, Any] = field(default_factory=dict)
    """What was asked and answered, JSON."""

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "part": self.part, "score": self.score, "parsed": self.parsed, **self.record}


class Benchmark(Protocol):
    """Asks a model and scores its answers."""

    @property
    def protocol(self) -> str:
        """Which rules, as in eval.json."""
        ...

    def run(self, sampler: Sampler, config: EvalConfig) -> Sequence[Answer]:
        """All items, in order."""
        ...


def summarise(answers: Sequence[Answer], protocol: str) -> dict[str, Any]:
    """An entry of eval.json: mean score in per cent with its standard error, per-part means, unparsed count.

    Raises:
        ValueError: no answers.
    """
    if not answers:
        raise ValueError("a benchmark without answers has no score")
    parts: dict[str, list[float]] = {}
    for answer in answers:
        parts.setdefault(answer.part, []).append(answer.score)
    scores = [a.score for a in answers]
    mean = sum(scores) / len(scores)
    # Items are the sampling unit; the variance of a mean of n scores, unbiased.
    variance = sum((s - mean) ** 2 for s in scores) / max(1, len(scores) - 1) / len(scores)
    return {
        "score": round(100 * mean, 3),
        "unit": "per cent",
        "stderr": round(100 * math.sqrt(variance), 3),
        "n": len(scores),
        "protocol": protocol,
        "judge": None,
        "unparsed": sum(not a.parsed for a in answers),
        "parts": {name: round(100 * sum(s) / len(s), 3) for name, s in parts.items()},
    }
