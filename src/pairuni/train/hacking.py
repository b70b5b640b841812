"""Is a reward being gamed? Trained rewards that rise while held-out ones fall, from rows of metrics.jsonl alone.

A learned or simple reward is a stand-in for what is wanted; what it does not measure can be lost while it rises
(Goodhart's law). Held-out rewards measure something else of the same outputs.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_ERRORS = 2.0
"""Standard errors of the difference that a change must exceed; about one false alarm in a thousand pairs of windows."""


def gamed(rows: Sequence[Mapping[str, Any]], window: int) -> list[str]:
    """What to warn of: one sentence per held-out reward that fell while a trained reward of its side rose.

    Compares the last `window` steps with the first ones. Steps are taken as independent, which flatters the errors a
    little: prompts differ from step to step, weights change slowly.

    Args:
        rows: of metrics.jsonl, all steps so far. Fewer than two windows are too few.

    Raises:
        ValueError: window < 2.
    """
    if window < 2:
        raise ValueError(f"window must be at least 2, not {window}")
    if len(rows) < 2 * window:
        return []
    found = []
    for side in ("understanding", "generation"):
        held_out = [key for key in rows[-1] if key.startswith("held_out/") and key.endswith(f"/{side}")]
        # Each trained reward as it is: the mean of a sum that was normalised within its groups is always 0.
        trained = [key for key in rows[-1] if key.startswith("reward/") and key.endswith(f"/{side}")]
        risen = max(_change(rows, key, window) for key in (f"reward_mean/{side}", *trained))
        for key in held_out if risen > _ERRORS else []:
            if _change(rows, key, window) < -_ERRORS:
                first, last = (_values(part, key).mean() for part in (rows[:window], rows[-window:]))
                name = key.split("/")[1]
                found.append(
                    f"the {side} reward rises while {name} falls ({first:.3g} -> {last:.3g}): is it being gamed?"
                )
    return found


def _change(rows: Sequence[Mapping[str, Any]], key: str, window: int) -> float:
    """Last window minus first, in standard errors; 0 where it cannot be told."""
    first, last = _values(rows[:window], key), _values(rows[-window:], key)
    if min(len(first), len(last)) < 2:
        return 0.0
    difference = float(last.mean() - first.mean())
    error = math.sqrt(first.var(ddof=1) / len(first) + last.var(ddof=1) / len(last))
    return difference / error if error > 0 else math.copysign(math.inf, difference) if difference else 0.0


def _values(rows: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    return np.array([row[key] for row in rows if row.get(key) is not None], dtype=np.float64)
