"""Intervals over seeds and items against simulation, closed cases and scipy; adjustment and correlation by hand."""

import numpy as np
import pytest
from scipy import stats

from pairuni.lab.ablations.intervals import adjusted, correlation, crossed, over_seeds


def drawn(rng: np.random.Generator, size: tuple[int, int], deviations: tuple[float, float, float]) -> np.ndarray:
    """Scores with mean 0: a part of the seed, a part of the item, the rest."""
    (S, N), (of_seed, of_item, rest) = size, deviations
    parts = rng.normal(0, of_seed, (S, 1)), rng.normal(0, of_item, (1, N)), rng.normal(0, rest, (S, N))
    return parts[0] + parts[1] + parts[2]


@pytest.mark.parametrize("S", [2, 3, 5])
@pytest.mark.parametrize("deviations", [(0.3, 0.0, 1.0), (0.0, 1.0, 0.5), (0.1, 1.0, 1.0), (0.0, 0.0, 1.0)])
def test_the_interval_covers_the_truth_as_often_as_it_says(S: int, deviations: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(0)
    found = [crossed(drawn(rng, (S, 60), deviations)) for _ in range(1000)]
    covered = np.mean([e.low <= 0 <= e.high for e in found])
    # Never clearly too narrow, nor p too small. Both may be too wide: few seeds tell little about their variance.
    assert covered >= 0.932
    p = np.array([e.p for e in found])
    assert np.mean(p < 0.05) == pytest.approx(1 - covered) and np.mean(p < 0.01) <= 0.02 and np.mean(p < 0.001) <= 0.005


def test_satterthwaites_degrees_of_freedom_would_not_do() -> None:
    """Three seeds whose variance matters: where it comes out small by luck, the degrees of freedom are the items'."""
    rng, missed = np.random.default_rng(1), np.zeros(2)
    for _ in range(2000):
        values_SN = drawn(rng, (3, 60), (0.26, 0.0, 1.0))
        variance, df = satterthwaite(values_SN)
        missed += [2 * stats.t.sf(abs(values_SN.mean()) / variance**0.5, df) < 0.01, crossed(values_SN).p < 0.01]
    assert missed[0] / 2000 > 0.025 and missed[1] / 2000 < 0.015


def test_an_interval_over_items_alone_or_over_seeds_alone_would_be_too_narrow() -> None:
    """What `crossed` is for: with both kinds of variance, each margin alone misses the truth too often."""
    rng, missed = np.random.default_rng(1), np.zeros(2)
    for _ in range(600):
        values_SN = drawn(rng, (5, 60), (0.3, 2.0, 0.5))
        for k, margin in enumerate((values_SN.mean(0), values_SN.mean(1))):
            half = stats.t.ppf(0.975, len(margin) - 1) * margin.std(ddof=1) / np.sqrt(len(margin))
            missed[k] += abs(margin.mean()) > half
    assert (missed / 600 > 0.08).all()


def squares(values_SN: np.ndarray) -> tuple[float, float, float]:
    """Sums of squares of seeds, items and the rest."""
    S, N = values_SN.shape
    of_seeds, of_items = N * values_SN.mean(1).var() * S, S * values_SN.mean(0).var() * N
    return of_seeds, of_items, values_SN.var() * S * N - of_seeds - of_items


def satterthwaite(values_SN: np.ndarray) -> tuple[float, float]:
    """Variance of the mean and its degrees of freedom; a margin whose own variance is negative counts as 0."""
    S, N = values_SN.shape
    degrees = S - 1, N - 1, (S - 1) * (N - 1)
    s, i, r = (square / df for square, df in zip(squares(values_SN), degrees, strict=True))
    total = s + i - r
    if total < max(s, i):
        return max(s, i) / (S * N), S - 1 if s > i else N - 1
    return total / (S * N), total**2 / (s**2 / degrees[0] + i**2 / degrees[1] + r**2 / degrees[2])


@pytest.mark.parametrize("size", [(2, 60), (3, 40), (5, 400), (4, 3)])
def test_it_is_the_mean_over_variances_that_are_possible(size: tuple[int, int]) -> None:
    """Against plain drawing: a variance from the sums of squares over chi-squares, then a mean with it."""
    S, N = size
    values_SN = 0.3 + drawn(np.random.default_rng(2), size, (0.3, 1.0, 1.0))
    rng, K = np.random.default_rng(3), 400_000
    of_seeds, of_items, rest = squares(values_SN)
    chi = [rng.chisquare(df, K) for df in (S - 1, N - 1, (S - 1) * (N - 1))]
    of_rest_K = rest / chi[2]
    own_K = [
        np.maximum(square / chi_K - of_rest_K, 0) for square, chi_K in zip((of_seeds, of_items), chi, strict=False)
    ]
    variance_K = (own_K[0] + own_K[1] + of_rest_K) / (S * N)
    away_K = np.abs(rng.normal(size=K)) * np.sqrt(variance_K)
    found = crossed(values_SN)
    np.testing.assert_allclose(found.high - found.mean, np.quantile(away_K, 0.95), rtol=0.02)
    np.testing.assert_allclose(found.mean - found.low, found.high - found.mean)
    np.testing.assert_allclose(found.p, np.mean(away_K > abs(values_SN.mean())), rtol=0.02)
    np.testing.assert_allclose((found.mean, *found.seeds), (values_SN.mean(), *values_SN.mean(1)))


def test_one_seed_leaves_the_items_and_equal_items_leave_the_seeds() -> None:
    one = np.random.default_rng(3).normal(size=(1, 50))
    found, known = crossed(one), stats.ttest_1samp(one[0], 0)
    np.testing.assert_allclose((found.low, found.high, found.p), (*known.confidence_interval(), known.pvalue))
    seeds_S = np.array([1.0, 2.0, 4.0])
    found, known = crossed(np.repeat(seeds_S[:, None], 7, 1)), stats.ttest_1samp(seeds_S, 0)
    np.testing.assert_allclose(
        (found.low, found.high, found.p), (*known.confidence_interval(), known.pvalue), rtol=1e-4
    )
    np.testing.assert_allclose(crossed(seeds_S[:, None]).high, known.confidence_interval().high)
    found = over_seeds(seeds_S)
    np.testing.assert_allclose((found.low, found.high, found.p), (*known.confidence_interval(), known.pvalue))


def test_no_difference_at_all_and_one_seed_alone() -> None:
    none = crossed(np.zeros((3, 5)))
    assert (none.mean, none.low, none.high, none.p, none.clear) == (0, 0, 0, 1, False)
    assert crossed(np.ones((3, 5))).p == 0
    assert not over_seeds(np.array([2.0])).clear and not crossed(np.array([[2.0]])).clear
    for shape in ((0, 5), (3, 0)):
        with pytest.raises(ValueError, match="a seed and an item"):
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
    for x, message in ((x_GS[:2], "three groups"), (np.ones((8, 5)), "the same in all groups")):
        with pytest.raises(ValueError, match=message):
            correlation(x, x)
