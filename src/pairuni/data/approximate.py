"""The candidate graph from an approximate index, for sizes at which all products take too long.

An inverted file of faiss over the understanding rows: a generation row is compared with the rows of the lists whose
centres are nearest to it. Edges that it finds get their exact similarity, as from `candidates`; `recall` measures on a
sample how many it finds. Shapes as in match.py.
"""

from math import isqrt

import numpy as np

from pairuni.data.match import Edges, candidates, normalise, ordered, scored
from pairuni.errors import InputError
from pairuni.streams import Stream, generator, number

_MARGIN = 1e-5  # of faiss's float32 products
_ROWS = 4096  # generation rows that are looked up at once
_TRAINING = 64  # rows per list that the lists are made from
_SAMPLE = 1000  # generation rows whose edges are compared with all products


def approximate_candidates(
    gen_GD: np.ndarray, und_UD: np.ndarray, neighbours: int, floor: float, *, probes: int, seed: int
) -> Edges:
    """The graph of `match.candidates`, with some edges missing.

    Args:
        probes: lists that a row is compared with; as many as there are (about 4 sqrt(U)) find everything.

    Raises:
        InputError: faiss is not installed.
        ValueError: a feature row is zero or not finite.
    """
    try:
        import faiss  # an extra of many megabytes that few need
    except ImportError:
        raise InputError('ivf needs faiss: pip install "pairuni[faiss]"', field="index") from None
    gen_GD, und_UD = normalise(gen_GD), normalise(und_UD)
    lists = max(1, min(4 * isqrt(len(und_UD)), len(und_UD) // 4))
    centres = faiss.IndexFlatIP(und_UD.shape[1])
    index = faiss.IndexIVFFlat(centres, und_UD.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.spherical, index.cp.min_points_per_centroid = True, 1
    index.cp.seed = number(seed, Stream.INDEX_LISTS, bits=31)
    some = generator(seed, Stream.INDEX_TRAINING).permutation(len(und_UD))[: _TRAINING * lists]
    index.train(np.take(und_UD, some, axis=0))
    index.add(und_UD)
    index.nprobe = min(probes, lists)
    parts = []
    for start in range(0, len(gen_GD), _ROWS):
        rows_RD = np.ascontiguousarray(gen_GD[start : start + _ROWS])
        if neighbours:
            _, found_RK = index.search(rows_RD, neighbours)
            row_E, u_E = np.repeat(np.arange(len(rows_RD)), neighbours), found_RK.ravel()
            row_E, u_E = row_E[u_E >= 0], u_E[u_E >= 0]  # -1 where the lists hold fewer
        else:
            ends_R, _, u_E = index.range_search(rows_RD, floor - _MARGIN)
            row_E = np.repeat(np.arange(len(rows_RD)), np.diff(ends_R.astype(np.int64)))
        parts.append(scored(gen_GD, und_UD, row_E + start, u_E, floor))
    return ordered(parts, neighbours)


def recall(
    edges: Edges, gen_GD: np.ndarray, und_UD: np.ndarray, neighbours: int, floor: float, *, seed: int
) -> tuple[float, int]:
    """(share of the true edges that are in `edges`, number of true edges), of a seeded sample of generation rows.

    1.0 where the sample has no edge.
    """
    rows = np.sort(generator(seed, Stream.INDEX_RECALL).permutation(len(gen_GD))[:_SAMPLE])
    true = candidates(np.take(gen_GD, rows, axis=0), und_UD, neighbours, floor)
    width = len(und_UD)
    found = np.isin(rows[true.g_E] * width + true.u_E, edges.g_E * width + edges.u_E)
    return float(found.mean()) if len(found) else 1.0, len(found)
