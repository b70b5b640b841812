"""Tables and figures of docs/evidence.md from the results that are committed: `make evidence`.

In results/, ablations/results.jsonl is what `pairuni analyse ablations` left, ablations/contrasts.yaml what was to be
compared, and gradients/gradients.jsonl what `pairuni analyse gradients` left; gradients_v1.jsonl is of version 1 of the
random streams. The files named unsound_v1.jsonl are read by no table. Each table stands in the page between a marker
and its end, <!-- pairing --> and <!-- /pairing -->, its figures below it.
"""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from contrasts import contrast_table, read_contrasts

from pairuni.config import Suite
from pairuni.errors import InputError
from pairuni.files import read_jsonl, read_text, write_text
from pairuni.lab.ablations.compare import Results, compared
from pairuni.lab.ablations.results import by_streams, read_results
from pairuni.lab.ablations.schedule import BEFORE
from pairuni.lab.ablations.suites import METHOD, SUITES
from pairuni.lab.ablations.write import related, said_of, write_suite
from pairuni.lab.ablations.write import table as suite_table
from pairuni.lab.gradient_agreement import draw, summarise, table
from pairuni.streams import VERSION

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PLANNED = {suite: 5 if suite == "pairing" else 3 for suite in SUITES}
"""Of version 1, seeds that were to be run before any result was seen. Later ones test what these suggest, in tables of
their own."""
NOW: tuple[Suite, ...] = ("matching", "room")
"""Suites that version 1 says nothing of: their random pairs were none."""
PAGE, FIGURES = ROOT / "docs" / "evidence.md", ROOT / "docs" / "images" / "evidence"


def tables(figures: Path, results: Path = RESULTS) -> dict[str, str]:
    """Every table by its marker; figures are written into a folder.

    Raises:
        InputError: a file of results is missing or broken.
    """
    views = by_streams(read_results(results / "ablations" / "results.jsonl"))
    if not any(views.values()):
        raise InputError("has no results", file=results / "ablations" / "results.jsonl")
    planned = {arm.name: PLANNED[suite] for suite in reversed(SUITES) for arm in SUITES[suite].arms}
    first = {(arm, seed): result for (arm, seed), result in views[1].items() if seed < planned.get(arm, 1)}
    found = {"primary": contrast_table(read_contrasts(results / "ablations" / "contrasts.yaml"), views[VERSION])}
    for suite in SUITES:
        found[suite] = write_suite(suite, {VERSION: views[VERSION]} | ({} if suite in NOW else {1: first}), figures)
        for text in (figures / f"{suite}.md", figures / f"{suite}.json"):
            text.unlink()  # the page has the one, results.jsonl all that is in the other
        found[suite] += "".join(_shown(figures, suite))
    found["extractor_again"] = _again("extractor", views[1])
    found["gradients"] = _gradients(results / "gradients" / "gradients.jsonl", figures, VERSION)
    found["gradients_1"] = _gradients(results / "gradients" / "gradients_v1.jsonl", figures, 1, first)
    return found


def _shown(figures: Path, suite: Suite) -> Iterator[str]:
    """Markdown of a suite's figures."""
    about = {"": "Differences by arm", "cosine": "Gain of each arm over the cosine while training"}
    about["curve"] = "Pairs above random pairs, by world"
    for path in sorted(figures.glob(f"{suite}*.svg")):
        kind, _, version = path.stem.removeprefix(suite).strip("_").partition("streams_")
        streams = f" (streams of version {version})" if version else ""
        yield f"\n![{about[kind.strip('_')]}{streams}](images/evidence/{path.name})\n"


def _again(suite: Suite, every: Results) -> str:
    """The table of version 1 of those arms of a suite that have seeds beyond the planned ones, of these seeds alone."""
    beyond = {arm for arm, seed in every if seed >= PLANNED[suite]}
    kept = {
        (arm, seed): result
        for (arm, seed), result in every.items()
        if (arm in beyond and seed >= PLANNED[suite]) or arm == BEFORE
    }
    return suite_table(suite, compared(suite, kept), 1)


def _gradients(file: Path, figures: Path, streams: int, runs: Results | None = None) -> str:
    """The table of gradients over mixes; with runs, what their agreement goes with."""
    text = f"Random streams: version {streams}."
    if not file.exists():
        return f"{text} Not measured yet.\n"
    summary, tail = summarise([row for _, row in read_jsonl(file)], 0), "" if streams == VERSION else "_streams_1"
    draw(summary, figures / f"gradients{tail}.svg")
    text += f"\n\n{table(summary)}\n"
    shown = f"\n![Cosines of gradients by mix and by layer](images/evidence/gradients{tail}.svg)\n"
    if runs is None:
        return text + shown
    rows, values = compared("pairing", runs), {}
    for mix, entry in summary["mixes"].items():
        arm = METHOD if mix == "pairs" else mix
        if entry["measured"]:
            seeds = next((row.seeds for row in rows if row.name == arm), ())
            values[arm] = dict.fromkeys(seeds, entry["cosine"]["all"]["value"])
    found = related(values, rows, runs, figures / "gradients_gain.svg", "cosine across the sides, before training")
    gain = "\n![Gain of each arm over its mix' cosine before training](images/evidence/gradients_gain.svg)\n"
    return text + said_of(found, "the median cosine across the sides before training") + shown + gain


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


def main() -> None:
    """Writes the page, and the figures of now in the place of all that were there."""
    with TemporaryDirectory() as folder:
        write_text(PAGE, spliced(read_text(PAGE), tables(Path(folder))))
        shutil.rmtree(FIGURES, ignore_errors=True)
        shutil.copytree(folder, FIGURES)


if __name__ == "__main__":
    try:
        main()
    except InputError as err:
        sys.exit(str(err))
    print(f"{PAGE.relative_to(ROOT)}, {FIGURES.relative_to(ROOT)}/")
