"""The data of training: halves of pairs for each step, images from disk, and how often the halves of a pair meet.

The order is a pure function of (seed, step), so that a resumed run needs the step number alone; a fingerprint tells
whether the pairs are still the same. Mixing modes that change the pairs themselves are in mixing.py.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pairuni.config import PairingMode
from pairuni.data.images import load_image
from pairuni.errors import InputError
from pairuni.streams import VERSION, Stream, generator, other_streams
from pairuni.types import Half, Pair, Side


class PairSampler:
    """Batches of halves for any step.

    Each epoch shuffles the pairs and visits each of them once. A batch may span two epochs, so that a pair can occur
    twice in it (and must where the batch is larger than the file). In mode vanilla (paper 3, mixed
    unpaired batches) the single halves of both sides form one pool, of which 2 * batch unrelated ones are drawn: a
    side may have few or none of them.
    """

    def __init__(self, pairs: Sequence[Pair], batch: int, seed: int, mode: PairingMode = "pairs") -> None:
        """Raises ValueError: there are no pairs, or batch < 1."""
        if not pairs or batch < 1:
            raise ValueError(f"needs pairs and a positive batch, not {len(pairs)} pairs and batch {batch}")
        self.seed, self._pairs = seed, list(pairs)
        sides = tuple(Side)
        # Each unit is what is drawn together: a pair with both sides, or one half.
        together = [(side,) for side in sides] if mode == "vanilla" else [sides]
        self._units = [(pair, group) for group in together for pair in self._pairs]
        self._draws = batch * len(together)

        @lru_cache(maxsize=2)  # a batch may span two epochs
        def order(epoch: int) -> np.ndarray:
            return generator(seed, Stream.SAMPLER_ORDER, epoch).permutation(len(self._units))

        self._order = order
        rows = json.dumps([p.to_json() for p in self._pairs], sort_keys=True)
        what = f"{rows}|{batch}|{seed}|{mode == 'vanilla'}|{VERSION}"
        self.fingerprint = hashlib.sha256(what.encode()).hexdigest()

    def batch_at(self, step: int) -> dict[Side, list[Half]]:
        """The halves of a step (from 0), per side; outside vanilla mode index i of both lists is the same pair."""
        halves: dict[Side, list[Half]] = {side: [] for side in Side}
        seen: Counter[tuple[str, Side]] = Counter()
        for position in range(step * self._draws, (step + 1) * self._draws):
            epoch, place = divmod(position, len(self._units))
            pair, sides = self._units[self._order(epoch)[place]]
            for side in sides:
                repeat = seen[pair.id, side]
                seen[pair.id, side] += 1
                halves[side].append(Half(pair.id, pair.half(side), pair.similarity, pair.kind == "aligned", repeat))
        return halves

    def state(self, step: int) -> dict[str, Any]:
        """For a checkpoint: next step, version of random streams, fingerprint of pairs, batch, seed and mode."""
        return {"step": step, "streams": VERSION, "fingerprint": self.fingerprint}

    def restore(self, state: dict[str, Any]) -> int:
        """The step to continue at. Raises InputError when the state has other streams, pairs, batch, seed or mode."""
        problem = other_streams(state)
        if problem:
            raise InputError(problem)
        if state["fingerprint"] != self.fingerprint:
            raise InputError("the checkpoint was made with other pairs, batch size, seed or mixing mode")
        return int(state["step"])


class ImageCache:
    """The last `capacity` images, decoded and read-only."""

    def __init__(self, capacity: int = 256) -> None:
        @lru_cache(maxsize=capacity)
        def load(path: str | Path) -> np.ndarray:
            image = load_image(path)
            image.setflags(write=False)
            return image

        self.load = load
        """The image at a path, as `load_image` gives it. Raises InputError likewise."""


# ---- co-batching: how many halves of a batch are trained beside the half that pairs.jsonl joins them with -----------

Partners = Mapping[tuple[Side, str], frozenset[str]]
"""From a side and the id of a quadruple to those of its true partners on the other side."""


def true_partners(pairs: Sequence[Pair]) -> Partners:
    """The partners of each half in a pairs file, before any mixing."""
    found: dict[tuple[Side, str], set[str]] = {}
    for pair in pairs:
        found.setdefault((Side.UNDERSTANDING, pair.understand.id), set()).add(pair.generate.id)
        found.setdefault((Side.GENERATION, pair.generate.id), set()).add(pair.understand.id)
    return {half: frozenset(ids) for half, ids in found.items()}


def co_batching(batch: Mapping[Side, Sequence[Half]], partners: Partners) -> float:
    """The share of halves, of those that have a true partner, one of which is in the batch; NaN where none has any."""
    own = {side: {half.quadruple.id for half in halves} for side, halves in batch.items()}
    other = {Side.UNDERSTANDING: Side.GENERATION, Side.GENERATION: Side.UNDERSTANDING}
    known = [(side, half.quadruple.id) for side, halves in batch.items() for half in halves]
    known = [half for half in known if half in partners]
    together = sum(not partners[half].isdisjoint(own.get(other[half[0]], ())) for half in known)
    return together / len(known) if known else float("nan")


def chance(pairs: int, batch: int) -> float:
    """The `co_batching` of random joins, given the numbers of pairs and of pairs per batch."""
    return min(1.0, (batch - 1) / (pairs - 1)) if pairs > 1 else 1.0
