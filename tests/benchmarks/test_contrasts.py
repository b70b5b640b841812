"""Primary contrasts: the mean of benchmarks against plain means, what can be detected against drawing."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from contrasts import Contrasts, contrast, contrast_table, detectable, read_contrasts
from scipy import stats

from pairuni.errors import InputError
from pairuni.lab.ablations.results import Measured, Result

NAMES = ["greedy", "sampled", "images"]


def result(arm: str, seed: int, rng: np.random.Generator, shift: float = 0.0) -> Result:
    """Forty questions, asked twice, and seven prompts with points."""
    found: dict[str, Measured] = {}
    for name, n, items in (("greedy", 40, "q"), ("sampled", 40, "q"), ("images", 7, "p")):
        points = (rng.normal(size=n) + shift).tolist()
        found[name] = Measured(100 * float(np.mean(points)), "per cent", n, items, 100.0, {}, points=points)
    return Result(arm, seed, "x", found, {}, {}, {})


def study(shift: float = 0.0) -> dict[tuple[str, int], Result]:
    rng = np.random.default_rng(0)
    seeds = [(arm, seed) for arm in ("a", "b") for seed in range(6)]
    return {(arm, seed): result(arm, seed, rng, shift if arm == "a" else 0.0) for arm, seed in seeds}


def test_it_is_the_difference_of_the_mean_scores_seed_by_seed() -> None:
    results = study()
    found = contrast("a", "b", NAMES, results, 5)
    means = {key: np.mean([row.benchmarks[name].score for name in NAMES]) for key, row in results.items()}
    assert found is not None
    np.testing.assert_allclose(found.seeds, [means["a", seed] - means["b", seed] for seed in range(5)])
    np.testing.assert_allclose(found.mean, np.mean(found.seeds))
    assert found.low < found.mean < found.high
    del results["b", 2]
    again = contrast("a", "b", NAMES, results, 5)
    assert again is not None and len(again.seeds) == 4 and contrast("a", "c", NAMES, results, 5) is None


def test_what_cannot_be_compared_is_refused() -> None:
    results = study()
    key = ("a", 1)
    other = dataclasses.replace(results[key].benchmarks["images"], items="others")
    for entry, message in ((other, "different items"), (dataclasses.replace(other, factor=None), "no mean over items")):
        broken = dataclasses.replace(results[key], benchmarks=results[key].benchmarks | {"images": entry})
        with pytest.raises(InputError, match=message):
            contrast("a", "b", NAMES, results | {key: broken}, 5)


@pytest.mark.parametrize("S", [3, 10])
def test_what_is_detected_by_drawing(S: int) -> None:
    values_S = np.random.default_rng(1).normal(size=S)
    truth, deviation = detectable(values_S), values_S.std(ddof=1)
    drawn_KS = truth + deviation * np.random.default_rng(2).normal(size=(40_000, S))
    share = np.mean(stats.ttest_1samp(drawn_KS, 0, axis=1).pvalue < 0.05)
    assert share == pytest.approx(0.8, abs=0.01)


def test_the_table_has_what_was_planned_and_says_what_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "contrasts.yaml"
    text = "streams: 2\nseeds: 6\nbenchmarks: [greedy, sampled, images]\ncontrasts:\n"
    rows = "".join(
        f"  - {{label: a minus {other}, arm: a, minus: {other}, could_detect: 0.5}}\n" for other in ("b", "c")
    )
    file.write_text(text + rows)
    planned = read_contrasts(file)
    assert isinstance(planned, Contrasts) and [each.minus for each in planned.contrasts] == ["b", "c"]
    table = contrast_table(planned, study(2.0))
    assert "| a minus c | 0 of 6 | not measured yet |  | 0.50 |" in table
    assert "| a minus b | 6 of 6 | +2" in table and " | < 0.001 | 0.50 |" in table
    for line, message in (("seeds: six\n", "seeds"), ("seeds: 6\nmore: 1\n", "more"), ("a: [\n", "cannot be read")):
        file.write_text(text.replace("seeds: 6\n", line) + rows)
        with pytest.raises(InputError, match=message):
            read_contrasts(file)
