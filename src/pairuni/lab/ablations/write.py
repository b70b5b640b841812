"""Writes a suite's comparison: <suite>.md, <suite>.json and <suite>.svg, and for some suites a scatter plot."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pairuni.config import Suite
from pairuni.eval.runner import DIGITS
from pairuni.files import write_json, write_text
from pairuni.lab.ablations.compare import ArmRow, Results, compared, gain, seeds_of
from pairuni.lab.ablations.intervals import Estimate, correlation, over_seeds
from pairuni.lab.ablations.schedule import BEFORE
from pairuni.lab.ablations.suites import ARMS, SUITES
from pairuni.pages.chart_style import LINES, PALE, error_ends, figure_file

_FEWEST = 5
"""Fewest arms for a correlation; with fewer the bootstrap interval is too narrow."""
_MARKS = "osD^v<>P"


@dataclass(frozen=True)
class Point:
    """A point of a scatter plot; x may have an interval too."""

    x: float
    label: str
    y: Estimate
    x_low: float | None = None
    x_high: float | None = None


def write_suite(suite: Suite, results: Mapping[int, Results], output: Path) -> str:
    """Writes a suite's files into `output` and returns its tables, one per version of the random streams.

    Args:
        results: by that version, as `by_streams` returns them. If some versions have differences, the others are left
            out. Figures of older versions have the version in their names.
    """
    rows = {version: compared(suite, own) for version, own in sorted(results.items(), reverse=True)}
    differ = [version for version, own in rows.items() if any(c.difference for row in own for c in row.cells.values())]
    some = [version for version, own in rows.items() if any(row.name != BEFORE for row in own)]
    rows = {version: rows[version] for version in differ or some[:1] or list(rows)[:1]}
    streams, texts, seconds = {}, [], []
    for version, own in rows.items():
        found, tail = results[version], "" if version == max(rows) else f"_streams_{version}"
        trained = [row for row in own if row.name != BEFORE]
        runs = [found[row.name, seed] for row in trained for seed in seeds_of(row.name, found)]
        seconds += [run.seconds.get("training", 0.0) for run in runs]
        text = table(suite, own, version)
        more: dict[str, Any] = {"arms": [_plain(asdict(row)) for row in own]}
        if suite == "pairing":
            name, cosines = "gradient_cosine", {}
            for row in trained:  # arms that measured the cosine of the two sides' gradients in training
                measured = {seed: found[row.name, seed].training.get(name) for seed in row.seeds}
                if None not in measured.values():
                    cosines[row.name] = measured
            label = "cosine of the two sides' gradients while training"
            correlations = related(cosines, own, found, output / f"pairing_cosine{tail}.svg", label)
            more[name] = {benchmark: asdict(estimate) for benchmark, estimate in correlations.items()}
            text += said_of(correlations, "the gradients' cosine while training (mean over steps)")
        label, panels = _curve(suite, own, found) if suite in ("matching", "room") else ("", {})
        if panels:
            scatter(panels, label, "pairs above random pairs", output / f"{suite}_curve{tail}.svg")
            more["curve"] = {name: [asdict(point) for point in points] for name, points in panels.items()}
            lines = [_line(["", *panels]), _line(["---"] * (len(panels) + 1))]
            for points in zip(*panels.values(), strict=True):  # a row per world
                lines.append(_line([points[0].label, *(f"{point.x:.2f}" for point in points)]))
            text += "\n".join(["", f"Worlds by {label}:", "", *lines, ""])
        texts.append(text)
        streams[str(version)] = more
        forest(own, output / f"{suite}{tail}.svg")
    text = "\n".join(texts)
    write_text(output / f"{suite}.md", text)
    about = {"suite": suite, "question": SUITES[suite].question, "runs": len(seconds)}
    write_json(output / f"{suite}.json", about | {"training_seconds": round(sum(seconds)), "streams": streams})
    return text


def table(suite: Suite, rows: Sequence[ArmRow], streams: int) -> str:
    """Markdown: the question, a table with a row per arm, and a note on how to read it.

    Args:
        streams: the version of the random streams that all rows have.
    """
    question = f"**{SUITES[suite].question}** Random streams: version {streams}."
    if all(row.name == BEFORE for row in rows):
        return f"{question} No results yet.\n"
    units = {name: cell.unit for row in rows for name, cell in row.cells.items()}
    measured = any(row.together is not None for row in rows)
    head = ["", "seeds", *(["co-batching"] if measured else [])]
    head += [part for name, unit in units.items() for part in (f"{name}, {unit}", "difference")]
    lines = [question, "", _line(head), _line(["---"] * len(head))]
    for row in rows:
        alone = row.name == BEFORE or (row.name in ARMS and "sides" in ARMS[row.name].train)
        together = "" if alone else "not measured"
        if row.together is not None:
            by_chance = "" if row.chance is None else f" (chance {100 * row.chance:.1f} %)"
            together = f"{100 * row.together:.1f} %{by_chance}"
        cells = [row.label, str(len(row.seeds)), *([together] if measured else [])]
        for name, unit in units.items():
            cell, digits = row.cells.get(name), DIGITS.get(unit, 1)
            score = "" if cell is None else f"{cell.score.mean:.{digits}f}"
            text = said(cell.difference, sign=True, digits=digits) if cell and cell.difference else ""
            cells += [score, f"**{text}**" if text and cell and cell.q is not None and cell.q < 0.05 else text]
        lines.append(_line(cells))
    asked = ", ".join(f"{next(row.cells[name].n for row in rows if name in row.cells):,} of {name}" for name in units)
    comparison = SUITES[suite]
    beside = "random pairs of the same world" if comparison.reference else comparison.arms[0].label
    note = f"Differences from {beside}, 95 % intervals over seeds and items ({asked})."
    if measured:
        note += " Co-batching: halves trained beside their true partner, by metrics.jsonl of these runs."
    elif streams == 1:
        note += " Co-batching was not measured."
    tests = [cell for row in rows for cell in row.cells.values() if cell.difference and cell.q is not None]
    if tests:
        clear = sum(cell.difference.clear for cell in tests if cell.difference)
        held = sum(cell.q is not None and cell.q < 0.05 for cell in tests)
        note += f" Of {len(tests)} intervals, {clear} leave out 0 ({len(tests) / 20:.1f} would by chance)"
        note += f"; {held} after adjustment (bold; Benjamini and Hochberg, 5 %)."
    return "\n".join([*lines, "", note]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def said(estimate: Estimate, sign: bool = False, digits: int = 1) -> str:
    """A mean with its interval, such as "63.5 (61.4 to 65.6)"."""
    form = f"{'+' if sign else ''}.{digits}f"
    if not math.isfinite(estimate.low):
        return f"{estimate.mean:{form}}"
    return f"{estimate.mean:{form}} ({estimate.low:{form}} to {estimate.high:{form}})"


def _plain(value: Any) -> Any:
    """As JSON, which has no infinity."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return (round(value, 5) if math.isfinite(value) else None) if isinstance(value, float) else value


def related(
    values: Mapping[str, Mapping[int, float]], rows: Sequence[ArmRow], results: Results, path: Path, label: str
) -> dict[str, Estimate]:
    """By benchmark, the correlation over arms of a number with the gain over the model before. Writes the figure.

    Args:
        values: the number by arm and seed. Arms without values, and seeds that some arm lacks, are left out.
        label: the label of the x-axis.
    """
    arms = [row for row in rows if row.name in values]
    common = [set(row.seeds) & set(values[row.name]) for row in arms]
    seeds = sorted(set.intersection(*common)) if common else []
    if len(arms) < _FEWEST or not seeds or not seeds_of(BEFORE, results):
        return {}
    x_GS = np.array([[values[row.name][seed] for seed in seeds] for row in arms])
    places, found, panels = [over_seeds(x_S) for x_S in x_GS], {}, {}
    for name in arms[0].cells:
        gains = [gain(name, row.name, seeds, results) for row in arms]
        gain_GS = np.array([estimate.seeds for estimate in gains])
        if np.ptp(x_GS.mean(1)) and np.ptp(gain_GS.mean(1)):
            found[name] = correlation(x_GS, gain_GS)
        drawn = zip(places, arms, gains, strict=True)
        panels[name] = [Point(x.mean, row.label, estimate, x.low, x.high) for x, row, estimate in drawn]
    scatter(panels, label, "gain over the model before", path)
    return found


def said_of(correlations: Mapping[str, Estimate], what: str) -> str:
    """Markdown with the correlations; empty if there are none."""
    if not correlations:
        return ""
    lines = [f"- {name}: {said(estimate, sign=True, digits=2)}" for name, estimate in correlations.items()]
    head = f"Correlation over arms of {what} with the gain, 95 % intervals by drawing arms and seeds anew:"
    return "\n".join(["", head, "", *lines, ""])


def _curve(suite: Suite, rows: Sequence[ArmRow], results: Results) -> tuple[str, dict[str, list[Point]]]:
    """The gain of pairs over random pairs in each world, against how well halves match, or against the room to gain.

    The room to gain is the mean gain of pairs and random pairs. With the gain of random pairs alone, its noise would
    enter both axes with opposite signs and tilt the curve.
    """
    worlds = [row for row in rows if row.reference and any(cell.difference for cell in row.cells.values())]
    label = "content in common (cosine)" if suite == "matching" else "mean gain of both"
    if not worlds or not seeds_of(BEFORE, results):
        return label, {}
    panels: dict[str, list[Point]] = {name: [] for name in worlds[0].cells}
    for name, row in product(panels, worlds):
        estimate, reference = row.cells[name].difference, str(row.reference)
        if estimate is None:
            continue
        both = [seed for seed in row.seeds if seed in seeds_of(reference, results)]
        if suite == "matching":
            content = [results[row.name, seed].pairs.get("content") for seed in both]
            if None in content:  # the world has no retrieved pairs
                continue
            x = fmean(value for value in content if value is not None)
        else:
            x = fmean(gain(name, arm, both, results).mean for arm in (row.name, reference))
        panels[name].append(Point(x, row.label.partition(":")[0], estimate))
    return label, panels if all(panels.values()) else {}


def forest(rows: Sequence[ArmRow], path: Path) -> None:
    """Draws each arm's difference from its reference with its 95 % interval and its seeds, a panel per benchmark."""
    rows = [row for row in rows if any(cell.difference for cell in row.cells.values())]
    names = list(dict.fromkeys(name for row in rows for name, cell in row.cells.items() if cell.difference))
    if not rows:
        return
    with figure_file(path, 2.2 + 2.9 * len(names), 1.1 + 0.36 * len(rows)) as figure:
        panels = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
        for axes, name in zip(panels, names, strict=True):
            found = {n: row.cells[name].difference for n, row in enumerate(rows) if name in row.cells}
            for n, estimate in found.items():
                if estimate is not None:
                    axes.plot(estimate.seeds, [n] * len(estimate.seeds), "|", color=PALE, ms=9, zorder=1)
                    _errorbar(axes, (estimate.mean, n), estimate, vertical=False)
            axes.axvline(0, color=PALE, linewidth=0.8, zorder=0)
            axes.set_title(name, fontsize=9)
            axes.set_xlabel("difference, 95 % interval")
        panels[0].set_yticks(range(len(rows)), [row.label for row in rows])
        panels[0].invert_yaxis()


def scatter(panels: Mapping[str, Sequence[Point]], x_label: str, y_label: str, path: Path) -> None:
    """Draws points with intervals, a panel per benchmark; each label has its colour and mark."""
    with figure_file(path, 3.6 * len(panels), 3.8) as figure:
        for axes, (name, points) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
            for n, point in enumerate(points):
                ends = error_ends(point.x, point.x_low, point.x_high)
                axes.errorbar([point.x], [point.y.mean], xerr=ends, fmt="none", ecolor=f"C{n % 10}", alpha=0.5)
                look = {"color": f"C{n % 10}", "marker": _MARKS[n % len(_MARKS)], "label": point.label}
                _errorbar(axes, (point.x, point.y.mean), point.y, vertical=True, **look)
            axes.axhline(0, color=PALE, linewidth=0.8, zorder=0)
            axes.set_title(name, fontsize=9)
            axes.set_xlabel(x_label)
            axes.margins(x=0.15)
            axes.xaxis.set_major_locator(MaxNLocator(4))
        figure.axes[0].set_ylabel(y_label)
        shown = figure.axes[0].get_legend_handles_labels()
        figure.legend(*shown, loc="outside lower center", ncols=4, frameon=False, fontsize=8)


def _errorbar(
    axes: Axes, place: tuple[float, float], estimate: Estimate, vertical: bool, color: str = LINES[0], **more: Any
) -> None:
    ends = error_ends(estimate.mean, estimate.low, estimate.high)
    look: dict[str, Any] = {"yerr" if vertical else "xerr": ends, "capsize": 2, "linewidth": 1.2, "marker": "o", **more}
    axes.errorbar([place[0]], [place[1]], linestyle="none", ms=5, color=color, zorder=2, **look)
