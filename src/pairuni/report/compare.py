"""Two evaluations against each other: per benchmark and part, the difference and its 95 % interval.

Where both evaluations kept their answers, items are matched by id and the interval is the normal one of the mean of
per-item differences (paired: what both get right or wrong drops out). Otherwise it comes from the two standard errors,
as if the items were independent, and says so. Arithmetic only: no files beyond the answers, no HTML.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist, fmean, stdev

from pairuni.report.data import AnswerRow, Entry, Evaluation

Z95 = NormalDist().inv_cdf(0.975)
"""Half-width of a 95 % normal interval in standard errors."""
_FACTOR = {"per cent": 100.0}  # of an item's 0-1 score in the benchmark's unit; 1 for other units


@dataclass(frozen=True)
class Difference:
    """after - before in the benchmark's unit; low and high are the 95 % interval, None where none can be given."""

    mean: float
    low: float | None
    high: float | None
    paired: bool

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class PartRow:
    """One part of a benchmark. A score is None where an evaluation lacks the part, n where answers are not kept."""

    name: str
    before: float | None
    after: float | None
    difference: Difference | None
    n: int | None


@dataclass(frozen=True)
class Row:
    """One benchmark that both evaluations have."""

    name: str
    before: Entry
    after: Entry
    difference: Difference | None
    """None where the units differ."""
    parts: list[PartRow]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Comparison:
    """All common benchmarks; `notes` says what is left out."""

    before: Evaluation
    after: Evaluation
    rows: list[Row]
    notes: list[str]


def compare(before: Evaluation, after: Evaluation) -> Comparison:
    """Compares what both evaluations have.

    Raises:
        InputError: an answers file is broken.
    """
    names = [name for name in before.entries if name in after.entries]
    rows = [_row(name, before, after) for name in names]
    notes = []
    for own, other in ((before, after), (after, before)):
        missing = [name for name in own.entries if name not in other.entries]
        if missing:
            notes.append(f"Left out, because only {own.path} has it: {', '.join(missing)}.")
    if not names:
        notes.append("The two evaluations have no benchmark in common.")
    return Comparison(before, after, rows, notes)


def paired_difference(before: Mapping[str, float], after: Mapping[str, float], factor: float) -> Difference | None:
    """Mean over common items of factor * (after - before) with its normal 95 % interval; None without common items.

    One common item gives a mean without an interval (its variance is not known).
    """
    differences = [factor * (after[id] - before[id]) for id in before if id in after]
    if not differences:
        return None
    mean = fmean(differences)
    if len(differences) < 2:
        return Difference(mean, None, None, True)
    half = Z95 * stdev(differences) / math.sqrt(len(differences))
    return Difference(mean, mean - half, mean + half, True)


def unpaired_difference(before: Entry, after: Entry) -> Difference:
    """The difference of two scores, its interval from their standard errors as of independent samples."""
    mean = after.score - before.score
    if before.stderr is None or after.stderr is None:
        return Difference(mean, None, None, False)
    half = Z95 * math.hypot(before.stderr, after.stderr)
    return Difference(mean, mean - half, mean + half, False)


def _row(name: str, before: Evaluation, after: Evaluation) -> Row:
    old, new = before.entries[name], after.entries[name]
    notes = []
    if old.protocol != new.protocol or old.judge != new.judge:
        rules = [" / ".join(text for text in (e.protocol, e.judge) if text) or "not stated" for e in (old, new)]
        notes.append(f"The protocols differ: {rules[0]} before, {rules[1]} after.")
    if old.unit != new.unit:
        notes.append(f"No difference: the units are {old.unit} before and {new.unit} after.")
        return Row(name, old, new, None, _parts(old, new, {}, {}, comparable=False), notes)
    answers = [(evaluation, evaluation.answers(name)) for evaluation in (before, after)]
    problem = _why_unpaired(name, answers)
    if problem:
        notes.append(f"The interval is that of independent samples: {problem}.")
        return Row(name, old, new, unpaired_difference(old, new), _parts(old, new, {}, {}), notes)
    rows_before, rows_after = (rows or {} for _, rows in answers)
    both = len(rows_before.keys() & rows_after.keys())
    lone = len(rows_before) - both, len(rows_after) - both
    if any(lone):
        notes.append(
            f"The difference is over the {both} items that both answered; {lone[0]} were answered only before, "
            f"{lone[1]} only after."
        )
    scores = [{id: row.score for id, row in rows.items()} for rows in (rows_before, rows_after)]
    difference = paired_difference(scores[0], scores[1], _FACTOR.get(old.unit, 1.0))
    return Row(name, old, new, difference, _parts(old, new, rows_before, rows_after), notes)


def _why_unpaired(name: str, answers: Sequence[tuple[Evaluation, Mapping[str, AnswerRow] | None]]) -> str:
    """Why items cannot be paired, empty where they can."""
    kept = []
    for evaluation, rows in answers:
        entry = evaluation.entries[name]
        if not rows:
            return f"{evaluation.answers_path(name)} is missing or empty"
        factor = _FACTOR.get(entry.unit, 1.0)
        # Some scores are no mean over items (GenEval's mean of tasks, MME's sums); half a digit of rounding is allowed.
        if abs(factor * fmean(row.score for row in rows.values()) - entry.score) > 5e-4 * factor:
            return f"the score in {evaluation.path} is not the mean of the scores in {evaluation.answers_path(name)}"
        kept.append(rows)
    return "" if kept[0].keys() & kept[1].keys() else "the two answer files have no item in common"


def _parts(
    old: Entry,
    new: Entry,
    rows_before: Mapping[str, AnswerRow],
    rows_after: Mapping[str, AnswerRow],
    comparable: bool = True,
) -> list[PartRow]:
    parts = []
    for name in dict.fromkeys([*old.parts, *new.parts]):
        before, after = old.parts.get(name), new.parts.get(name)
        first = {id: row.score for id, row in rows_before.items() if row.part == name}
        second = {id: row.score for id, row in rows_after.items() if row.part == name}
        difference = paired_difference(first, second, _FACTOR.get(old.unit, 1.0))
        n = len(first.keys() & second.keys()) if difference else None
        if difference is None and comparable and before is not None and after is not None:
            difference = Difference(after - before, None, None, False)
        parts.append(PartRow(name, before, after, difference, n))
    return parts
