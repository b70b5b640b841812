"""Writes a suite's comparison as Markdown and as JSON."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pairuni.config import Suite
from pairuni.eval.runner import DIGITS
from pairuni.lab.ablations.compare import ArmRow, Results, seeds_of
from pairuni.lab.ablations.figures import Point
from pairuni.lab.ablations.intervals import Estimate
from pairuni.lab.ablations.schedule import BEFORE
from pairuni.lab.ablations.suites import ARMS, SUITES


def table(suite: Suite, rows: Sequence[ArmRow], streams: int) -> str:
    """Markdown: the question, a table with a row per arm, and a note on how to read it.

    Args:
        streams: the version of the random streams that all rows have.
    """
    question = f"**{SUITES[suite].question}** Random streams: version {streams}."
    if all(row.name == BEFORE for row in rows):
        return f"{question} No results yet.\n"
    units = {name: cell.unit for row in rows for name, cell in row.cells.items()}
    together = any(row.together is not None for row in rows)
    head = ["", "seeds", *(["co-batching"] if together else [])]
    head += [part for name, unit in units.items() for part in (f"{name}, {unit}", "difference")]
    lines = [question, "", _line(head), _line(["---"] * len(head))]
    for row in rows:
        cells = [row.label, str(len(row.seeds)), *([_together(row)] if together else [])]
        for name, unit in units.items():
            cell = row.cells.get(name)
            score = "" if cell is None else f"{cell.score.mean:.{digits(unit)}f}"
            text = said(cell.difference, sign=True, digits=digits(unit)) if cell and cell.difference else ""
            cells += [score, f"**{text}**" if text and cell and cell.q is not None and cell.q < 0.05 else text]
        lines.append(_line(cells))
    return "\n".join([*lines, "", _note(suite, rows, streams, list(units))]) + "\n"


def _together(row: ArmRow) -> str:
    if row.together is None:
        alone = row.name == BEFORE or (row.name in ARMS and "sides" in ARMS[row.name].train)
        return "" if alone else "not measured"
    return f"{100 * row.together:.1f} %" + ("" if row.chance is None else f" (chance {100 * row.chance:.1f} %)")


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def digits(unit: str) -> int:
    """Decimals of printed scores, by unit."""
    return DIGITS.get(unit, 1)


def said(estimate: Estimate, sign: bool = False, digits: int = 1) -> str:
    """A mean with its interval, such as "63.5 (61.4 to 65.6)"."""
    form = f"{'+' if sign else ''}.{digits}f"
    if not math.isfinite(estimate.low):
        return f"{estimate.mean:{form}}"
    return f"{estimate.mean:{form}} ({estimate.low:{form}} to {estimate.high:{form}})"


def _note(suite: Suite, rows: Sequence[ArmRow], streams: int, names: Sequence[str]) -> str:
    items = {name: next(row.cells[name].n for row in rows if name in row.cells) for name in names}
    asked = ", ".join(f"{n:,} of {name}" for name, n in items.items())
    comparison = SUITES[suite]
    beside = "random pairs of the same world" if comparison.reference else comparison.arms[0].label
    text = f"Differences from {beside}, 95 % intervals over seeds and items ({asked})."
    if any(row.together is not None for row in rows):
        text += " Co-batching: halves trained beside their true partner, by metrics.jsonl of these runs."
    elif streams == 1:
        text += " Co-batching was not measured."
    tests = [cell for row in rows for cell in row.cells.values() if cell.difference and cell.q is not None]
    if not tests:
        return text
    clear = sum(cell.difference.clear for cell in tests if cell.difference)
    held = sum(cell.q is not None and cell.q < 0.05 for cell in tests)
    chance = f"Of {len(tests)} intervals, {clear} leave out 0 ({len(tests) / 20:.1f} would by chance)"
    return f"{text} {chance}; {held} after adjustment (bold; Benjamini and Hochberg, 5 %)."


def curve_table(panels: Mapping[str, Sequence[Point]], x_label: str) -> str:
    """Markdown: where the worlds of a curve stand on its horizontal axis, a row per world."""
    names = list(panels)
    lines = [_line(["", *names]), _line(["---"] * (len(names) + 1))]
    for n, point in enumerate(panels[names[0]]):
        lines.append(_line([point.label, *(f"{panels[name][n].x:.2f}" for name in names)]))
    return "\n".join(["", f"Worlds by {x_label}:", "", *lines, ""])


def summary(suite: Suite, rows: Mapping[int, Sequence[ArmRow]], results: Mapping[int, Results]) -> dict[str, Any]:
    """The comparison as JSON, by version of the random streams, with the time of the runs."""
    arms = [(version, row.name) for version, own in rows.items() for row in own if row.name != BEFORE]
    runs = [results[version][arm, seed] for version, arm in arms for seed in seeds_of(arm, results[version])]
    seconds = sum(run.seconds.get("training", 0.0) for run in runs)
    about = {"suite": suite, "question": SUITES[suite].question, "runs": len(runs), "training_seconds": round(seconds)}
    plain = {str(version): {"arms": [_plain(asdict(row)) for row in own]} for version, own in rows.items()}
    return about | {"streams": plain}


def _plain(value: Any) -> Any:
    """As JSON, which has no infinity."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return (round(value, 5) if math.isfinite(value) else None) if isinstance(value, float) else value
