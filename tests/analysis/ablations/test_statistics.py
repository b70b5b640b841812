"""Intervals over seeds and items against simulation, closed cases and scipy; adjustment and correlation by hand."""

import numpy as np
import pytest
from scipy import stats

from pairuni.analysis.ablations.statistics import adjusted, correlation, crossed, over_seeds


def drawn(rng: np.random.Generator, size: tuple[int, int], deviations: tuple[float, float, float]) -> np.ndarray:
    """Scores with mean 0: a part of the seed, a part of the item, the rest."""
    (S, N), (of_seed, of_item, rest) = size, deviations
    parts = rng.normal(0, of_seed, (S, 1)), rng.normal(0, of_item, (1, N)), rng.normal(0, rest, (S, N))
    return parts[0] + parts[1] + parts[2]


@pytest.mark.parametrize("deviations", [(0.3, 0.0, 1.0), (0.0, 1.0, 0.5), (0.1, 1.0, 1.0), (0.0, 0.0, 1.0)])
def test_the_interval_covers_the_truth_as_often_as_it_says(deviations: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(0)
    found = [crossed(drawn(rng, (5, 60), deviations)) for _ in range(1500)]
    covered = np.mean([e.low <= 0 <= e.high for e in found])
    # Never clearly too narrow. Where a variance is 0 it may be too wide: it counts the larger margin.
    assert covered >= 0.935
    assert np.mean([e.p < 0.05 for e in found]) == pytest.approx(1 - covered)


def test_an_interval_over_items_alone_or_over_seeds_alone_would_be_too_narrow() -> None:
    """What `crossed` is for: with both kinds of variance, each margin alone misses the truth too often."""
    rng, missed = np.random.default_rng(1), np.zeros(2)
    for _ in range(600):
        values_SN = drawn(rng, (5, 60), (0.3, 2.0, 0.5))
        for k, margin in enumerate((values_SN.mean(0), values_SN.mean(1))):
            half = stats.t.ppf(0.975, len(margin) - 1) * margin.std(ddof=1) / np.sqrt(len(margin))
            missed[k] += abs(margin.mean()) > half
    assert (missed / 600 > 0.08).all()


def test_the_variance_is_that_of_the_analysis_of_variance() -> None:
    rng = np.random.default_rng(2)
    values_SN = drawn(rng, (4, 30), (1.0, 1.0, 1.0))
    S, N = values_SN.shape
    of_seeds = N * values_SN.mean(1).var(ddof=1)
    of_items = S * values_SN.mean(0).var(ddof=1)
    total = ((values_SN - values_SN.mean()) ** 2).sum()
    rest = (total - of_seeds * (S - 1) - of_items * (N - 1)) / ((S - 1) * (N - 1))
    combined = of_seeds + of_items - rest
    df = combined**2 / (of_seeds**2 / (S - 1) + of_items**2 / (N - 1) + rest**2 / ((S - 1) * (N - 1)))
    half = stats.t.ppf(0.975, df) * np.sqrt(combined / (S * N))
    found = crossed(values_SN)
    np.testing.assert_allclose([found.mean, found.high - found.mean], [values_SN.mean(), half])
    np.testing.assert_allclose(found.seeds, values_SN.mean(1))


def test_one_seed_leaves_the_items_and_equal_items_leave_the_seeds() -> None:
    one = np.random.default_rng(3).normal(size=(1, 50))
    found, known = crossed(one), stats.ttest_1samp(one[0], 0)
    np.testing.assert_allclose((found.low, found.high, found.p), (*known.confidence_interval(), known.pvalue))
    seeds_S = np.array([1.0, 2.0, 4.0])
    found, known = crossed(np.repeat(seeds_S[:, None], 7, 1)), stats.ttest_1samp(seeds_S, 0)
    np.testing.assert_allclose((found.low, found.high, found.p), (*known.confidence_interval(), known.pvalue))
    found = over_seeds(seeds_S)
    np.testing.assert_allclose((found.low, found.high, found.p), (*known.confidence_interval(), known.pvalue))


def test_no_difference_at_all_and_one_seed_alone() -> None:
    none = crossed(np.zeros((3, 5)))
    assert (none.mean, none.low, none.high, none.p, none.clear) == (0, 0, 0, 1, False)
    assert crossed(np.ones((3, 5))).p == 0
    assert not over_seeds(np.array([2.0])).clear
    for shape in ((0, 5), (3, 1)):
        with pytest.raises(ValueError, match="two items"):
            crossed(np.zeros(shape))


def test_adjustment_by_hand() -> None:
    # Sorted: 0.01 * 4 / 1, 0.02 * 4 / 2, 0.03 * 4 / 3, 0.5; each at most the one after it.
    np.testing.assert_allclose(adjusted([0.5, 0.01, 0.03, 0.02]), [0.5, 0.04, 0.04, 0.04])
    assert adjusted([]) == []


def test_the_correlations_interval_holds_the_truth_and_widens_with_noise() -> None:
    rng = np.random.default_rng(4)
    x_GS = rng.normal(size=(8, 1)) + rng.normal(0, 0.01, (8, 5))
    close = correlation(x_GS, 2 * x_GS + rng.normal(0, 0.1, (8, 5)))
    apart_GS = rng.normal(size=(8, 5))
    noise = correlation(x_GS, apart_GS)
    assert close.low > 0.9 and close.p < 0.01
    assert noise.low < 0 < noise.high and noise.p > 0.05
    np.testing.assert_allclose(noise.mean, stats.pearsonr(x_GS.mean(1), apart_GS.mean(1)).statistic)
    for x, message in ((x_GS[:2], "three groups"), (np.ones((8, 5)), "the same everywhere")):
        with pytest.raises(ValueError, match=message):
            correlation(x, x)
