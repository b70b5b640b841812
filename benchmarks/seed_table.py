"""Several seeds of one training run as Markdown tables: `python benchmarks/seed_table.py runs/seed_0 runs/seed_1 ...`.

Per benchmark and seed the scores before and after and their paired difference; then the mean over the seeds, whose 95 %
interval is over items, those of one prompt or image as a cluster: an item's difference is averaged over the seeds
first, so that seeds do not count as more items. Benchmarks with the same question types or tasks share a table.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from pairuni.errors import InputError
from pairuni.pages.before_after import Difference, paired_difference
from pairuni.pages.run_files import Evaluation, read_evaluation

Scores = Mapping[str, float]


def seed_table(runs: Sequence[Path], parts: bool = False) -> str:
    """Markdown tables of finished `pairuni demo` runs, by their directories; `parts` adds types and tasks of the mean.

    Raises:
        InputError: a run has no evaluation or no answers of a benchmark.
    """
    before, after = (
        [read_evaluation(run / folder / "eval.json") for run in runs] for folder in ("eval_before", "eval_after")
    )
    tables: dict[tuple[str, ...], list[list[str]]] = {}  # by types or tasks: the columns of a table
    for name in before[0].entries:
        old, new = ([_scores(e, name) for e in evaluations] for evaluations in (before, after))
        first = before[0].answers(name) or {}
        kinds = tuple(dict.fromkeys(row.part for row in first.values()))
        labels, compared = [run.name for run in runs], list(zip(old, new, strict=True))
        means = _mean(old), _mean(new)
        if len(runs) > 1:
            labels.append("mean")
            compared.append(means)
        if parts:
            labels += kinds
            for kind in kinds:
                of_kind = [id for id, row in first.items() if row.part == kind]
                compared.append(({i: means[0][i] for i in of_kind}, {i: means[1][i] for i in of_kind}))
        clusters = {id: row.cluster for id, row in first.items()}
        cells = [_cells(a, b, clusters) for a, b in compared]
        columns = tables.setdefault(kinds, [["", *labels]])
        columns.append([f"{name}, n = {len(first)}", *(scores for scores, _ in cells)])
        columns.append(["difference, 95 %", *(difference for _, difference in cells)])
    return "\n\n".join(_markdown(columns) for columns in tables.values())


def _scores(evaluation: Evaluation, name: str) -> Scores:
    answers = evaluation.answers(name)
    if not answers:
        raise InputError("no such file, or empty", file=evaluation.answers_path(name))
    return {id: row.score for id, row in answers.items()}


def _mean(runs: Sequence[Scores]) -> Scores:
    return {id: fmean(run[id] for run in runs) for id in runs[0]}


def _cells(before: Scores, after: Scores, clusters: Mapping[str, str]) -> tuple[str, str]:
    """The mean scores and their difference."""
    found = paired_difference(before, after, 100, clusters)
    assert found is not None  # the same items by construction
    return f"{100 * fmean(before.values()):.1f}→{100 * fmean(after.values()):.1f}", _interval(found)


def _markdown(columns: Sequence[Sequence[str]]) -> str:
    head, *rows = (f"| {' | '.join(row)} |" for row in zip(*columns, strict=True))
    return "\n".join([head, "|" + "---|" * len(columns), *rows])


def _interval(found: Difference) -> str:
    if found.low is None or found.high is None:
        return f"{found.mean:+.1f}"
    return f"{found.mean:+.1f} ({found.low:+.1f} to {found.high:+.1f})"


if __name__ == "__main__":
    flags = [a for a in sys.argv[1:] if a.startswith("--")]
    folders = [Path(a) for a in sys.argv[1:] if not a.startswith("--")]
    if not folders or set(flags) - {"--parts"}:
        sys.exit(f"usage: {sys.argv[0]} [--parts] RUN ...")
    try:
        print(seed_table(folders, "--parts" in flags))
    except InputError as err:
        sys.exit(str(err))
