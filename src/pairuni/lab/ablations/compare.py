"""Compares the arms of a suite: per arm and benchmark a score, and the difference from the arm's reference."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pairuni.config import Suite
from pairuni.errors import InputError
from pairuni.lab.ablations.intervals import Estimate, adjusted, crossed, over_seeds
from pairuni.lab.ablations.results import Measured, Result
from pairuni.lab.ablations.schedule import BEFORE
from pairuni.lab.ablations.suites import SUITES

Results = Mapping[tuple[str, int], Result]


@dataclass(frozen=True)
class Cell:
    """An arm's score on a benchmark, in the benchmark's unit."""

    score: Estimate
    n: int
    """Number of items."""
    unit: str
    difference: Estimate | None = None
    """Difference from the reference, over the seeds that both have."""
    q: float | None = None
    """The difference's p value, adjusted for all differences of the suite."""


@dataclass(frozen=True)
class ArmRow:
    """An arm with its scores."""

    name: str
    label: str
    seeds: tuple[int, ...]
    reference: str | None
    cells: dict[str, Cell]
    """Cells by benchmark."""
    together: float | None = None
    """Share of halves trained in one step with their true partner, mean over seeds; None if not measured."""
    chance: float | None = None
    """The share that random order would give."""


def compared(suite: Suite, results: Results) -> list[ArmRow]:
    """Returns the arms of a suite that have results, after the model before training.

    Args:
        results: all made with the same version of the random streams.

    Raises:
        InputError: two runs of a benchmark answered different items.
    """
    comparison = SUITES[suite]
    rows = [_row(BEFORE, "before training", None, results)]
    rows += [_row(arm.name, arm.label, comparison.reference_of(arm), results) for arm in comparison.arms]
    rows = [row for row in rows if row.seeds]
    found = [
        (n, name, cell.difference.p)
        for n, row in enumerate(rows)
        for name, cell in row.cells.items()
        if cell.difference and math.isfinite(cell.difference.low)
    ]
    for (n, name, _), q in zip(found, adjusted([p for _, _, p in found]), strict=True):
        rows[n].cells[name] = replace(rows[n].cells[name], q=q)
    return rows


def _row(name: str, label: str, reference: str | None, results: Results) -> ArmRow:
    own = seeds_of(name, results)
    both = sorted({*own} & {*seeds_of(reference, results)}) if reference else []
    cells = {}
    for benchmark in results[name, own[0]].benchmarks if own else ():
        runs = [results[name, seed].benchmarks[benchmark] for seed in own]
        cells[benchmark] = Cell(_estimate(runs), runs[0].n, runs[0].unit)
        if both and benchmark in results[str(reference), both[0]].benchmarks:
            pair = [[results[arm, seed].benchmarks[benchmark] for seed in both] for arm in (name, str(reference))]
            cells[benchmark] = replace(cells[benchmark], difference=_estimate(*pair))
    means: list[float | None] = []
    for key in ("co_batching", "co_batching_chance"):
        values = [results[name, seed].training.get(key) for seed in own]
        known = [value for value in values if value is not None]
        means.append(float(np.mean(known)) if known and len(known) == len(values) else None)
    return ArmRow(name, label, tuple(own), reference, cells, *means)


def seeds_of(arm: str, results: Results) -> list[int]:
    """The seeds for which an arm has results."""
    return sorted(seed for name, seed in results if name == arm)


def gain(benchmark: str, arm: str, seeds: Sequence[int], results: Results) -> Estimate:
    """The mean gain of an arm's runs over the model before training, which is one run for all seeds."""
    before = results[BEFORE, 0].benchmarks[benchmark]
    return _estimate([results[arm, seed].benchmarks[benchmark] for seed in seeds], [before] * len(seeds))


def _estimate(runs: Sequence[Measured], less: Sequence[Measured] = ()) -> Estimate:
    """The mean score of runs or, seed by seed, the mean difference from the runs `less`."""
    if len({run.items for run in (*runs, *less)}) > 1:
        raise InputError("the runs of a benchmark answered different items and cannot be compared", field="items")
    factor = runs[0].factor
    if factor is None:  # not a mean over items: only its seeds can be compared
        scores_S = np.array([run.score for run in runs])
        return over_seeds(scores_S - np.array([run.score for run in less]) if less else scores_S)
    values_SN = np.stack([run.scores_N() for run in runs])
    return crossed(factor * (values_SN - np.stack([run.scores_N() for run in less]) if less else values_SN))
