"""`pairuni analyse WHAT`: pages and tables about data and runs, for people."""

from typing import Any

from pairuni.cli.options import parse_config, with_words
from pairuni.cli.parts import run_part
from pairuni.config import GalleryConfig

PARTS = {
    "pairs": ("pairuni.cli.analyse:pairs", "PAIRS.jsonl -> one HTML page to look through, with what was left over")
}


def analyse(arguments: list[str]) -> int:
    return run_part("analyse", PARTS, arguments)


def pairs(arguments: list[str]) -> int:
    config = parse_config(GalleryConfig, with_words(arguments, "pairs", ("rejected",)), "analyse pairs")
    from pairuni.analysis.gallery import write_gallery

    summary = write_gallery(config)
    print("; ".join(f"{name}: {_said(counts)}" for name, counts in summary["sections"].items()))
    for note in summary["notes"]:
        print(f"note: {note}")
    print(summary["page"])
    return 0


def _said(counts: dict[str, Any]) -> str:
    total, shown = counts["total"], counts["shown"]
    return f"{total:,}" if shown == total else f"{shown:,} of {total:,}"
