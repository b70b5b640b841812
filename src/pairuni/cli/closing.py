"""The last lines of a training run: rewards, missing rewards, the checkpoint, and scores before -> after."""

from pathlib import Path
from typing import Any

from pairuni.eval.runner import table
from pairuni.files import read_json
from pairuni.runs import RunDir


def closing(run: RunDir, summary: dict[str, Any]) -> str:
    """Lines about a finished run, from the summary of `train` and the evaluations in the run directory."""
    lines = [f"{summary['steps']} steps are done, {summary['seconds'] / 60:.1f} minutes in this call"]
    for side, missing in summary["missing"].items():
        first, last = (_number(summary[name][side]) for name in ("reward_first", "reward_last"))
        lines.append(f"{side} reward, first -> last tenth of the steps: {first} -> {last}; missing rewards: {missing}")
    if summary["skipped"]:
        lines.append(f"warning: {summary['skipped']} updates skipped, because a loss or gradient was not finite")
    lines += [f"warning: {warning}" for warning in summary["warnings"]]
    lines.append(f"checkpoint: {summary['checkpoint'] or 'none'}")
    return "\n".join([*lines, *_scores(run, summary["steps"])])


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def _scores(run: RunDir, steps: int) -> list[str]:
    """The table, if the run was evaluated with equal settings before its first step and after its last one."""
    files = [run.path / folder / "eval.json" for folder in ("eval_before", "eval_after")]
    if not all(file.is_file() for file in files):
        return []
    before, after = (read_json(file) for file in files)
    # After a continuation without evaluation, eval_after belongs to an earlier step.
    at_the_end = Path(after["model"]).parent.name == run.checkpoint(steps).name
    common = {name: entry for name, entry in before["benchmarks"].items() if name in after["benchmarks"]}
    if not (at_the_end and common and before["config_hash"] == after["config_hash"]):
        return []
    return ["held-out items with standard errors, before -> after", table(common, after["benchmarks"])]
