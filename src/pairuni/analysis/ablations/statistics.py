"""Means, intervals and tests over seeds and items. Numbers in, numbers out.

Scores form a table, seeds by items: every run answers the same items. Another study would draw other seeds and other
items, so both count as random (a crossed design): an interval over seeds alone would be of these items only, one over
items alone of these seeds only.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import optimize, stats

from pairuni.streams import Stream, generator

LEVEL = 0.95
_DRAWS = 10_000
_POINTS = 4096


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval; p: two-sided, of the mean being 0."""

    mean: float
    low: float
    high: float
    p: float
    seeds: tuple[float, ...] = ()
    """The means of the seeds."""

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def crossed(values_SN: np.ndarray) -> Estimate:
    """The mean over seeds and items, both random; with one seed over items alone, with one item over seeds alone.

    Its variance is (MS_seeds + MS_items - MS_rest) / (seeds * items), the estimate of analysis of variance without
    replication, where neither of the first two is less than the third: seeds, items and the rest each vary by 0 or
    more. Few seeds tell little about theirs, so interval and p are generalised ones (Weerahandi 1993): means over all
    variances that the sums of squares leave possible, which are those sums over chi-squares. They are Student's where
    one margin alone varies. In simulations they keep 5 %, 1 % and 0.1 % from two seeds on, where Satterthwaite's
    degrees of freedom give up to 14, 10 and 8 % with two seeds and 8, 5 and 3 % with three.

    Args:
        values_SN: scores, or differences of two arms' scores, [seeds, items].

    Raises:
        ValueError: no seed or no item.
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
        return _exact(mean, seeds)
    of_seeds_K, of_items_K, rest_K = (
        square / chi_K for square, chi_K in zip(squares, _chi_squares(S - 1, N - 1), strict=True)
    )
    variance_K = np.maximum(of_seeds_K, rest_K) + np.maximum(of_items_K, rest_K) - rest_K
    error_K = np.sqrt(variance_K / (S * N))

    def beyond(distance: float) -> float:
        """How often the mean would be this far from the truth or farther."""
        return float(2 * stats.norm.sf(distance / error_K).mean())

    farthest = 2 * float(error_K.max())
    half = optimize.root_scalar(lambda distance: beyond(distance) - (1 - LEVEL), bracket=(0.0, farthest)).root
    p = max(beyond(abs(mean)), 1 / _POINTS)  # the points tell no less
    return Estimate(mean, mean - half, mean + half, p, seeds)


@cache
def _chi_squares(of_seeds: int, of_items: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points [_POINTS] that fill the distribution of three independent chi-squares evenly: of seeds, items, the rest.

    A Kronecker lattice: each coordinate runs through its distribution in equal steps of probability, by multiples of
    numbers that have nothing in common.
    """
    n_K = np.arange(_POINTS) + 0.5
    places = n_K / _POINTS, n_K * math.sqrt(2) % 1, n_K * math.sqrt(3) % 1
    degrees = of_seeds, of_items, of_seeds * of_items
    chi = [stats.chi2.ppf(place_K, df) for place_K, df in zip(places, degrees, strict=True)]
    return chi[0], chi[1], chi[2]


def over_seeds(values_S: np.ndarray) -> Estimate:
    """The mean over seeds with Student's interval, for scores that are no means over items; unbounded for one seed."""
    mean, S = float(values_S.mean()), len(values_S)
    if S < 2:
        return Estimate(mean, -math.inf, math.inf, 1.0, (mean,))
    return _student(mean, float(values_S.var(ddof=1)) / S, S - 1, tuple(values_S.tolist()))


def _exact(mean: float, seeds: tuple[float, ...]) -> Estimate:
    return Estimate(mean, mean, mean, 1.0 if mean == 0 else 0.0, seeds)


def _student(mean: float, variance: float, df: int, seeds: tuple[float, ...]) -> Estimate:
    error = math.sqrt(variance)
    if error == 0:
        return _exact(mean, seeds)
    half = float(stats.t.ppf((1 + LEVEL) / 2, df)) * error
    return Estimate(mean, mean - half, mean + half, float(2 * stats.t.sf(abs(mean) / error, df)), seeds)


def adjusted(p: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg's: of the comparisons with at most this value, that share is expected to be false."""
    return [float(q) for q in stats.false_discovery_control(p)] if len(p) else []


def correlation(x_GS: np.ndarray, y_GS: np.ndarray, seed: int = 0) -> Estimate:
    """Pearson's r between the means of groups (arms), with a bootstrap interval that draws groups and seeds anew.

    Args:
        x_GS: values [groups, seeds]; y_GS likewise.

    Raises:
        ValueError: fewer than three groups, or one of the two is the same everywhere.
    """
    G, S = x_GS.shape
    if G < 3:
        raise ValueError(f"a correlation needs at least three groups, not {G}")
    if not (np.ptp(x_GS.mean(1)) and np.ptp(y_GS.mean(1))):
        raise ValueError("one of the two is the same everywhere")
    r = float(np.corrcoef(x_GS.mean(1), y_GS.mean(1))[0, 1])
    rng, drawn = generator(seed, Stream.CORRELATION), []
    while len(drawn) < _DRAWS:
        g, s = rng.integers(G, size=G), rng.integers(S, size=S)
        x, y = x_GS[g][:, s].mean(1), y_GS[g][:, s].mean(1)
        if np.ptp(x) and np.ptp(y):  # one group drawn G times has no correlation
            drawn.append(float(np.corrcoef(x, y)[0, 1]))
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    share = float(np.mean(np.array(drawn) <= 0))
    return Estimate(r, float(low), float(high), min(1.0, 2 * min(share, 1 - share)))
