"""`pairuni export SUBCOMMAND`: pairs in the formats of other programs."""

from typing import Any

from pairuni.cli.options import parse_config, run_part, with_first
from pairuni.config import HfDatasetConfig, UnirlConfig, VerlOmniConfig

PARTS = {
    "hf-dataset": ("pairuni.cli.export:hf_dataset", "PAIRS.jsonl -> a folder for datasets.load_dataset and the Hub"),
    "verl-omni": ("pairuni.cli.export:verl_omni", "PAIRS.jsonl -> pairs and weights as parquet for verl-omni"),
    "unirl": ("pairuni.cli.export:unirl", "PAIRS.jsonl -> pairs and weights as JSON Lines for UniRL"),
}


def export(arguments: list[str]) -> int:
    return run_part("export", PARTS, arguments)


def hf_dataset(arguments: list[str]) -> int:
    config = parse_config(HfDatasetConfig, with_first(arguments, "pairs"), "export hf-dataset")
    from pairuni.export.hf_dataset import write_hf_dataset

    summary = write_hf_dataset(config)
    files, size = summary["files"], summary["bytes"] / 1e6
    print(f"{summary['pairs']:,} pairs in {files} parquet file{'s' * (files != 1)}, {size:,.1f} MB")
    return _end(summary, config.output)


def verl_omni(arguments: list[str]) -> int:
    config = parse_config(VerlOmniConfig, with_first(arguments, "pairs"), "export verl-omni")
    from pairuni.export.verl_omni import write_verl_omni

    return _end(write_verl_omni(config), config.output)


def unirl(arguments: list[str]) -> int:
    config = parse_config(UnirlConfig, with_first(arguments, "pairs"), "export unirl")
    from pairuni.export.unirl import write_unirl

    return _end(write_unirl(config), config.output)


def _end(summary: dict[str, Any], output: str) -> int:
    if "weights" in summary:
        aligned, weights, size = summary["kinds"]["aligned"], summary["weights"], summary["bytes"] / 1e6
        print(f"{summary['pairs']:,} pairs ({aligned:,} aligned), one row per side, {size:,.1f} MB")
        scale = f"{weights['min']:.3f} to {weights['max']:.3f}, mean {weights['mean']:.3f}"
        print(f"weights ({summary['weighting']}): {scale}; the trainer needs a hook to apply them (docs/exporters.md)")
    for note in summary["notes"]:
        print(f"note: {note}")
    print(output)
    return 0
