"""Is a reward being gamed? Trained rewards that rise while held-out ones fall, from rows of metrics.jsonl alone.

A learned or simple reward is a stand-in for what is wanted; what it does not measure can be lost while it rises
(Goodhart's law). Held-out rewards measure something else of the same outputs.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.signal import detrend
from scipy.stats import t as student_t

_FALSE_ALARMS = 0.001
"""Runs without any change that may be warned of, however long they are and however many rewards are watched, where
trained and held-out rewards vary independently. Measured over 20,000 runs of 200 steps that are looked at every 20
steps: 0.07 % with independent steps, 0.12 % with a correlation of 0.5 between a step and the next one, and 0.23 % with
0.8."""
_MOST_CORRELATED = 0.95


def gamed(rows: Sequence[Mapping[str, Any]], window: int) -> list[str]:
    """What to warn of: one sentence per held-out reward that fell while a trained reward of its side rose.

    Compares the last `window` steps with the first ones, by Student's t. Steps that follow each other are alike, so the
    errors of the means are those of an autoregression of first order. A run is looked at every `window` steps: look
    k may spend 1 / (k (k + 1)) of the false alarms, shared by all pairs of a trained and a held-out reward.

    Args:
        rows: of metrics.jsonl, all steps so far. Fewer than two windows are too few.

    Raises:
        ValueError: window < 2.
    """
    if window < 2:
        raise ValueError(f"window must be at least 2, not {window}")
    look = len(rows) // window - 1
    if look < 1:
        return []
    watched = []
    for side in ("understanding", "generation"):
        held_out = [key for key in rows[-1] if key.startswith("held_out/") and key.endswith(f"/{side}")]
        # Each trained reward as it is: the mean of a sum that was normalised within its groups is always 0.
        trained = [key for key in rows[-1] if key.startswith("reward/") and key.endswith(f"/{side}")]
        watched.append((side, held_out, [f"reward_mean/{side}", *trained]))
    pairs = sum(len(held_out) * len(trained) for _, held_out, trained in watched)
    # Both must happen, each by chance this often.
    rare = math.sqrt(_FALSE_ALARMS / (look * (look + 1) * max(pairs, 1)))
    found = []
    for side, held_out, trained in watched:
        risen = held_out and any(_chance_of_rise(rows, key, window, 1) < rare for key in trained)
        for key in held_out if risen else []:
            if _chance_of_rise(rows, key, window, -1) < rare:
                first, last = (_values(part, key).mean() for part in (rows[:window], rows[-window:]))
                name = key.split("/")[1]
                found.append(
                    f"the {side} reward rises while {name} falls ({first:.3g} -> {last:.3g}): is it being gamed?"
                )
    return found


def _chance_of_rise(rows: Sequence[Mapping[str, Any]], key: str, window: int, sign: int) -> float:
    """How likely so large a rise (sign -1: fall) from the first to the last window is without any change."""
    first, last = _values(rows[:window], key), _values(rows[-window:], key)
    n = min(len(first), len(last))
    if n < 2:
        return 1.0
    difference = sign * float(last.mean() - first.mean())
    spread = (first.var(ddof=1) / len(first) + last.var(ddof=1) / len(last)) / 2
    if difference <= 0:
        return 1.0
    if spread == 0:
        return 0.0
    # An autoregression's mean varies as that of n / inflation independent steps, and hides part of its variance.
    correlation = _correlation(rows, key, window)
    inflation = min((1 + correlation) / (1 - correlation), n / 2)
    error = math.sqrt(2 * spread * inflation * (n - 1) / (n - inflation))
    return float(student_t.sf(difference / error, 2 * (n / inflation - 1)))


def _correlation(rows: Sequence[Mapping[str, Any]], key: str, window: int) -> float:
    """Correlation of a step with the next one around each window's straight line, over all windows, in [0, 0.95].

    A reward that rises or falls inside a window is the change to be told, not correlation.
    """
    products = squares = 0.0
    for start in range(0, len(rows) - window + 1, window):
        values = _values(rows[start : start + window], key)
        if len(values) > 2:
            left = detrend(values)
            products, squares = products + float(left[1:] @ left[:-1]), squares + float(left @ left)
    if squares == 0 or window <= 4:
        return 0.0
    # Taking lines off n steps lowers the estimate by about (2 + 4 rho) / n.
    return min(max((products / squares + 2 / window) / (1 - 4 / window), 0.0), _MOST_CORRELATED)


def _values(rows: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    return np.array([row[key] for row in rows if row.get(key) is not None], dtype=np.float64)
