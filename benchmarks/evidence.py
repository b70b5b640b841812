"""Tables and figures of docs/evidence.md from the results that are committed: `make evidence`.

In results/, ablations/results.jsonl is what `pairuni analyse ablations` left and gradients/gradients.jsonl what
`pairuni analyse gradients` did. Each table stands in the page between a marker and its end, <!-- pairing --> and
<!-- /pairing -->.
"""

import sys
from pathlib import Path

import matplotlib

from pairuni.analysis.ablations.compare import Results, compared
from pairuni.analysis.ablations.plan import BEFORE
from pairuni.analysis.ablations.results import read_results
from pairuni.analysis.ablations.suites import METHOD, SUITES
from pairuni.analysis.ablations.tables import table as suite_table
from pairuni.analysis.ablations.write import related, said_of, write_suite
from pairuni.analysis.gradient_summary import draw, summarise, table
from pairuni.chart_style import STYLE
from pairuni.config import Suite
from pairuni.errors import InputError
from pairuni.files import atomic_path, read_jsonl, read_text, write_text

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PLANNED = {suite: 5 if suite == "pairing" else 3 for suite in SUITES}
"""Seeds that were to be run before any result was seen. Later ones test what these suggest, in tables of their own."""
PAGE, FIGURES = ROOT / "docs" / "evidence.md", ROOT / "docs" / "images" / "evidence"


def tables(figures: Path, results: Path = RESULTS) -> dict[str, str]:
    """Every table by its marker; figures are written into a folder.

    Raises:
        InputError: a file of results is missing or broken.
    """
    every = read_results(results / "ablations" / "results.jsonl")
    if not every:
        raise InputError("has no results", file=results / "ablations" / "results.jsonl")
    planned = {arm.name: PLANNED[suite] for suite in reversed(SUITES) for arm in SUITES[suite].arms}
    runs = {(arm, seed): result for (arm, seed), result in every.items() if seed < planned.get(arm, 1)}
    found = {}
    for suite in SUITES:
        found[suite] = write_suite(suite, runs, figures)
        for text in (figures / f"{suite}.md", figures / f"{suite}.json"):
            text.unlink()  # the page has the one, results.jsonl all that is in the other
    found["pairing_again"], found["extractor_again"] = _again("pairing", every), _again("extractor", every)
    found["pairing_all"] = _again("pairing", every, first=0)
    found["gradients"] = _gradients(results / "gradients" / "gradients.jsonl", runs, figures)
    return found


def _again(suite: Suite, every: Results, first: int | None = None) -> str:
    """The table of those arms of a suite that have seeds beyond the planned ones, of seeds from `first` (these) on."""
    beyond = {arm for arm, seed in every if seed >= PLANNED[suite]}
    least = PLANNED[suite] if first is None else first
    kept = {key: result for key, result in every.items() if (key[0] in beyond and key[1] >= least) or key[0] == BEFORE}
    return suite_table(suite, compared(suite, kept))


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
