"""`pairuni export WHAT`: pairs in the forms that other programs read."""

from pairuni.cli.options import parse_config, with_words
from pairuni.cli.parts import run_part
from pairuni.config import HfDatasetConfig

PARTS = {
    "hf-dataset": ("pairuni.cli.export:hf_dataset", "PAIRS.jsonl -> a folder for datasets.load_dataset and the Hub")
}


def export(arguments: list[str]) -> int:
    return run_part("export", PARTS, arguments)


def hf_dataset(arguments: list[str]) -> int:
    config = parse_config(HfDatasetConfig, with_words(arguments, "pairs", ("language",)), "export hf-dataset")
    from pairuni.export.hf_dataset import write_hf_dataset

    summary = write_hf_dataset(config)
    files, size = summary["files"], summary["bytes"] / 1e6
    print(f"{summary['pairs']:,} pairs in {files} parquet file{'s' * (files != 1)}, {size:,.1f} MB")
    for note in summary["notes"]:
        print(f"note: {note}")
    print(config.output)
    return 0
