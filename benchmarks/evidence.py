"""Tables and figures of docs/evidence.md from the results that are committed: `make evidence`.

In results/, ablations/results.jsonl is what `pairuni analyse ablations` left and gradients/gradients.jsonl what
`pairuni analyse gradients` did. Each table stands in the page between a marker and its end, <!-- pairing --> and
<!-- /pairing -->.
"""

import sys
from pathlib import Path

import matplotlib

from pairuni.analysis.ablations.compare import Results, compared
from pairuni.analysis.ablations.figures import STYLE
from pairuni.analysis.ablations.results import read_results
from pairuni.analysis.ablations.suites import METHOD, SUITES
from pairuni.analysis.ablations.write import related, said_of, write_suite
from pairuni.analysis.gradient_summary import draw, summarise, table
from pairuni.errors import InputError
from pairuni.files import atomic_path, read_jsonl, read_text, write_text

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE, FIGURES = ROOT / "docs" / "evidence.md", ROOT / "docs" / "images" / "evidence"


def tables(figures: Path, results: Path = RESULTS) -> dict[str, str]:
    """Every table by its marker; figures are written into a folder.

    Raises:
        InputError: a file of results is missing or broken.
    """
    runs = read_results(results / "ablations" / "results.jsonl")
    found = {}
    for suite in SUITES:
        found[suite] = write_suite(suite, runs, figures)
        for text in (figures / f"{suite}.md", figures / f"{suite}.json"):
            text.unlink()  # the page has the one, results.jsonl all that is in the other
    found["gradients"] = _gradients(results / "gradients" / "gradients.jsonl", runs, figures)
    return found


def _gradients(file: Path, runs: Results, figures: Path) -> str:
    """The table of gradients over mixes, and what their agreement goes with."""
    summary = summarise([row for _, row in read_jsonl(file)], 0)
    with atomic_path(figures / "gradients.svg") as temporary, matplotlib.rc_context(STYLE):
        draw(summary).savefig(temporary, format="svg", metadata={"Date": None})
    rows = compared("pairing", runs)
    values = {}
    for mix, entry in summary["mixes"].items():
        arm = METHOD if mix == "pairs" else mix
        if entry["measured"]:
            seeds = next((row.seeds for row in rows if row.name == arm), ())
            values[arm] = dict.fromkeys(seeds, entry["cosine"]["all"]["value"])
    found = related(values, rows, runs, figures / "gradients_gain.svg", "cosine across the sides, before training")
    return table(summary) + "\n" + said_of(found, "the median cosine across the sides before training")


def spliced(page: str, parts: dict[str, str]) -> str:
    """The page with every part between its markers.

    Raises:
        InputError: a part has no place in the page, or a marker no end.
    """
    for name, text in parts.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, found, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise InputError(f"has no place between {begin.strip()} and {end}", file=PAGE)
        page = f"{before}{begin}\n{text.strip()}\n\n{end}{after}"
    return page


if __name__ == "__main__":
    try:
        write_text(PAGE, spliced(read_text(PAGE), tables(FIGURES)))
    except InputError as err:
        sys.exit(str(err))
    print(f"{PAGE.relative_to(ROOT)}, {FIGURES.relative_to(ROOT)}/")
