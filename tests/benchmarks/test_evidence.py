"""docs/evidence.md says what the committed results say, and `make evidence` can say it again."""

import re
import shutil
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from contrasts import detectable

from pairuni.cli.main import main
from pairuni.errors import InputError
from pairuni.files import read_jsonl
from pairuni.lab.ablations.results import read_results
from pairuni.lab.ablations.schedule import BEFORE
from pairuni.lab.ablations.suites import ARMS, METHOD, SUITES
from pairuni.streams import VERSION


def load(path: Path) -> Any:
    """A script as a module; benchmarks/ is no package."""
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


evidence = load(Path(__file__).parents[2] / "benchmarks" / "evidence.py")
RUNS = read_results(evidence.RESULTS / "ablations" / "results.jsonl")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], Path]:
    """The tables by name, and the folder with the figures."""
    folder = tmp_path_factory.mktemp("figures")
    return evidence.tables(folder), folder


def test_the_page_has_the_tables_of_the_results(written: tuple[dict[str, str], Path]) -> None:
    tables, figures = written
    page = evidence.PAGE.read_text(encoding="utf-8")
    assert evidence.spliced(page, tables) == page
    shown = set(re.findall(r"\]\(images/evidence/([\w.]+)\)", page))
    assert {path.name for path in figures.iterdir()} == {path.name for path in evidence.FIGURES.iterdir()} == shown


def test_results_are_of_enough_items_and_the_same_ones() -> None:
    entries = [result.benchmarks for result in RUNS.values()]
    for name, least in (("shapes_understanding", 2000), ("shapes_generation", 1000)):
        assert all(found[name].n >= least for found in entries)
        assert len({found[name].items for found in entries}) == 1
    for result in RUNS.values():
        for measured in result.benchmarks.values():
            assert measured.score == pytest.approx(100 * measured.scores_N().mean(), abs=1e-3)


def test_sound_arms_have_the_seeds_that_were_planned() -> None:
    for suite, comparison in SUITES.items():
        for arm in comparison.arms:
            seeds = {seed for name, seed, version in RUNS if name == arm.name and version == 1}
            assert seeds >= set(range(evidence.PLANNED[suite])) or arm.data == "real" or not arm.sound(1), arm.name
    assert evidence.PLANNED["pairing"] == 5 and min(evidence.PLANNED.values()) == 3
    assert (BEFORE, 0, 1) in RUNS


def test_unsound_results_are_kept_where_no_table_reads_them() -> None:
    apart = read_results(evidence.RESULTS / "ablations" / "unsound_v1.jsonl")
    assert all(result.sound for result in RUNS.values()) and not any(result.sound for result in apart.values())
    modes = {"random_pairs", "unpaired", "vanilla"}
    unsound = {arm.name for arm in ARMS.values() if arm.train.get("pair_selection.mode") in modes}
    assert {arm for arm, _, _ in apart} == unsound and len(apart) == 48
    mixes = {row["mix"] for _, row in read_jsonl(evidence.RESULTS / "gradients" / "gradients_v1.jsonl")}
    assert mixes == {"pairs", "aligned_only", "retrieved_only", "from_understanding", "from_generation"}


MEASURED_AGAIN = [
    (["pairing", "--arms", "random_pairs", "unpaired", "vanilla"], {METHOD, "random_pairs", "unpaired", "vanilla"}, 10),
    (["matching", "room"], {arm.name for suite in ("matching", "room") for arm in SUITES[suite].arms}, 3),
    (["weighting", "threshold", "selection", "extractor", "rewards"], set[str](), 3),
]


@pytest.mark.parametrize(("options", "arms", "seeds"), MEASURED_AGAIN)
def test_the_command_takes_them_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], arms: set[str], seeds: int
) -> None:
    """Whoever has them need not run them again: neither the demo's config nor the code has moved on without them.

    What was never measured with sound streams is missing, until it is there.
    """
    shutil.copy(evidence.RESULTS / "ablations" / "results.jsonl", tmp_path)
    arguments = ["analyse", "ablations", "--suite", *options, "--seeds", str(seeds), "--dry_run"]
    assert main([*arguments, "--output", str(tmp_path)]) == 0
    said = capsys.readouterr().out.splitlines()[1:]
    wanted = {(arm, str(seed)) for arm in arms for seed in range(seeds) if (arm, seed, VERSION) not in RUNS}
    if not wanted:
        assert said == ["nothing is missing"]
        return
    assert said[0].startswith(f"missing: {len(wanted)} runs ({len(wanted)} trainings, ")
    listed = [part.split(": ") for part in said[1].removeprefix("by arm, with seeds: ").split("; ")]
    assert {(arm, seed) for arm, own in listed for seed in own.split()} == wanted


def test_tables_compare_what_has_the_same_streams(written: tuple[dict[str, str], Path]) -> None:
    found, _ = written
    assert found["primary"].count("pairs minus ") == 3
    for suite in SUITES:
        for part in re.split(r"(?m)^(?=\*\*)", found[suite])[1:]:
            version = int(re.findall("Random streams: version ([0-9])", part)[0])
            labels = {line.split(" | ")[0].removeprefix("| ") for line in part.splitlines() if re.match(r"\| \w", line)}
            arms = {arm.label for arm in SUITES[suite].arms if any((arm.name, n, version) in RUNS for n in range(10))}
            assert labels <= arms | {"before training", *(label.partition(":")[0] for label in arms)}, (suite, version)
            assert version == VERSION or suite not in evidence.NOW
    rows = [line.split(" | ")[1] for line in found["extractor_again"].splitlines() if re.match(r"\| \w", line)]
    assert rows == ["1", "7", "7"]


def test_what_the_contrasts_could_detect_is_computed_from_earlier_seeds() -> None:
    contrasts = load(Path(evidence.__file__).with_name("contrasts.py"))
    assert {arm.minus for arm in contrasts.PLANNED.contrasts} == {"random_pairs", "unpaired", "vanilla"}
    for each in contrasts.PLANNED.contrasts:
        values_S = contrasts.differences()[each.label]
        assert len(values_S) == 10 and each.could_detect == round(detectable(values_S), 2)


def test_a_page_without_a_place_is_refused() -> None:
    for page in ("nothing", "<!-- one -->\n and no end"):
        with pytest.raises(InputError, match="has no place between <!-- one -->"):
            evidence.spliced(page, {"one": "text"})
    page = "a\n<!-- one -->\nold\n<!-- /one -->\nb\n"
    assert evidence.spliced(page, {"one": "new\n"}) == "a\n<!-- one -->\n\nnew\n\n<!-- /one -->\nb\n"
