"""Co-batching against a count by hand and against brute force over orders."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from pairuni.data.dataset import PairSampler, chance, co_batching, true_partners
from pairuni.data.mixing import mix
from pairuni.types import Half, Pair, Quadruple, Side


def quadruple(name: str, side: Side = Side.GENERATION) -> Quadruple:
    return Quadruple(name, side, f"{name}.png", "a circle", "?", "A")


def file_of(n: int) -> list[Pair]:
    """Every third pair aligned."""
    pairs = []
    for i in range(n):
        g, u = quadruple(f"g{i}"), quadruple(f"u{i}", Side.UNDERSTANDING)
        pairs.append(Pair(f"p{i}", "aligned", 1.0, g, g) if i % 3 == 0 else Pair(f"p{i}", "retrieved", 0.7, g, u))
    return pairs


def batch(understanding: str, generation: str) -> dict[Side, list[Half]]:
    sides = (Side.UNDERSTANDING, understanding), (Side.GENERATION, generation)
    return {side: [Half("x", quadruple(name), 0.5, False) for name in names.split()] for side, names in sides}


def test_by_hand() -> None:
    partners = true_partners(file_of(5))  # g0 with itself, g1 with u1, g2 with u2, g3 with itself, g4 with u4
    for understanding, generation, share in (
        ("g0 u1", "g0 g1", 1),
        ("u1 u2", "g1 g4", 2 / 4),
        ("u1 u2", "g3 g4", 0),
        ("u1 u1", "g1", 1),  # drawn twice, beside one
        ("u1 u2 u4", "", 0),
        ("u1 other", "g1", 1),  # what has no partner does not count
        ("g4", "g4", 0 / 1),  # g4 is no understanding half of this file, and u4 is not there
    ):
        assert co_batching(batch(understanding, generation), partners) == pytest.approx(share)
    assert math.isnan(co_batching(batch("other", "others"), partners))


def test_pairs_stand_together_and_halves_of_two_pairs_do_not(tmp_path: Path) -> None:
    pairs = file_of(40)
    partners = true_partners(pairs)
    for mode, share in (("pairs", 1.0), ("aligned_only", 1.0), ("retrieved_only", 1.0)):
        sampler = PairSampler(mix(pairs, mode, 0), 4, 0, mode)
        assert {co_batching(sampler.batch_at(step), partners) for step in range(12)} == {share}


@pytest.mark.parametrize(("N", "B"), [(5, 2), (6, 3), (4, 4)])
def test_chance_by_brute_force(N: int, B: int) -> None:
    """The mean over all derangements and all batches of distinct pairs."""
    pairs = file_of(N)
    partners, shares = true_partners(pairs), []
    for order in itertools.permutations(range(N)):
        if all(i != j for i, j in enumerate(order)):
            for chosen in itertools.combinations(range(N), B):
                halves = {
                    Side.GENERATION: [Half("x", pairs[i].generate, 0, False) for i in chosen],
                    Side.UNDERSTANDING: [Half("x", pairs[order[i]].understand, 0, False) for i in chosen],
                }
                shares.append(co_batching(halves, partners))
    np.testing.assert_allclose(np.mean(shares), chance(N, B))


def test_chance_of_single_halves_by_brute_force() -> None:
    pairs, B = file_of(3), 2
    partners, shares = true_partners(pairs), []
    single = [(side, pair.half(side)) for pair in pairs for side in Side]
    for chosen in itertools.combinations(single, 2 * B):
        halves = {side: [Half("x", q, 0, False) for own, q in chosen if own is side] for side in Side}
        shares.append(co_batching(halves, partners))
    np.testing.assert_allclose(np.mean(shares), chance(2 * len(pairs), 2 * B))
    assert chance(1, 1) == chance(1, 8) == chance(4, 9) == 1.0
