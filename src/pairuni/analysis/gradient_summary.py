"""What gradients.jsonl says: per mix medians with intervals, beside how much gradients of one side agree; a figure."""

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from pairuni.files import atomic_path, write_json, write_text
from pairuni.streams import Stream, generator
from pairuni.types import Side

RESAMPLES = 2000
"""Of the pairs, for an interval."""
KINDS = ("cosine", *(str(side) for side in Side))
_COLOURS = dict(zip(KINDS, ("#2f6db3", "#b0b6be", "#d9a27d"), strict=True))
_NAMES = {
    "cosine": "understanding and generation",
    "understanding": "understanding twice",
    "generation": "images twice",
}

Interval = tuple[float, float, float]
"""A value, and the ends of its 95 % interval (NaN where there are too few pairs)."""


def summarise(rows: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """Per mix: how many pairs were measured and left out, and of each kind of cosine the median over pairs.

    `corrected` is the mean cosine across the sides over the geometric mean of the two within a side: about what it
    would be without the noise of few rollouts. Intervals (95 %) are percentile bootstraps over pairs.
    """
    mixes: dict[str, Any] = {}
    for mix in dict.fromkeys(row["mix"] for row in rows):
        own = [row for row in rows if row["mix"] == mix]
        measured = [row for row in own if "cosine" in row]
        entry: dict[str, Any] = {"measured": len(measured), "left_out": len(own) - len(measured)}
        if measured:
            groups = list(measured[0]["cosine"])
            values = {kind: {g: np.array([row[kind][g] for row in measured]) for g in groups} for kind in KINDS}
            entry |= {kind: {g: _plain(median(values[kind][g], seed)) for g in groups} for kind in KINDS}
            entry["corrected"] = _plain(corrected(*(values[kind]["all"] for kind in KINDS), seed=seed))
        mixes[mix] = entry
    return {"mixes": mixes}


def median(values_n: np.ndarray, seed: int) -> Interval:
    return float(np.median(values_n)), *_interval((values_n,), np.median, seed)


def corrected(across_n: np.ndarray, one_n: np.ndarray, other_n: np.ndarray, seed: int) -> Interval:
    """Mean of `across_n` over sqrt(mean of `one_n` * mean of `other_n`); NaN where one of these is not positive."""

    def ratio(a: np.ndarray, b: np.ndarray, c: np.ndarray, axis: int = -1) -> np.ndarray:
        ceilings = np.mean(b, axis) * np.mean(c, axis)
        sound = (np.mean(b, axis) > 0) & (np.mean(c, axis) > 0)
        return np.where(sound, np.mean(a, axis) / np.sqrt(np.where(sound, ceilings, 1.0)), np.nan)

    values = (across_n, one_n, other_n)
    return float(ratio(*values)), *_interval(values, ratio, seed)


def _interval(values: tuple[np.ndarray, ...], statistic: Any, seed: int) -> tuple[float, float]:
    if all(np.ptp(each) == 0 for each in values):  # of one pair, or of equal ones
        return math.nan, math.nan
    rng = generator(seed, Stream.GRADIENT_INTERVAL)
    options: dict[str, Any] = {"paired": len(values) > 1, "method": "percentile", "n_resamples": RESAMPLES, "rng": rng}
    with warnings.catch_warnings():
        # Where some resamples have no value there is no interval, which the table shows.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(values, statistic, **options).confidence_interval
    return float(found.low), float(found.high)


def _plain(interval: Interval) -> dict[str, float | None]:
    """For JSON, which has no NaN."""
    rounded = (None if math.isnan(value) else round(value, 5) for value in interval)
    return dict(zip(("value", "low", "high"), rounded, strict=True))


def table(summary: Mapping[str, Any]) -> str:
    """Markdown: one row per mix."""
    lines = ["| mix | pairs | left out | across the sides | understanding twice | images twice | corrected |"]
    lines.append("|---|---|---|---|---|---|---|")
    for mix, entry in summary["mixes"].items():
        cells = [_cell(entry[kind]["all"]) if kind in entry else "" for kind in KINDS]
        cells.append(_cell(entry["corrected"]) if "corrected" in entry else "")
        lines.append(f"| {mix} | {entry['measured']} | {entry['left_out']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(interval: Mapping[str, float | None]) -> str:
    value, low, high = interval["value"], interval["low"], interval["high"]
    if value is None:
        return "-"
    return f"{value:+.3f}" if low is None or high is None else f"{value:+.3f} ({low:+.3f} to {high:+.3f})"


def write_summary(summary: Mapping[str, Any], output: Path) -> None:
    """gradients.json, the table as gradients.md and the figure gradients.png."""
    write_json(output / "gradients.json", summary)
    write_text(output / "gradients.md", table(summary) + "\n")
    with atomic_path(output / "gradients.png") as temporary:
        draw(summary).savefig(temporary, format="png", dpi=150)


def draw(summary: Mapping[str, Any]) -> Figure:
    """Medians with intervals: left over all that is shared, a row per mix; right across the sides, layer by layer."""
    mixes = {name: entry for name, entry in summary["mixes"].items() if entry["measured"]}
    figure = Figure(figsize=(10, 1.6 + 0.45 * max(4, len(mixes))), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for n, kind in enumerate(KINDS):
        for row, entry in enumerate(mixes.values()):
            _point(left, entry[kind]["all"], row + 0.2 * (n - 1), (_COLOURS[kind], _NAMES[kind] if row == 0 else None))
    left.set_yticks(range(len(mixes)), list(mixes))
    left.invert_yaxis()
    left.axvline(0, color="#c9cdd2", linewidth=0.8, zorder=0)
    left.set_xlabel("cosine of two gradients of a pair: median, 95 % interval")
    if mixes:
        figure.legend(loc="outside upper center", ncols=len(KINDS), frameon=False)
    for name, entry in mixes.items():
        groups = [group for group in entry["cosine"] if group != "all"]
        right.plot([entry["cosine"][g]["value"] for g in groups], range(len(groups)), marker="o", ms=3, label=name)
        right.set_yticks(range(len(groups)), groups)
    right.axvline(0, color="#c9cdd2", linewidth=0.8, zorder=0)
    right.set_xlabel("across the sides, by layer")
    if mixes:
        right.legend(frameon=False, fontsize=7)
    return figure


def _point(axes: Any, interval: Mapping[str, float | None], y: float, look: tuple[str, str | None]) -> None:
    value, low, high = interval["value"], interval["low"], interval["high"]
    ends = None if value is None or low is None or high is None else [[max(0.0, value - low)], [max(0.0, high - value)]]
    axes.errorbar([value], [y], xerr=ends, fmt="o", ms=4, color=look[0], label=look[1])
