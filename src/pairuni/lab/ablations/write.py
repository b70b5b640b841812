"""Writes <suite>.md, <suite>.json and <suite>.svg, and a curve or a scatter plot for some suites."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from statistics import fmean

import numpy as np

from pairuni.config import Suite
from pairuni.files import write_json, write_text
from pairuni.lab.ablations.compare import ArmRow, Results, compared, gain, seeds_of
from pairuni.lab.ablations.figures import Point, forest, scatter
from pairuni.lab.ablations.intervals import Estimate, correlation, over_seeds
from pairuni.lab.ablations.schedule import BEFORE
from pairuni.lab.ablations.tables import curve_table, said, summary, table

_FEWEST = 5
"""Fewest arms for a correlation; with fewer the bootstrap interval is too narrow."""


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
    written, texts = summary(suite, rows, results), []
    for version, own in rows.items():
        tail = "" if version == max(rows) else f"_streams_{version}"
        text, more = table(suite, own, version), written["streams"][str(version)]
        if suite == "pairing":
            found = related(
                _cosines(own, results[version]),
                own,
                results[version],
                output / f"pairing_cosine{tail}.svg",
                "cosine of the two sides' gradients while training",
            )
            more["gradient_cosine"] = {name: asdict(estimate) for name, estimate in found.items()}
            text += said_of(found, "the gradients' cosine while training (mean over steps)")
        label, panels = _curve(suite, own, results[version]) if suite in ("matching", "room") else ("", {})
        if panels:
            scatter(panels, label, "pairs above random pairs", output / f"{suite}_curve{tail}.svg")
            more["curve"] = {name: [asdict(point) for point in points] for name, points in panels.items()}
            text += curve_table(panels, label)
        texts.append(text)
        forest(own, output / f"{suite}{tail}.svg")
    text = "\n".join(texts)
    write_text(output / f"{suite}.md", text)
    write_json(output / f"{suite}.json", written)
    return text


def _cosines(rows: Sequence[ArmRow], results: Results) -> dict[str, dict[int, float]]:
    """By arm and seed, the mean cosine of the two sides' gradients in training, for arms that measured it."""
    name, trained = "gradient_cosine", [row for row in rows if row.name != BEFORE]
    measured = [row for row in trained if all(name in results[row.name, seed].training for seed in row.seeds)]
    return {row.name: {seed: results[row.name, seed].training[name] for seed in row.seeds} for row in measured}


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
