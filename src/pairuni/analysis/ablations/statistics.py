"""Means, intervals and tests over seeds and items. Numbers in, numbers out.

Scores form a table, seeds by items: every run answers the same items. Another study would draw other seeds and other
items, so both count as random (a crossed design): an interval over seeds alone would be of these items only, one over
items alone of these seeds only.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
_DRAWS = 10_000


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
    """The mean over seeds and items, both random.

    Its variance is (MS_seeds + MS_items - MS_rest) / (seeds * items), the estimate of analysis of variance without
    replication, and never less than either margin alone gives; its degrees of freedom are Satterthwaite's. With one
    seed, the interval is over items alone.

    Args:
        values_SN: scores, or differences of two arms' scores, [seeds, items].

    Raises:
        ValueError: no seed, or fewer than two items.
    """
    S, N = values_SN.shape
    if not S or N < 2:
        raise ValueError(f"needs a seed and two items, not {S} and {N}")
    mean = float(values_SN.mean())
    items_N, seeds_S = values_SN.mean(0) - mean, values_SN.mean(1) - mean
    of_items = S * float((items_N**2).sum()) / (N - 1)
    if S == 1:
        return _estimate(mean, of_items / N, N - 1, (mean,))
    of_seeds = N * float((seeds_S**2).sum()) / (S - 1)
    rest_SN = values_SN - mean - seeds_S[:, None] - items_N
    rest = float((rest_SN**2).sum()) / ((S - 1) * (N - 1))
    parts = [(of_seeds, S - 1), (of_items, N - 1), (-rest, (S - 1) * (N - 1))]
    total = sum(square for square, _ in parts)
    if total < max(of_seeds, of_items):  # the other margin's own variance came out negative: it counts as 0
        parts = [max(parts[:2])]
        total = parts[0][0]
    spread = sum(square**2 / df for square, df in parts)
    return _estimate(mean, total / (S * N), total**2 / spread if spread else math.inf, tuple((seeds_S + mean).tolist()))


def over_seeds(values_S: np.ndarray) -> Estimate:
    """The mean over seeds with Student's interval, for scores that are no means over items; unbounded for one seed."""
    mean, S = float(values_S.mean()), len(values_S)
    if S < 2:
        return Estimate(mean, -math.inf, math.inf, 1.0, (mean,))
    return _estimate(mean, float(values_S.var(ddof=1)) / S, S - 1, tuple(values_S.tolist()))


def _estimate(mean: float, variance: float, df: float, seeds: tuple[float, ...]) -> Estimate:
    error = math.sqrt(variance)
    if error == 0:
        return Estimate(mean, mean, mean, 1.0 if mean == 0 else 0.0, seeds)
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
    rng, drawn = np.random.default_rng(seed), []
    while len(drawn) < _DRAWS:
        g, s = rng.integers(G, size=G), rng.integers(S, size=S)
        x, y = x_GS[g][:, s].mean(1), y_GS[g][:, s].mean(1)
        if np.ptp(x) and np.ptp(y):  # one group drawn G times has no correlation
            drawn.append(float(np.corrcoef(x, y)[0, 1]))
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    share = float(np.mean(np.array(drawn) <= 0))
    return Estimate(r, float(low), float(high), min(1.0, 2 * min(share, 1 - share)))
