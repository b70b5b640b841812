"""Several seeds of one training run as a Markdown table: `python benchmarks/seed_table.py runs/seed_0 runs/seed_1 ...`.

Per benchmark and seed the scores before and after and their paired difference; then the mean over the seeds, whose 95 %
interval is over items, those of one prompt or image as a cluster: an item's difference is averaged over the seeds
first, so that seeds do not count as more items.
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
    """Markdown rows for `runs`, directories of finished `pairuni demo` runs; `parts` adds types and tasks of the mean.

    Raises:
        InputError: a run has no evaluation or no answers of a benchmark.
    """
    before, after = (
        [read_evaluation(run / folder / "eval.json") for run in runs] for folder in ("eval_before", "eval_after")
    )
    lines = ["| benchmark | run | before | after | difference, 95 % interval | n |", "|---|---|---|---|---|---|"]
    for name in before[0].entries:
        old, new = ([_scores(e, name) for e in evaluations] for evaluations in (before, after))
        first = before[0].answers(name) or {}
        groups = {id: row.cluster for id, row in first.items()}
        lines += [_line(name, run.name, a, b, groups) for run, a, b in zip(runs, old, new, strict=True)]
        if len(runs) > 1:
            lines.append(_line(name, f"mean of {len(runs)}", _mean(old), _mean(new), groups))
        if parts:
            kinds = {id: row.part for id, row in first.items()}
            for kind in dict.fromkeys(kinds.values()):
                chosen = [{id: s for id, s in _mean(side).items() if kinds[id] == kind} for side in (old, new)]
                lines.append(_line("", kind, *chosen, groups))
    return "\n".join(lines)


def _scores(evaluation: Evaluation, name: str) -> Scores:
    answers = evaluation.answers(name)
    if not answers:
        raise InputError("no such file, or empty", file=evaluation.answers_path(name))
    return {id: row.score for id, row in answers.items()}


def _mean(runs: Sequence[Scores]) -> Scores:
    return {id: fmean(run[id] for run in runs) for id in runs[0]}


def _line(name: str, run: str, before: Scores, after: Scores, groups: Mapping[str, str]) -> str:
    found = paired_difference(before, after, 100, groups)
    assert found is not None  # the same items by construction
    scores = f"{100 * fmean(before.values()):.1f} | {100 * fmean(after.values()):.1f}"
    return f"| {name} | {run} | {scores} | {_interval(found)} | {len(before)} |"


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
