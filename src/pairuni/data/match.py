"""One-to-one matching of generation images to understanding images (Algorithm 1, second half; paper 2.2).

Pure functions, numpy in and numpy out. The graph of candidates holds every edge whose cosine similarity reaches the
floor (or the top n per generation image); three strategies choose edges from it. Order and seed are the caller's:
generation images are visited in row order. The exact graph is made here, because faiss decides in float32, so that its
edges at the floor may change with threads and BLAS.
Shapes: G generation images, U understanding images, E edges, D features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching

from pairuni.data.products import above, below, exact

Strategy = Literal["paper_order", "greedy", "optimal"]

DECIMALS = 7
"""Similarities are rounded to this, the precision of float32 features: equal images tie wherever they stand."""
_UNIT = 2e-7  # rows of float32 that were normalised are this close to length 1
_SPARE = 3  # times as many edges as are wanted may be held
_ROWS = 1 << 12  # rows that are normalised at once


@dataclass(frozen=True)
class Edges:
    """Candidate edges, ordered by (g, similarity falling, u)."""

    g_E: np.ndarray
    u_E: np.ndarray
    similarity_E: np.ndarray
    """float64 in [0, 1], rounded to DECIMALS."""


def match(
    features_gen_ND: np.ndarray, features_und_ND: np.ndarray, neighbours: int, floor: float, strategy: Strategy
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs generation rows with understanding rows so that each row is used at most once.

    paper_order: rows of G in order, each takes its most similar candidate that is still free. greedy: edges by falling
    similarity. optimal: the largest total similarity. Ties go to the lower g, then the lower u.

    Args:
        features_gen_ND: [G, D], any finite rows that are not zero; they are L2-normalised here.
        features_und_ND: [U, D], likewise.
        neighbours: candidates per generation row, its n most similar (0: all).
        floor: least cosine similarity of a candidate, in [0, 1], inclusive.

    Returns:
        (gen_idx, und_idx, similarity), each [P], sorted by gen_idx; similarity is float64 in [0, 1].

    Raises:
        ValueError: an argument is out of range, or a feature row is zero or not finite.
    """
    edges = candidates(features_gen_ND, features_und_ND, neighbours, floor)
    chosen = choose(edges, (len(features_gen_ND), len(features_und_ND)), strategy)
    return edges.g_E[chosen], edges.u_E[chosen], edges.similarity_E[chosen]


def choose(edges: Edges, size: tuple[int, int], strategy: Strategy) -> np.ndarray:
    """Indices [P] of the edges of a one-to-one matching, sorted by g; `size` is (G, U). As `match`, on its graph.

    Raises ValueError: no such strategy.
    """
    if strategy == "optimal":
        chosen = _optimal(edges, size)
    elif strategy in ("paper_order", "greedy"):
        order_E = np.arange(len(edges.g_E))
        if strategy == "greedy":
            order_E = np.lexsort((edges.u_E, edges.g_E, -edges.similarity_E))
        free_G, free_U, taken = np.ones(size[0], bool), np.ones(size[1], bool), []
        for e, g, u in zip(order_E.tolist(), edges.g_E[order_E].tolist(), edges.u_E[order_E].tolist(), strict=True):
            if free_G[g] and free_U[u]:
                free_G[g] = free_U[u] = False
                taken.append(e)
        chosen = np.array(taken, dtype=np.int64)
    else:
        raise ValueError(f"strategy must be paper_order, greedy or optimal, not {strategy!r}")
    return chosen[np.argsort(edges.g_E[chosen], kind="stable")]


def candidates(features_gen_ND: np.ndarray, features_und_ND: np.ndarray, neighbours: int, floor: float) -> Edges:
    """The candidate graph, exact. Memory is bounded by the number of edges that it returns. Raises ValueError as
    `match`.
    """
    if not 0.0 <= floor <= 1.0:
        raise ValueError(f"floor must be in [0, 1], not {floor}")
    if neighbours < 0:
        raise ValueError(f"neighbours must not be negative, not {neighbours}")
    gen_GD, und_UD = normalise(features_gen_ND), normalise(features_und_ND)
    if gen_GD.shape[1] != und_UD.shape[1]:
        raise ValueError(f"features of both sides must agree in width: {gen_GD.shape[1]} and {und_UD.shape[1]}")

    def limit(products_RS: torch.Tensor, start: int, margin_R1: torch.Tensor) -> torch.Tensor:
        least_R1 = floor - margin_R1
        if 0 < neighbours < products_RS.shape[1]:
            # The n-th best of these may be off by the margin, and so may what beats it.
            last_R1 = below(products_RS.topk(neighbours, dim=1).values[:, -1:])
            least_R1 = torch.maximum(least_R1, last_R1 - 2 * margin_R1)
        return least_R1

    parts: list[Edges] = []
    for g_E, u_E in above(gen_GD, und_UD, limit):
        parts.append(scored(gen_GD, und_UD, g_E, u_E, floor))
        if neighbours and sum(len(part.g_E) for part in parts) > _SPARE * neighbours * len(gen_GD):
            parts = [ordered(parts, neighbours)]  # many shards: keep the best n so far
    return ordered(parts, neighbours)


def ordered(parts: Sequence[Edges], neighbours: int) -> Edges:
    """All edges by (g, similarity falling, u), the first n of each g where `neighbours` is n > 0."""
    names = ("g_E", "u_E", "similarity_E")
    if not parts:
        return Edges(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    g_E, u_E, similarity_E = (np.concatenate([vars(part)[name] for part in parts]) for name in names)
    order = np.lexsort((u_E, -similarity_E, g_E))
    g_E, u_E, similarity_E = g_E[order], u_E[order], similarity_E[order]
    if neighbours:
        kept = np.arange(len(g_E)) - np.searchsorted(g_E, g_E, side="left") < neighbours  # rank within the row
        g_E, u_E, similarity_E = g_E[kept], u_E[kept], similarity_E[kept]
    return Edges(g_E, u_E, similarity_E)


def normalise(features_ND: np.ndarray) -> np.ndarray:
    """float32 [N, D] with rows of length 1; the same array where it is that already.

    Raises:
        ValueError: a row is zero or not finite (the message names its index), or the shape is another.
    """
    if features_ND.ndim != 2:
        raise ValueError(f"features must be [N, D], not of shape {features_ND.shape}")
    length_N = np.sqrt(np.einsum("nd,nd->n", features_ND, features_ND, dtype=np.float64))
    bad = np.flatnonzero(~(np.isfinite(length_N) & (length_N > 0)))
    if len(bad):
        raise ValueError(f"feature row {bad[0]} is zero or not finite ({len(bad)} such rows)")
    if features_ND.dtype == np.float32 and np.abs(length_N - 1).max(initial=0) < _UNIT:
        return features_ND
    unit_ND = np.empty(features_ND.shape, np.float32)
    for start in range(0, len(unit_ND), _ROWS):
        block = slice(start, start + _ROWS)
        unit_ND[block] = features_ND[block] / length_N[block, None]
    return unit_ND


def scored(gen_GD: np.ndarray, und_UD: np.ndarray, g_E: np.ndarray, u_E: np.ndarray, floor: float) -> Edges:
    """The proposed edges that reach the floor, with their exact similarities."""
    similarity_E = np.round(exact(gen_GD, und_UD, g_E, u_E), DECIMALS)
    kept = similarity_E >= floor
    return Edges(g_E[kept], u_E[kept], np.clip(similarity_E[kept], 0.0, 1.0))


def _optimal(edges: Edges, size: tuple[int, int]) -> np.ndarray:
    """Indices of the edges of a matching with the largest total similarity, one connected component at a time."""
    n = sum(size)
    ends = (np.ones(len(edges.g_E), np.int8), (edges.g_E, edges.u_E + size[0]))
    _, label_n = connected_components(csr_matrix(ends, shape=(n, n)), directed=False)
    label_E = label_n[edges.g_E]
    by_label = np.argsort(label_E, kind="stable")
    bounds = np.flatnonzero(np.diff(label_E[by_label])) + 1
    parts = [_best_of_component(edges, part) for part in np.split(by_label, bounds) if len(part)]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _best_of_component(edges: Edges, part: np.ndarray) -> np.ndarray:
    if len(part) == 1:
        return part
    g_names, g_E = np.unique(edges.g_E[part], return_inverse=True)
    u_names, u_E = np.unique(edges.u_E[part], return_inverse=True)
    rows, columns = len(g_names), len(u_names)
    # One dummy column per row makes a full matching exist. Every row is matched once, so adding 1 to all weights does
    # not move the optimum; it keeps similarity 0 apart from "no edge". Between equal totals more pairs win.
    weight = np.concatenate([1 + edges.similarity_E[part], np.full(rows, 1 - 1e-9)])
    row = np.concatenate([g_E, np.arange(rows)])
    column = np.concatenate([u_E, columns + np.arange(rows)])
    graph = csr_matrix((weight, (row, column)), shape=(rows, columns + rows))
    matched_row, matched_column = min_weight_full_bipartite_matching(graph, maximize=True)
    edge_of = csr_matrix((np.arange(1, len(part) + 1), (g_E, u_E)), shape=(rows, columns))
    real = matched_column < columns
    found = np.asarray(edge_of[matched_row[real], matched_column[real]]).ravel() - 1
    return part[found]
