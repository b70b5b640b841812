"""Primary contrasts: the comparisons that the study named before its runs, on the mean of several benchmarks.

    python benchmarks/contrasts.py

The command prints what the contrasts can detect, by the variance over the ten seeds of version 1 of the random streams.
In version 1 random pairs, least similar halves and vanilla were not what they are called (docs/evidence.md): their
scores say nothing, but how much differences between seeds vary is the best guess that there was before the runs.
evidence.py takes its table of contrasts from here.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from scipy import optimize, stats

from pairuni.errors import InputError
from pairuni.files import read_text
from pairuni.lab.ablations.compare import Results, seeds_of
from pairuni.lab.ablations.intervals import LEVEL, Estimate, crossed
from pairuni.lab.ablations.results import Result, read_results
from pairuni.lab.ablations.write import said
from pairuni.validation import input_error

FOLDER = Path(__file__).parent / "results" / "ablations"
POWER = 0.8
_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, config=_STRICT)
class Contrast:
    """The difference of two arms."""

    label: str
    arm: str
    minus: str
    could_detect: float
    """The true difference that the study would find with probability `POWER`, by the variance of earlier seeds."""


@dataclass(frozen=True, config=_STRICT)
class Contrasts:
    """The planned contrasts and the number of seeds and the score to compare them with."""

    streams: int
    """Version of the random streams."""
    seeds: int
    benchmarks: list[str]
    """The score is the mean of these."""
    contrasts: list[Contrast]


def read_contrasts(path: Path) -> Contrasts:
    """Reads contrasts.yaml. Raises InputError: the file is missing, is not YAML, or has unknown fields."""
    try:
        return TypeAdapter(Contrasts).validate_python(yaml.safe_load(read_text(path)))
    except yaml.YAMLError as err:
        raise InputError(f"cannot be read ({err})", file=path) from None
    except ValidationError as err:
        raise input_error(err, file=path) from None


def contrast(arm: str, minus: str, benchmarks: Sequence[str], results: Results, seeds: int) -> Estimate | None:
    """The difference of the mean scores, paired by seed and item; None if the arms share no seed below `seeds`.

    Seeds and items both count as random, as in the tables (`crossed`).

    Raises:
        InputError: a benchmark was not measured, its score is not a mean over items, or the items differ.
    """
    both = [seed for seed in seeds_of(arm, results) if seed in seeds_of(minus, results) and seed < seeds]
    if not both:
        return None
    rows = [[_item_scores(results[name, seed], benchmarks) for seed in both] for name in (arm, minus)]
    if len({items for own in rows for items, _ in own}) > 1:
        raise InputError("the runs of a benchmark answered different items and cannot be compared", field="items")
    values_SN, less_SN = (np.stack([scores_N for _, scores_N in own]) for own in rows)
    return crossed(values_SN - less_SN)


def _item_scores(result: Result, benchmarks: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """Hashes of the items, and a score per item whose mean over items is the mean of the benchmarks' scores.

    Benchmarks with the same items (asked greedily and sampled) share them. Items are weighted so that benchmarks with
    different numbers of items count equally.
    """
    blocks: dict[str, np.ndarray] = {}
    for name in benchmarks:
        measured = result.benchmarks.get(name)
        if measured is None or measured.factor is None:
            raise InputError(f"{result.arm} seed {result.seed} has no mean over items for this benchmark", field=name)
        blocks[measured.items] = blocks.get(measured.items, 0.0) + measured.factor * measured.scores_N()
    N = sum(len(scores_N) for scores_N in blocks.values())
    parts = [scores_N * N / (len(scores_N) * len(benchmarks)) for scores_N in blocks.values()]
    return tuple(blocks), np.concatenate(parts)


def detectable(differences_S: np.ndarray) -> float:
    """The true mean that a two-sided t test over as many seeds finds with probability `POWER`.

    The variance is that of these differences; the power is that of the non-central t distribution, without its far
    tail, which adds nothing there.
    """
    S = len(differences_S)
    error, limit = float(differences_S.std(ddof=1)) / S**0.5, float(stats.t.ppf((1 + LEVEL) / 2, S - 1))

    def lacks(shift: float) -> float:
        return POWER - float(stats.nct.sf(limit, S - 1, shift))

    return float(optimize.root_scalar(lacks, bracket=(0.1, 40.0)).root) * error


def contrast_table(planned: Contrasts, results: Results) -> str:
    """A Markdown table with a row per contrast, measured or not."""
    lines = [
        f"Mean of {', '.join(planned.benchmarks)}. Random streams: version {planned.streams}.",
        "",
        "| contrast | seeds | difference, 95 % | p | could detect |",
        "| --- | --- | --- | --- | --- |",
    ]
    for each in planned.contrasts:
        found = contrast(each.arm, each.minus, planned.benchmarks, results, planned.seeds)
        seeds = f"{0 if found is None else len(found.seeds)} of {planned.seeds}"
        cells = ["not measured yet", ""]
        if found is not None:
            cells = [said(found, sign=True, digits=2), f"{found.p:.3f}" if found.p >= 0.001 else "< 0.001"]
        lines.append(f"| {' | '.join([each.label, seeds, *cells, f'{each.could_detect:.2f}'])} |")
    return "\n".join([*lines, ""])


PLANNED = read_contrasts(FOLDER / "contrasts.yaml")


def differences() -> dict[str, np.ndarray]:
    """By label, per seed the difference of the mean score in version 1."""
    rows = read_results(FOLDER / "results.jsonl") | read_results(FOLDER / "unsound_v1.jsonl")

    def scores_S(arm: str) -> np.ndarray:
        found = [rows[arm, seed, 1].benchmarks for seed in range(PLANNED.seeds)]
        return np.array([np.mean([own[name].score for name in PLANNED.benchmarks]) for own in found])

    return {each.label: scores_S(each.arm) - scores_S(each.minus) for each in PLANNED.contrasts}


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    said = {each.label: each.could_detect for each in PLANNED.contrasts}
    for label, values_S in differences().items():
        deviation, found = values_S.std(ddof=1), detectable(values_S)
        print(f"{label}: deviation over seeds {deviation:.3f}, could detect {found:.2f} ({said[label]} said)")


if __name__ == "__main__":
    main()
