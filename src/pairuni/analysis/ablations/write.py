"""Writes what is said of suites: <suite>.md, <suite>.json, <suite>.svg, and curves where a suite has a scale."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from pairuni.analysis.ablations.compare import Results, Row, compared, gain, seeds_of
from pairuni.analysis.ablations.figures import Point, forest, scatter
from pairuni.analysis.ablations.plan import BEFORE
from pairuni.analysis.ablations.statistics import Estimate, correlation, over_seeds
from pairuni.analysis.ablations.tables import curve_table, said, summary, table
from pairuni.config import Suite
from pairuni.files import write_json, write_text

_FEWEST = 5
"""Arms, for a correlation: drawn anew, fewer have intervals that are too narrow."""


def write_suite(suite: Suite, results: Mapping[int, Results], output: Path) -> str:
    """Writes a suite's files into `output` and returns its tables, one per version of the random streams.

    Args:
        results: by that version, as `by_streams` gives them. A version that compares nothing is left out beside one
            that does; figures of the newest have the suite's name, those of others their version too.
    """
    rows = {version: compared(suite, own) for version, own in sorted(results.items(), reverse=True)}
    differ = [version for version, own in rows.items() if any(c.difference for row in own for c in row.cells.values())]
    some = [version for version, own in rows.items() if any(row.name != BEFORE for row in own)]
    rows = {version: rows[version] for version in differ or some[:1] or list(rows)[:1]}
    written, texts = summary(suite, rows, results), []
    for version, own in rows.items():
        tail = "" if version == max(rows) else f"_streams_{version}"
        more = _more(suite, own, results[version], output, tail)
        written["streams"][str(version)] |= more[0]
        texts.append(table(suite, own, version) + more[1])
        forest(own, output / f"{suite}{tail}.svg")
    text = "\n".join(texts)
    write_text(output / f"{suite}.md", text)
    write_json(output / f"{suite}.json", written)
    return text


def _more(
    suite: Suite, rows: Sequence[Row], results: Results, output: Path, tail: str
) -> tuple[dict[str, dict[str, Any]], str]:
    """What a suite has beside its table, as JSON and as Markdown; its figure is written."""
    if suite == "pairing":
        found = _with_cosine(rows, results, output / f"pairing_cosine{tail}.svg")
        plain = {name: asdict(estimate) for name, estimate in found.items()}
        return {"gradient_cosine": plain}, said_of(found, "the gradients' cosine while training (mean over steps)")
    label, panels = _curve(suite, rows, results) if suite in ("matching", "room") else ("", {})
    if not panels:
        return {}, ""
    scatter(panels, label, "pairs above random pairs", output / f"{suite}_curve{tail}.svg")
    plain = {name: [asdict(point) for point in points] for name, points in panels.items()}
    return {"curve": plain}, curve_table(panels, label)


def _with_cosine(rows: Sequence[Row], results: Results, path: Path) -> dict[str, Estimate]:
    """By benchmark, the correlation over arms of the gradients' cosine while training with what training gained."""
    cosines = {
        row.name: {seed: results[row.name, seed].training["gradient_cosine"] for seed in row.seeds}
        for row in rows
        if row.name != BEFORE and all("gradient_cosine" in results[row.name, seed].training for seed in row.seeds)
    }
    return related(cosines, rows, results, path, "cosine of the two sides' gradients while training")


def related(
    values: Mapping[str, Mapping[int, float]], rows: Sequence[Row], results: Results, path: Path, label: str
) -> dict[str, Estimate]:
    """By benchmark, the correlation over arms of a number with what training gained; and the figure of it.

    Args:
        values: by arm and seed; arms without any are left out, and so are seeds that not all arms have.
        label: of the number, on the x-axis.
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
        panels[name] = [_point(x, row.label, estimate) for x, row, estimate in drawn]
    scatter(panels, label, "gain over the model before", path)
    return found


def _point(x: Estimate, label: str, y: Estimate) -> Point:
    finite = math.isfinite(x.low)
    return Point(x.mean, label, y, x.low if finite else None, x.high if finite else None)


def said_of(correlations: Mapping[str, Estimate], what: str) -> str:
    """Markdown on what a number goes with; empty without correlations."""
    if not correlations:
        return ""
    lines = [f"- {name}: {said(estimate, sign=True, digits=2)}" for name, estimate in correlations.items()]
    head = f"Correlation over arms of {what} with the gain, 95 % intervals by drawing arms and seeds anew:"
    return "\n".join(["", head, "", *lines, ""])


def _curve(suite: Suite, rows: Sequence[Row], results: Results) -> tuple[str, dict[str, list[Point]]]:
    """What pairs gain over random pairs in each world, over how well halves match (matching) or what there is to gain.

    The latter is the mean gain of the two: over that of random pairs alone, their luck would count on both axes, for
    one and against the other, and slope the curve.
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
            if None in content:  # no pair was retrieved
                continue
            x = fmean(value for value in content if value is not None)
        else:
            x = fmean(gain(name, arm, both, results).mean for arm in (row.name, reference))
        panels[name].append(Point(x, row.label.partition(":")[0], estimate))
    return label, panels if all(panels.values()) else {}
