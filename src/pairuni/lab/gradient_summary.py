"""Summarises gradients.jsonl as a table and a figure: per mix, median cosines with intervals."""

import math
import warnings
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from pairuni.pages.chart_style import LINES, PALE, error_ends, figure_file
from pairuni.streams import Stream, generator
from pairuni.types import Side

RESAMPLES = 2000
"""Bootstrap resamples of the pairs per interval."""
KINDS = ("cosine", *(str(side) for side in Side))
_COLOURS = dict(zip(KINDS, (LINES[0], "#b0b6be", "#d9a27d"), strict=True))
_NAMES = {
    "cosine": "understanding and generation",
    "understanding": "understanding twice",
    "generation": "images twice",
}

Interval = tuple[float, float, float]
"""A value and the ends of its 95 % interval; the ends are NaN if there are too few pairs."""


def summarise(rows: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """Per mix: the numbers of pairs measured and left out, and the median over pairs of each kind of cosine.

    `corrected` is the mean cosine across the sides divided by the geometric mean of the two cosines within a side: an
    estimate of the cosine without the noise of few rollouts. Intervals (95 %) are percentile bootstraps over pairs.
    """
    mixes: dict[str, Any] = {}
    for mix in dict.fromkeys(row["mix"] for row in rows):
        own = [row for row in rows if row["mix"] == mix]
        measured = [row for row in own if "cosine" in row]
        entry: dict[str, Any] = {"measured": len(measured), "left_out": len(own) - len(measured)}
        if measured:
            groups = list(measured[0]["cosine"])
            values = {kind: {g: np.array([row[kind][g] for row in measured]) for g in groups} for kind in KINDS}
            for kind, group in product(KINDS, groups):
                own_n = values[kind][group]
                middle = float(np.median(own_n)), *_interval((own_n,), np.median, seed)
                entry.setdefault(kind, {})[group] = _plain(middle)
            entry["corrected"] = _plain(corrected(*(values[kind]["all"] for kind in KINDS), seed=seed))
        mixes[mix] = entry
    return {"mixes": mixes}


def corrected(across_n: np.ndarray, one_n: np.ndarray, other_n: np.ndarray, seed: int) -> Interval:
    """Mean of `across_n` / sqrt(mean of `one_n` * mean of `other_n`); NaN where one of the two is not positive."""

    def ratio(a: np.ndarray, b: np.ndarray, c: np.ndarray, axis: int = -1) -> np.ndarray:
        ceilings = np.mean(b, axis) * np.mean(c, axis)
        sound = (np.mean(b, axis) > 0) & (np.mean(c, axis) > 0)
        return np.where(sound, np.mean(a, axis) / np.sqrt(np.where(sound, ceilings, 1.0)), np.nan)

    values = (across_n, one_n, other_n)
    return float(ratio(*values)), *_interval(values, ratio, seed)


def _interval(values: tuple[np.ndarray, ...], statistic: Any, seed: int) -> tuple[float, float]:
    if all(np.ptp(each) == 0 for each in values):  # a single pair, or equal values
        return math.nan, math.nan
    rng = generator(seed, Stream.GRADIENT_INTERVAL)
    options: dict[str, Any] = {"paired": len(values) > 1, "method": "percentile", "n_resamples": RESAMPLES, "rng": rng}
    with warnings.catch_warnings():
        # If some resamples have no value there is no interval; the table shows that.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(values, statistic, **options).confidence_interval
    return float(found.low), float(found.high)


def _plain(interval: Interval) -> dict[str, float | None]:
    """As JSON, which has no NaN."""
    rounded = (None if math.isnan(value) else round(value, 5) for value in interval)
    return dict(zip(("value", "low", "high"), rounded, strict=True))


def table(summary: Mapping[str, Any]) -> str:
    """A Markdown table with a row per mix."""
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


def draw(summary: Mapping[str, Any], path: Path) -> None:
    """Draws medians with intervals: on the left a row per mix, on the right the cosine across the sides by layer."""
    mixes = {name: entry for name, entry in summary["mixes"].items() if entry["measured"]}
    with figure_file(path, 10, 1.6 + 0.45 * max(4, len(mixes))) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        for n, kind in enumerate(KINDS):
            for row, entry in enumerate(mixes.values()):
                at = entry[kind]["all"]
                ends, label = error_ends(at["value"], at["low"], at["high"]), _NAMES[kind] if row == 0 else None
                y = row + 0.2 * (n - 1)
                left.errorbar([at["value"]], [y], xerr=ends, fmt="o", ms=4, color=_COLOURS[kind], label=label)
        left.set_yticks(range(len(mixes)), list(mixes))
        left.invert_yaxis()
        left.axvline(0, color=PALE, linewidth=0.8, zorder=0)
        left.set_xlabel("cosine of two gradients of a pair: median, 95 % interval")
        if mixes:
            figure.legend(loc="outside upper center", ncols=len(KINDS), frameon=False)
        for name, entry in mixes.items():
            groups = [group for group in entry["cosine"] if group != "all"]
            right.plot([entry["cosine"][g]["value"] for g in groups], range(len(groups)), marker="o", ms=3, label=name)
            right.set_yticks(range(len(groups)), groups)
        right.axvline(0, color=PALE, linewidth=0.8, zorder=0)
        right.set_xlabel("across the sides, by layer")
        if mixes:
            right.legend(frameon=False, fontsize=7)
