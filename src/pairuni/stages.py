"""Stages that several commands run: each says what it did."""

from pathlib import Path

from pairuni.config import CompleteConfig, PairConfig
from pairuni.errors import InputError


def run_complete(config: CompleteConfig) -> None:
    from pairuni.data import complete as stage

    summary = stage.run_complete(config)
    counts = summary["counts"]
    completed, rejected = (", ".join(f"{n} {side}" for side, n in counts[k].items()) for k in ("completed", "rejected"))
    print(f"{counts['inputs']} samples: completed {completed} ({counts['retried']} after a retry); rejected {rejected}")
    for reason, number in counts["reasons"].items():
        print(f"  {number} x {reason}")
    if "llm" in summary:
        used = summary["llm"]
        tokens = f"{used['prompt_tokens']:,} + {used['completion_tokens']:,} tokens"
        print(f"{used['calls']} calls ({tokens}, cost {used['cost']:.2f}), {used['replayed']} replayed from the ledger")
    print(summary["quadruples"])
    if counts["inputs"] and not sum(counts["completed"].values()):
        reasons = ", ".join(f"{number} x {reason}" for reason, number in counts["reasons"].items())
        message = f"nothing was completed: all {counts['inputs']} samples were rejected ({reasons})"
        raise InputError(message, file=Path(summary["quadruples"]).with_name("rejected.jsonl"))


def run_pair(config: PairConfig) -> None:
    from pairuni.data import pairing as stage

    summary = stage.run_pair(config)
    counts, similarity = summary["counts"], summary["similarity"]
    aligned = f"{counts['aligned_understanding']} understanding + {counts['aligned_generation']} generation"
    median = f", median similarity {similarity['0.5']:.2f}" if similarity else ""
    print(f"{counts['inputs']} quadruples -> aligned: {aligned}; retrieved: {counts['retrieved']}{median}")
    unmatched = f"{counts['unmatched_understanding']} understanding + {counts['unmatched_generation']} generation"
    print(f"unmatched: {unmatched}; duplicates left out: {counts['duplicates']}")
    for notice in summary["notices"]:
        print(f"note: {notice}")
    print(Path(config.output) / "pairs.jsonl")
