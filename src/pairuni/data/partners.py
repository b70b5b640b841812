"""Co-batching: how many halves of a batch are trained beside the half that pairs.jsonl joins them with."""

from collections.abc import Mapping, Sequence

from pairuni.types import Half, Pair, Side

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
