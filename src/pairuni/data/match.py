"""One-to-one matching of generation images to understanding images (Algorithm 1, second half; paper 2.2).

Pure functions, numpy in and numpy out. The graph of candidates holds every edge whose cosine similarity reaches the
floor (or the top n per generation image); three strategies choose edges from it. Order and seed are the caller's:
generation images are visited in row order.
Shapes: G generation images, U understanding images, E edges, D features.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching

Strategy = Literal["paper_order", "greedy", "optimal"]

DECIMALS = 7
"""Similarities are rounded to this, the precision of float32 features: equal images tie wherever they stand."""
_MARGIN = 1e-5  # of the float32 prefilter; its rounding error at 2048 dimensions is about 1e-6
_BLOCK = 1 << 22  # similarities, and feature values while edges are rescored, that are held at once


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
    size = len(features_gen_ND), len(features_und_ND)
    if strategy == "optimal":
        chosen = _optimal(edges, size)
    elif strategy in ("paper_order", "greedy"):
        order = np.arange(len(edges.g_E))
        if strategy == "greedy":
            order = np.lexsort((edges.u_E, edges.g_E, -edges.similarity_E))
        chosen = _first_free(edges, order, size)
    else:
        raise ValueError(f"strategy must be paper_order, greedy or optimal, not {strategy!r}")
    chosen = chosen[np.argsort(edges.g_E[chosen], kind="stable")]
    return edges.g_E[chosen], edges.u_E[chosen], edges.similarity_E[chosen]


def candidates(features_gen_ND: np.ndarray, features_und_ND: np.ndarray, neighbours: int, floor: float) -> Edges:
    """The candidate graph. Memory is bounded by the number of edges that it returns. Raises ValueError as `match`."""
    if not 0.0 <= floor <= 1.0:
        raise ValueError(f"floor must be in [0, 1], not {floor}")
    if neighbours < 0:
        raise ValueError(f"neighbours must not be negative, not {neighbours}")
    gen_GD, und_UD = normalise(features_gen_ND), normalise(features_und_ND)
    if gen_GD.shape[1] != und_UD.shape[1]:
        raise ValueError(f"features of both sides must agree in width: {gen_GD.shape[1]} and {und_UD.shape[1]}")
    parts: list[Edges] = []
    rows = max(1, _BLOCK // max(1, len(und_UD)))
    for start in range(0, len(gen_GD) if len(und_UD) else 0, rows):
        similarity_RU = gen_GD[start : start + rows] @ und_UD.T
        least_R = np.full(len(similarity_RU), floor - _MARGIN, dtype=np.float32)
        if 0 < neighbours < len(und_UD):
            last = len(und_UD) - neighbours
            least_R = np.maximum(least_R, np.partition(similarity_RU, last, axis=1)[:, last] - np.float32(_MARGIN))
        g_E, u_E = np.nonzero(similarity_RU >= least_R[:, None])
        parts.append(_rescored(gen_GD, und_UD, g_E + start, u_E, (neighbours, floor)))
    if not parts:
        return Edges(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    g_E, u_E, similarity_E = (np.concatenate([vars(p)[name] for p in parts]) for name in ("g_E", "u_E", "similarity_E"))
    return Edges(g_E, u_E, similarity_E)


def normalise(features_ND: np.ndarray) -> np.ndarray:
    """float32 [N, D] with rows of length 1. Raises ValueError for a zero or non-finite row, naming its index."""
    if features_ND.ndim != 2:
        raise ValueError(f"features must be [N, D], not of shape {features_ND.shape}")
    length_N = np.sqrt(np.einsum("nd,nd->n", features_ND, features_ND, dtype=np.float64))
    bad = np.flatnonzero(~(np.isfinite(length_N) & (length_N > 0)))
    if len(bad):
        raise ValueError(f"feature row {bad[0]} is zero or not finite ({len(bad)} such rows)")
    return (features_ND / length_N[:, None]).astype(np.float32)


def _rescored(
    gen_GD: np.ndarray, und_UD: np.ndarray, g_E: np.ndarray, u_E: np.ndarray, limits: tuple[int, float]
) -> Edges:
    """Exact similarities of prefiltered edges: the sum of one edge does not depend on where its rows stand."""
    neighbours, floor = limits
    similarity_E = np.empty(len(g_E))
    step = max(1, _BLOCK // gen_GD.shape[1])
    for start in range(0, len(g_E), step):
        g, u = g_E[start : start + step], u_E[start : start + step]
        similarity_E[start : start + step] = np.einsum("ed,ed->e", gen_GD[g], und_UD[u], dtype=np.float64)
    similarity_E = np.round(similarity_E, DECIMALS)
    kept = similarity_E >= floor
    g_E, u_E, similarity_E = g_E[kept], u_E[kept], np.clip(similarity_E[kept], 0.0, 1.0)
    order = np.lexsort((u_E, -similarity_E, g_E))
    g_E, u_E, similarity_E = g_E[order], u_E[order], similarity_E[order]
    if neighbours:
        kept = np.arange(len(g_E)) - np.searchsorted(g_E, g_E, side="left") < neighbours  # rank within the row
        g_E, u_E, similarity_E = g_E[kept], u_E[kept], similarity_E[kept]
    return Edges(g_E, u_E, similarity_E)


def _first_free(edges: Edges, order_E: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    free_G, free_U = np.ones(size[0], bool), np.ones(size[1], bool)
    chosen = []
    for e, g, u in zip(order_E.tolist(), edges.g_E[order_E].tolist(), edges.u_E[order_E].tolist(), strict=True):
        if free_G[g] and free_U[u]:
            free_G[g] = free_U[u] = False
            chosen.append(e)
    return np.array(chosen, dtype=np.int64)


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
