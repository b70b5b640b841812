"""Means, intervals and tests over seeds and items. Numbers in, numbers out.

Scores form a table, seeds by items, because every run answers the same items. Another study would draw other seeds and
other items, so both count as random (a crossed design). An interval over seeds alone would hold for these items only,
an interval over items alone for these seeds only.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import optimize, special, stats

from pairuni.streams import Stream, generator

LEVEL = 0.95
_DRAWS = 10_000
_POINTS = 4096


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval; p is two-sided, against a mean of 0."""

    mean: float
    low: float
    high: float
    p: float
    seeds: tuple[float, ...] = ()
    """The mean of each seed."""

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def crossed(values_SN: np.ndarray) -> Estimate:
    """The mean over seeds and items, both random; over items alone with one seed, over seeds alone with one item.

    Its variance is (MS_seeds + MS_items - MS_rest) / (seeds * items), from an analysis of variance without replication.
    MS_seeds and MS_items are raised to MS_rest if they are below it, because no part of the variance is negative. Few
    seeds determine their variance poorly, so interval and p are generalised (Weerahandi 1993): they average over all
    variances that the sums of squares allow, that is, the sums divided by chi-squares. If only one margin varies, they
    equal Student's. In simulations they keep 5 %, 1 % and 0.1 % from two seeds on; Satterthwaite's degrees of freedom
    give up to 14, 10 and 8 % with two seeds and 8, 5 and 3 % with three.

    Args:
        values_SN: scores, or differences of two arms' scores, [seeds, items].

    Raises:
        ValueError: there is no seed or no item.
    """
    S, N = values_SN.shape
    if not S or not N:
        raise ValueError(f"needs a seed and an item, not {S} and {N}")
    mean = float(values_SN.mean())
    seeds = tuple(values_SN.mean(1).tolist())
    if min(S, N) == 1:
        values = values_SN.ravel()
        if len(values) == 1:
            return Estimate(mean, -math.inf, math.inf, 1.0, seeds)
        return _student(mean, float(values.var(ddof=1)) / len(values), len(values) - 1, seeds)
    items_N, seeds_S = values_SN.mean(0) - mean, values_SN.mean(1) - mean
    rest_SN = values_SN - mean - seeds_S[:, None] - items_N
    squares = N * (seeds_S**2).sum(), S * (items_N**2).sum(), (rest_SN**2).sum()
    if not any(squares):
        return _student(mean, 0.0, 1, seeds)
    of_seeds_K, of_items_K, rest_K = (
        square / chi_K for square, chi_K in zip(squares, _chi_squares(S - 1, N - 1), strict=True)
    )
    variance_K = np.maximum(of_seeds_K, rest_K) + np.maximum(of_items_K, rest_K) - rest_K
    error_K = np.sqrt(variance_K / (S * N))

    def beyond(distance: float) -> float:
        """Probability that the mean is this far from the truth or farther."""
        return float(2 * special.ndtr(-distance / error_K).mean())

    farthest = 2 * float(error_K.max())
    half = optimize.root_scalar(lambda distance: beyond(distance) - (1 - LEVEL), bracket=(0.0, farthest)).root
    p = max(beyond(abs(mean)), 1 / _POINTS)  # the points resolve no smaller p
    return Estimate(mean, mean - half, mean + half, p, seeds)


@cache
def _chi_squares(of_seeds: int, of_items: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three independent chi-squares [_POINTS] (seeds, items, rest) that fill their distribution evenly.

    The points are a Kronecker lattice: each coordinate steps through the probabilities by multiples of its own
    irrational number.
    """
    n_K = np.arange(_POINTS) + 0.5
    places = n_K / _POINTS, n_K * math.sqrt(2) % 1, n_K * math.sqrt(3) % 1
    degrees = of_seeds, of_items, of_seeds * of_items
    chi = [stats.chi2.ppf(place_K, df) for place_K, df in zip(places, degrees, strict=True)]
    return chi[0], chi[1], chi[2]


def over_seeds(values_S: np.ndarray) -> Estimate:
    """The mean over seeds with Student's interval, for scores that are not means over items; unbounded for one seed."""
    return crossed(values_S[:, None])


def _student(mean: float, variance: float, df: int, seeds: tuple[float, ...]) -> Estimate:
    error = math.sqrt(variance)
    if error == 0:
        return Estimate(mean, mean, mean, 1.0 if mean == 0 else 0.0, seeds)
    half = float(stats.t.ppf((1 + LEVEL) / 2, df)) * error
    return Estimate(mean, mean - half, mean + half, float(2 * stats.t.sf(abs(mean) / error, df)), seeds)


def adjusted(p: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg's q values: the expected share of false findings among all at or below each value."""
    return [float(q) for q in stats.false_discovery_control(p)] if len(p) else []


def correlation(x_GS: np.ndarray, y_GS: np.ndarray, seed: int = 0) -> Estimate:
    """Pearson's r between the means of groups (arms); the interval is a bootstrap over groups and seeds.

    Args:
        x_GS: values [groups, seeds]; y_GS likewise.

    Raises:
        ValueError: there are fewer than three groups, or x or y is constant.
    """
    G, S = x_GS.shape
    if G < 3:
        raise ValueError(f"a correlation needs at least three groups, not {G}")
    if not (np.ptp(x_GS.mean(1)) and np.ptp(y_GS.mean(1))):
        raise ValueError("x or y is the same in all groups")
    r = float(np.corrcoef(x_GS.mean(1), y_GS.mean(1))[0, 1])
    rng, r_K = generator(seed, Stream.CORRELATION), np.empty(0)
    while len(r_K) < _DRAWS:
        drawn = [(rng.integers(G, size=G), rng.integers(S, size=S)) for _ in range(_DRAWS - len(r_K))]
        g_KG, s_KS = (np.array(places) for places in zip(*drawn, strict=True))
        x_KG, y_KG = (values_GS[g_KG[:, :, None], s_KS[:, None]].mean(2) for values_GS in (x_GS, y_GS))
        varies_K = (np.ptp(x_KG, 1) > 0) & (np.ptp(y_KG, 1) > 0)  # one group drawn G times has no correlation
        x_KG, y_KG = (means_KG[varies_K] - means_KG[varies_K].mean(1, keepdims=True) for means_KG in (x_KG, y_KG))
        found_K = (x_KG * y_KG).sum(1) / np.sqrt((x_KG**2).sum(1) * (y_KG**2).sum(1))
        r_K = np.concatenate([r_K, found_K])
    low, high = np.quantile(r_K, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    share = float(np.mean(r_K <= 0))
    return Estimate(r, float(low), float(high), min(1.0, 2 * min(share, 1 - share)))
