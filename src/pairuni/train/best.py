"""Scores of evaluations during training, and the checkpoint that one of them names the best (`log.best`)."""

import math
from collections.abc import Mapping

from pairuni import dist
from pairuni.config import EvalConfig
from pairuni.files import read_jsonl, write_jsonl, write_text
from pairuni.progress import say
from pairuni.runs import RunDir
from pairuni.train.checkpoint import best_step


def add_scores(run: RunDir, asked: EvalConfig, step: int, scores: Mapping[str, float]) -> dict[str, float]:
    """Adds {benchmark: score} after `step` to eval_history.jsonl. Returns the scores under the keys that they got.

    A validation score has another key than a test score. `settings` says what a score may be compared with.
    """
    keyed = {asked.key(name): float(score) for name, score in scores.items()}
    settings = {asked.key(name): asked.settings_hash(name) for name in scores}
    rows = [row for _, row in read_jsonl(run.eval_history)] if run.eval_history.is_file() else []
    write_jsonl(run.eval_history, [*rows, {"step": step, **keyed, "settings": settings}])
    return keyed


def best_scored(run: RunDir, asked: EvalConfig, benchmark: str, step: int) -> int | None:
    """The step up to `step` that scores highest on `benchmark` (log.best), the first of equals; None without a score.

    Only scores of that benchmark that were taken with the settings of now count, and only of steps whose checkpoint is
    there, or can still be saved: so a run that goes on by another benchmark takes what its history has for that one.
    """
    known: dict[int, float] = {}
    key, settings = asked.key(benchmark), asked.settings_hash(benchmark)
    for _, row in read_jsonl(run.eval_history) if run.eval_history.is_file() else ():
        there = row["step"] == step or run.checkpoint(row["step"]).is_dir()
        comparable = isinstance(row.get(key), int | float) and row.get("settings", {}).get(key) == settings
        if 0 < row["step"] <= step and there and comparable and not math.isnan(row[key]):
            known[row["step"]] = row[key]
    return max(known, key=lambda at: (known[at], -at), default=None)


def name_best(run: RunDir, step: int) -> None:
    """Points `checkpoints/best` at the checkpoint of `step`."""
    if best_step(run) != step:
        write_text(run.best, run.checkpoint(step).name + "\n")


def warn_of_other_best(run: RunDir, asked: EvalConfig, benchmark: str, step: int) -> None:
    """Warns a continued run whose best checkpoint was chosen by scores that are not comparable with new ones."""
    named = best_step(run)
    if benchmark and dist.is_main() and named is not None and best_scored(run, asked, benchmark, step) is None:
        what = f"no checkpoint has a score of {benchmark} with these settings"
        say(f"log.best: {what}; checkpoints/best stays {run.checkpoint(named).name} until the next evaluation")
