"""Compares two evaluations: per benchmark and part, the difference and its 95 % interval.

If both evaluations kept their answers, items are paired by id and the interval is Student's t over clusters, because
items of one prompt or image are not independent. If not, the interval comes from the two standard errors, as if the
items were independent, and a note says so. This file reads the answers and writes nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np

from pairuni.pages.run_files import AnswerRow, Entry, Evaluation

LEAST_CLUSTERS = 10
"""With fewer clusters no interval is given."""
TOO_FEW, NO_VARIANCE = "too few items", "no item differs from the others"
_FACTOR = {"per cent": 100.0}  # of an item's 0-1 score in the benchmark's unit; 1 for other units


@dataclass(frozen=True)
class Difference:
    """after - before in the benchmark's unit, with its 95 % interval; low and high are None if there is none."""

    mean: float
    low: float | None
    high: float | None
    paired: bool
    before: float
    """The two scores; in a paired difference, over the common items."""
    after: float
    why: str = ""
    """Why there is no interval."""

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class PartRow:
    """A part of a benchmark. A score is None if the evaluation lacks the part, n is None without kept answers."""

    name: str
    before: float | None
    after: float | None
    difference: Difference | None
    n: int | None


@dataclass(frozen=True)
class BenchmarkRow:
    """A benchmark that both evaluations have."""

    name: str
    before: Entry
    after: Entry
    difference: Difference | None
    """None if the units differ."""
    parts: list[PartRow]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Comparison:
    """All common benchmarks; `notes` name those that are left out."""

    before: Evaluation
    after: Evaluation
    rows: list[BenchmarkRow]
    notes: list[str]
    names: tuple[str, str] = ("before", "after")
    """The names of the two evaluations on the page."""


def compare(before: Evaluation, after: Evaluation, names: tuple[str, str] = ("before", "after")) -> Comparison:
    """Compares the benchmarks that both evaluations have; `names` are those of the evaluations on the page.

    Raises:
        InputError: an answers file is broken.
    """
    common = [name for name in before.entries if name in after.entries]
    rows = [_row(name, before, after, names) for name in common]
    notes = []
    for own, other in ((before, after), (after, before)):
        missing = [name for name in own.entries if name not in other.entries]
        if missing:
            notes.append(f"Left out, because only {own.path} has it: {', '.join(missing)}.")
    if not common:
        notes.append("The two evaluations have no benchmark in common.")
    return Comparison(before, after, rows, notes, names)


def paired_difference(
    before: Mapping[str, float],
    after: Mapping[str, float],
    factor: float,
    groups: Mapping[str, str] | None = None,
) -> Difference | None:
    """The mean of factor * (after - before) over common items; None without common items.

    Its 95 % interval is Student's t over clusters with the cluster-robust variance (Liang and Zeger 1986): for G
    clusters of N items, G / (G - 1) * sum over clusters of (sum of the residuals)^2 / N^2. There is no interval with
    fewer than `LEAST_CLUSTERS` clusters, or if all clusters are equal.

    Args:
        before, after: score by item id.
        groups: cluster by item id (default: each item is its own).
    """
    ids = [id for id in before if id in after]
    if not ids:
        return None
    scores = factor * fmean(before[id] for id in ids), factor * fmean(after[id] for id in ids)
    mean = scores[1] - scores[0]
    sums: dict[str, float] = {}
    for id in ids:
        group = id if groups is None else groups[id]
        sums[group] = sums.get(group, 0.0) + factor * (after[id] - before[id]) - mean
    count = len(sums)
    if count < LEAST_CLUSTERS:
        return Difference(mean, None, None, True, *scores, why=TOO_FEW)
    error = math.sqrt(count / (count - 1) * float(np.square(list(sums.values())).sum())) / len(ids)
    if error < 1e-12 * factor:
        return Difference(mean, None, None, True, *scores, why=NO_VARIANCE)
    half = _student(count - 1) * error
    return Difference(mean, mean - half, mean + half, True, *scores)


def unpaired_difference(before: Entry, after: Entry) -> Difference:
    """The difference of two scores; its interval treats their standard errors as those of independent samples.

    Student's t with the groups of the evaluation that has fewer: items of one prompt or image count once.
    """
    mean, scores = after.score - before.score, (before.score, after.score)
    if before.stderr is None or after.stderr is None:
        return Difference(mean, None, None, False, *scores, why="no standard error")
    count = min(entry.n if entry.groups is None else entry.groups for entry in (before, after))
    if count < LEAST_CLUSTERS:
        return Difference(mean, None, None, False, *scores, why=TOO_FEW)
    if not before.stderr or not after.stderr:
        return Difference(mean, None, None, False, *scores, why=NO_VARIANCE)
    half = _student(count - 1) * math.hypot(before.stderr, after.stderr)
    return Difference(mean, mean - half, mean + half, False, *scores)


def _student(freedom: int) -> float:
    """Half-width of a 95 % interval in standard errors."""
    from scipy.stats import t  # imported here, because the import takes longer than a report

    return float(t.ppf(0.975, freedom))


def _row(name: str, before: Evaluation, after: Evaluation, names: tuple[str, str]) -> BenchmarkRow:
    old, new = before.entries[name], after.entries[name]
    notes = []
    if old.protocol != new.protocol or old.judge != new.judge:
        rules = [" / ".join(text for text in (e.protocol, e.judge) if text) or "not stated" for e in (old, new)]
        notes.append(f"The protocols differ: {names[0]} has {rules[0]}, {names[1]} has {rules[1]}.")
    unlike = ""
    if old.unit != new.unit:
        unlike = f"{names[0]} is in {old.unit}, {names[1]} in {new.unit}"
    elif old.split != new.split and old.split and new.split:  # a score without a split fits any
        unlike = f"{names[0]} is of {old.split} items, {names[1]} of {new.split} items"
    if unlike:
        notes.append(f"No difference: {unlike}.")
        return BenchmarkRow(name, old, new, None, _parts(old, new, {}, {}, comparable=False), notes)
    answers = [(evaluation, evaluation.answers(name)) for evaluation in (before, after)]
    problem = _why_unpaired(name, answers)
    if problem:
        notes.append(f"The interval is that of independent samples: {problem}.")
        return BenchmarkRow(name, old, new, unpaired_difference(old, new), _parts(old, new, {}, {}), notes)
    rows_before, rows_after = (rows or {} for _, rows in answers)
    both = len(rows_before.keys() & rows_after.keys())
    lone = len(rows_before) - both, len(rows_after) - both
    if any(lone):
        notes.append(
            f"The difference and the scores beside it are over the {both} items that both answered; {lone[0]} were "
            f"answered only by {names[0]}, {lone[1]} only by {names[1]}."
        )
    scores = [{id: row.score for id, row in rows.items()} for rows in (rows_before, rows_after)]
    difference = paired_difference(scores[0], scores[1], _FACTOR.get(old.unit, 1.0), _groups(rows_before, rows_after))
    return BenchmarkRow(name, old, new, difference, _parts(old, new, rows_before, rows_after), notes)


def _why_unpaired(name: str, answers: Sequence[tuple[Evaluation, Mapping[str, AnswerRow] | None]]) -> str:
    """The reason why items cannot be paired, or ""."""
    kept = []
    for evaluation, rows in answers:
        entry = evaluation.entries[name]
        if not rows:
            return f"{evaluation.answers_path(name)} is missing or empty"
        factor = _FACTOR.get(entry.unit, 1.0)
        # Some scores are not means over items (GenEval's mean of tasks, MME's sums). Rounding is allowed for.
        if abs(factor * fmean(row.score for row in rows.values()) - entry.score) > 5e-4 * factor:
            return f"the score in {evaluation.path} is not the mean of the scores in {evaluation.answers_path(name)}"
        kept.append(rows)
    return "" if kept[0].keys() & kept[1].keys() else "the two answer files have no item in common"


def _groups(*evaluations: Mapping[str, AnswerRow]) -> dict[str, str]:
    """The cluster of each item, from either evaluation."""
    return {id: row.cluster for rows in evaluations for id, row in rows.items()}


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
        groups = _groups(rows_before, rows_after)
        difference = paired_difference(first, second, _FACTOR.get(old.unit, 1.0), groups)
        n = len(first.keys() & second.keys()) if difference else None
        if difference is None and comparable and before is not None and after is not None:
            difference = Difference(after - before, None, None, False, before, after, why="answers are not kept")
        parts.append(PartRow(name, before, after, difference, n))
    return parts
