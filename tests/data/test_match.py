"""match: against brute force, dense assignment and the properties every strategy must have."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from pairuni.data import products
from pairuni.data.match import candidates, match

STRATEGIES = ("paper_order", "greedy", "optimal")


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def planted(seed: int, gen: int = 12, und: int = 15, width: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(4, width))
    near = [centres[rng.integers(4, size=n)] + 0.6 * rng.normal(size=(n, width)) for n in (gen, und)]
    return unit(near[0]), unit(near[1])


def table(gen: np.ndarray, und: np.ndarray) -> np.ndarray:
    """All cosine similarities, one Python sum at a time."""
    return np.array([[round(sum(float(a) * float(b) for a, b in zip(g, u, strict=True)), 6) for u in und] for g in gen])


def by_hand(similarity: np.ndarray, neighbours: int, floor: float, strategy: str) -> list[tuple[int, int]]:
    """Plain loops over the similarity table."""
    options = {}
    for g, row in enumerate(similarity):
        ranked = sorted(range(len(row)), key=lambda u: (-row[u], u))
        options[g] = [u for u in ranked[: neighbours or len(ranked)] if row[u] >= floor]
    if strategy == "paper_order":
        order = [(g, u) for g in options for u in options[g]]
    else:
        order = sorted(((g, u) for g in options for u in options[g]), key=lambda e: (-similarity[e], *e))
    used_g, used_u, pairs = set(), set(), []
    for g, u in order:
        if g not in used_g and u not in used_u:
            pairs.append((g, u))
            used_g.add(g)
            used_u.add(u)
    return sorted(pairs)


@pytest.mark.parametrize("strategy", ["paper_order", "greedy"])
@pytest.mark.parametrize("neighbours", [0, 1, 3])
@pytest.mark.parametrize("floor", [0.0, 0.6])
def test_equals_plain_loops(strategy, neighbours, floor):
    for seed in range(10):
        gen, und = planted(seed)
        g, u, s = match(gen, und, neighbours, floor, strategy)
        similarity = table(gen, und)
        assert list(zip(g.tolist(), u.tolist(), strict=True)) == by_hand(similarity, neighbours, floor, strategy)
        assert np.allclose(s, similarity[g, u], atol=2e-6)


@pytest.mark.parametrize("floor", [0.0, 0.3, 0.7])
def test_optimal_equals_dense_assignment(floor):
    for seed in range(10):
        gen, und = planted(seed, gen=20, und=17)
        dense = gen @ und.T
        value = np.where(dense >= floor, dense, 0.0)
        rows, columns = linear_sum_assignment(-value)
        _, _, s = match(gen, und, 0, floor, "optimal")
        assert s.sum() == pytest.approx(value[rows, columns].sum(), abs=1e-5)


def test_optimal_beats_the_others_where_they_are_short_sighted():
    # g0 prefers u0, which is g1's only candidate: in order and greedy lose g1.
    gen = np.array([[0.75, 0.65, np.sqrt(1 - 0.75**2 - 0.65**2), 0], [0.7, 0, 0, np.sqrt(1 - 0.7**2)]])
    assert [len(match(gen, np.eye(2, 4), 0, 0.6, s)[0]) for s in STRATEGIES] == [1, 1, 2]


def test_a_small_case_is_optimal_over_all_permutations():
    gen, und = planted(3, gen=5, und=5)
    value = gen @ und.T
    best = max(sum(max(value[g, u], 0) for g, u in enumerate(p)) for p in itertools.permutations(range(5)))
    assert match(gen, und, 0, 0.0, "optimal")[2].sum() == pytest.approx(best, abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    gen=st.integers(0, 9),
    und=st.integers(0, 9),
    neighbours=st.integers(0, 4),
    floor=st.sampled_from([0.0, 0.25, 0.5, 0.6, 1.0]),
    strategy=st.sampled_from(STRATEGIES),
)
def test_properties(seed, gen, und, neighbours, floor, strategy):
    # Small integers make exact ties common.
    rng = np.random.default_rng(seed)
    features = rng.integers(-2, 3, size=(gen + und, 3)).astype(np.float32)
    features[~features.any(axis=1)] = 1
    left, right = features[:gen], features[gen:]
    g, u, s = match(left, right, neighbours, floor, strategy)
    assert len(set(g.tolist())) == len(g) and len(set(u.tolist())) == len(u)
    assert (np.diff(g) > 0).all()
    assert ((s >= floor) & (s <= 1)).all()
    exact = (unit(left.astype(float)) @ unit(right.astype(float)).T)[g, u] if len(g) else np.empty(0)
    assert np.allclose(s, exact, atol=1e-6)
    again = match(left, right, neighbours, floor, strategy)
    assert all(np.array_equal(a, b) for a, b in zip((g, u, s), again, strict=True))
    if not neighbours:  # maximal: no two rows that could still be paired are left
        edges = candidates(left, right, 0, floor)
        assert not any(a not in g and b not in u for a, b in zip(edges.g_E, edges.u_E, strict=True))
    assert match(left, right, 0, floor, "optimal")[2].sum() >= s.sum() - 1e-6


def test_ties_go_to_the_lower_indices():
    und = np.array([[1.0, 0], [1, 0], [1, 0]])
    for strategy in ("paper_order", "greedy"):
        g, u, s = match(np.array([[2.0, 0], [3, 0]]), und, 0, 0.6, strategy)
        assert (g.tolist(), u.tolist(), s.tolist()) == ([0, 1], [0, 1], [1.0, 1.0])


def test_equal_images_tie_wherever_they_stand():
    rng = np.random.default_rng(0)
    row = rng.normal(size=2048).astype(np.float32)
    und = rng.normal(size=(97, 2048)).astype(np.float32)
    und[[13, 50, 96]] = row
    similar = (row + 0.1 * rng.normal(size=2048)).astype(np.float32)[None]
    edges = candidates(similar, und, 0, 0.6)
    assert edges.u_E.tolist() == [13, 50, 96] and len(set(edges.similarity_E.tolist())) == 1


@pytest.mark.parametrize("floor", [0.6, 0.7, 0.8, 0.35])
def test_the_floor_is_inclusive(floor):
    gen = np.array([[floor, np.sqrt(1 - floor**2)]], dtype=np.float32)
    assert match(gen, np.array([[1.0, 0.0]]), 0, floor, "paper_order")[2].tolist() == [floor]


def test_similarity_never_exceeds_one():
    rows = np.random.default_rng(0).normal(size=(50, 333)).astype(np.float32)
    g, u, s = match(rows, rows * 3, 1, 0.6, "paper_order")
    assert g.tolist() == u.tolist() == list(range(50)) and (s <= 1).all() and (s > 0.999999).all()


def test_blocks_do_not_change_the_graph(monkeypatch):
    gen, und = planted(1, gen=40, und=30)
    whole = candidates(gen, und, 3, 0.2)
    monkeypatch.setitem(products.SIZES, "cpu", (8, 64))
    parts = candidates(gen, und, 3, 0.2)
    assert all(np.array_equal(vars(whole)[k], vars(parts)[k]) for k in vars(whole))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"floor": 1.01}, "floor"),
        ({"floor": -0.1}, "floor"),
        ({"floor": float("nan")}, "floor"),
        ({"neighbours": -1}, "neighbours"),
        ({"strategy": "best"}, "strategy"),
        ({"gen": np.array([[1.0, 0], [0, 0]])}, "row 1"),
        ({"gen": np.array([[np.nan, 0]])}, "row 0"),
        ({"gen": np.ones((2, 3))}, "width"),
        ({"gen": np.ones(3)}, "shape"),
    ],
)
def test_refuses(change, message):
    arguments = {"gen": np.eye(2), "neighbours": 0, "floor": 0.6, "strategy": "optimal", **change}
    with pytest.raises(ValueError, match=message):
        match(arguments["gen"], np.eye(2), arguments["neighbours"], arguments["floor"], arguments["strategy"])
