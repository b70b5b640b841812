"""docs/evidence.md says what the committed results say, and `make evidence` can say it again."""

import re
import shutil
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from pairuni.analysis.ablations.plan import BEFORE
from pairuni.analysis.ablations.results import read_results
from pairuni.analysis.ablations.suites import SUITES
from pairuni.cli.main import main
from pairuni.errors import InputError


def load(path: Path) -> Any:
    """A script as a module; benchmarks/ is no package."""
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


evidence = load(Path(__file__).parents[2] / "benchmarks" / "evidence.py")
RUNS = read_results(evidence.RESULTS / "ablations" / "results.jsonl")


def test_the_page_has_the_tables_of_the_results(tmp_path: Path) -> None:
    page = evidence.PAGE.read_text(encoding="utf-8")
    assert evidence.spliced(page, evidence.tables(tmp_path)) == page
    shown = set(re.findall(r"\]\(images/evidence/([\w.]+)\)", page))
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in evidence.FIGURES.iterdir()} == shown


def test_results_are_of_enough_items_and_the_same_ones() -> None:
    entries = [result.benchmarks for result in RUNS.values()]
    for name, least in (("shapes_understanding", 2000), ("shapes_generation", 1000)):
        assert all(found[name].n >= least for found in entries)
        assert len({found[name].items for found in entries}) == 1
    for result in RUNS.values():
        for measured in result.benchmarks.values():
            assert measured.score == pytest.approx(100 * measured.scores_N().mean(), abs=1e-3)


def test_suites_have_the_seeds_that_were_planned() -> None:
    for suite, comparison in SUITES.items():
        for arm in comparison.arms:
            seeds = {seed for name, seed in RUNS if name == arm.name}
            assert seeds >= set(range(evidence.PLANNED[suite])) or arm.data == "real", (suite, arm.name, seeds)
    assert evidence.PLANNED["pairing"] == 5 and min(evidence.PLANNED.values()) == 3
    assert (BEFORE, 0) in RUNS


def test_the_command_takes_them_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever has them need not run them again: neither the demo's config nor the code has moved on without them."""
    shutil.copy(evidence.RESULTS / "ablations" / "results.jsonl", tmp_path)
    assert (
        main(["analyse", "ablations", "--suite", *SUITES, "--seeds", "3", "--dry_run", "--output", str(tmp_path)]) == 0
    )
    assert capsys.readouterr().out.endswith("nothing is missing\n")


def test_later_seeds_stand_apart(tmp_path: Path) -> None:
    found = evidence.tables(tmp_path)
    for marker, arms, seeds in (
        ("pairing", 10, "5"),
        ("pairing_again", 4, "5"),
        ("pairing_all", 4, "10"),
        ("extractor", 2, None),
        ("extractor_again", 2, "7"),
    ):
        rows = [line.split(" | ")[1] for line in found[marker].splitlines() if re.match(r"\| \w", line)]
        assert rows == ["1", *([seeds] * arms if seeds else ["5", "3"])], marker


def test_a_page_without_a_place_is_refused() -> None:
    for page in ("nothing", "<!-- one -->\n and no end"):
        with pytest.raises(InputError, match="has no place between <!-- one -->"):
            evidence.spliced(page, {"one": "text"})
    page = "a\n<!-- one -->\nold\n<!-- /one -->\nb\n"
    assert evidence.spliced(page, {"one": "new\n"}) == "a\n<!-- one -->\n\nnew\n\n<!-- /one -->\nb\n"
