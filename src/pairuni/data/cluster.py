"""k-means over the images of both sides and one member per cluster (Algorithm 1, first half; paper 2.2).

Pure functions, numpy in and numpy out, float32. The default is spherical Lloyd with full passes: short mini-batch runs
at thousands of clusters leave up to two thirds of them with one image, whose "medoid" is then no prototype, so the
numbers of empty and singleton clusters are part of the result. scikit-learn has no spherical k-means and its k-means++
makes one pass over all images per cluster, so both are written here. The nearest centroid is decided in float64
(products.py), so that threads and devices do not change the result (they may with minibatch, scikit-learn's).
Shapes: N images, R of them, D features, C clusters, P rows of a pool.
"""

from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from scipy.sparse import csr_matrix
from sklearn.cluster import MiniBatchKMeans

from pairuni.data.match import normalise
from pairuni.data.products import above, below, exact
from pairuni.progress import track
from pairuni.streams import Stream, generator

PASSES = 50
"""Most passes of Lloyd's algorithm; it usually settles earlier."""
_POOL = 64  # candidates that are compared with all images in one product while seeding
_SKETCH = 128  # dimensions that seeding measures distances in
_MINIBATCH = 8192  # below this, batches hold too few images per cluster at C in the thousands
_ROWS = 1 << 14  # images that are projected at once, and from which on a bar is shown


@dataclass(frozen=True)
class Clustering:
    """Which images were selected, and how the clusters look."""

    selected: np.ndarray
    """int64, sorted and unique: one member of each cluster that is not empty."""
    assignment_N: np.ndarray
    """int64, each image's cluster."""
    empty: int
    """Clusters without a member."""
    singletons: int
    """Clusters with one member."""
    passes: int
    """Passes over the images, 0 for minibatch, which counts otherwise."""
    settled: bool
    """Whether no image moved in the last pass (minibatch: whether it stopped before its limit)."""
    mean_cosine: float
    """Mean cosine of images with the centroid of their cluster."""


def medoids(features_ND: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """The most central image of each spherical k-means cluster, as sorted unique int64 row indices.

    Fewer than `clusters` come back where clusters stay empty (more clusters than distinct rows).

    Raises:
        ValueError: clusters is not in [1, N], or a feature row is zero or not finite.
    """
    return cluster(features_ND, clusters, seed, kmeans="lloyd", select="medoid").selected


def cluster(
    features_ND: np.ndarray,
    clusters: int,
    seed: int,
    kmeans: Literal["lloyd", "minibatch"],
    select: Literal["medoid", "random"],
    passes: int = PASSES,
) -> Clustering:
    """Clusters the L2-normalised rows and selects one member of each cluster.

    kmeans: lloyd (spherical, until no image moves or `passes`) or minibatch (scikit-learn, Euclidean). select: medoid,
    the member with the largest inner product with its centroid (the lowest index of equals), or a random member.

    Raises:
        ValueError: as `medoids`, an unknown option, or passes < 1.
    """
    if kmeans not in ("lloyd", "minibatch") or select not in ("medoid", "random"):
        raise ValueError(f"kmeans must be lloyd or minibatch and select medoid or random, not {kmeans!r}, {select!r}")
    if not 1 <= clusters <= len(features_ND):
        raise ValueError(f"clusters must be between 1 and the number of images ({len(features_ND)}), not {clusters}")
    if passes < 1:
        raise ValueError(f"passes must be positive, not {passes}")
    features_ND = normalise(features_ND)
    k_means = _lloyd if kmeans == "lloyd" else _minibatch
    assignment_N, centroids_CD, done, settled = k_means(features_ND, clusters, generator(seed, Stream.CLUSTERS), passes)
    score_N = exact(features_ND, centroids_CD, np.arange(len(features_ND)), assignment_N)
    length_C = np.maximum(np.linalg.norm(centroids_CD, axis=1), np.finfo(np.float32).tiny)
    mean_cosine = float((score_N / length_C[assignment_N]).mean())
    if select == "random":
        score_N = generator(seed, Stream.CLUSTER_MEMBER).random(len(features_ND))
    ordered = np.lexsort((np.arange(len(score_N)), -score_N, assignment_N))
    _, first = np.unique(assignment_N[ordered], return_index=True)
    sizes_C = np.bincount(assignment_N, minlength=clusters)
    selected, empty, singletons = np.sort(ordered[first]), int((sizes_C == 0).sum()), int((sizes_C == 1).sum())
    return Clustering(selected, assignment_N, empty, singletons, done, settled, mean_cosine)


def _lloyd(
    features_ND: np.ndarray, clusters: int, rng: np.random.Generator, passes: int
) -> tuple[np.ndarray, np.ndarray, int, bool]:
    """(assignment [N], unit centroids [C, D] of it, passes, settled). Clusters without a seed come last and are empty.

    A cluster without images, or whose images cancel, keeps its centroid and may win images again.
    """
    n = len(features_ND)
    centroids_CD = features_ND[_seeds(features_ND, clusters, rng)]
    assignment_N, done, settled = np.full(n, -1), 0, False
    with track(total=passes, desc="k-means", unit="pass", disable=n < _ROWS) as bar:
        while done < passes and not settled:
            nearest_N = nearest(features_ND, centroids_CD)
            moved = int((nearest_N != assignment_N).sum())
            assignment_N, done, settled = nearest_N, done + 1, not moved
            ends = (assignment_N, np.arange(n))
            member_CN = csr_matrix((np.ones(n, np.float32), ends), shape=(len(centroids_CD), n))
            sum_CD = np.asarray(member_CN @ features_ND)
            length_C1 = np.linalg.norm(sum_CD, axis=1, keepdims=True)
            centroids_CD = np.where(length_C1 > 1e-6, sum_CD / np.maximum(length_C1, 1e-6), centroids_CD)
            bar.update()
            bar.set_postfix(moved=moved)
    return assignment_N, centroids_CD, done, settled


def nearest(features_ND: np.ndarray, centroids_CD: np.ndarray) -> np.ndarray:
    """int64 [N]: the centroid with the largest inner product in float64, the first of equals. All rows are unit."""

    def limit(products_RS: torch.Tensor, start: int, margin_R1: torch.Tensor) -> torch.Tensor:
        return below(products_RS.amax(dim=1, keepdim=True)) - 2 * margin_R1

    parts = list(above(features_ND, centroids_CD, limit))
    row_E, column_E = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.lexsort((column_E, -exact(features_ND, centroids_CD, row_E, column_E), row_E))
    return column_E[order[np.flatnonzero(np.diff(row_E[order], prepend=-1))]]  # the first place of each row


def _minibatch(
    features_ND: np.ndarray, clusters: int, rng: np.random.Generator, passes: int
) -> tuple[np.ndarray, np.ndarray, int, bool]:
    """As `_lloyd`."""
    # Seeded as Lloyd is: scikit-learn's own k-means++ makes one pass over all images per cluster.
    seeds_CD = features_ND[_seeds(features_ND, clusters, rng)]
    state, batch = int(rng.integers(2**31)), min(_MINIBATCH, len(features_ND))
    # scikit-learn has no annotations, and pyright infers wrong types from its defaults.
    model: Any = MiniBatchKMeans(len(seeds_CD), init=cast(Any, seeds_CD), batch_size=batch, random_state=state)
    model.set_params(n_init=1, max_iter=passes).fit(features_ND)
    settled = model.n_steps_ < passes * len(features_ND) // batch
    return model.labels_.astype(np.int64), model.cluster_centers_.astype(np.float32), 0, settled


def _seeds(features_ND: np.ndarray, clusters: int, rng: np.random.Generator) -> np.ndarray:
    """Greedy k-means++: of a few rows drawn by squared distance to the seeds, the one that lowers the total most.

    Rows are drawn from pools, so that distances come from matrix products instead of one product per seed, of a sketch
    of the rows in float64: rounding that differs between machines could only in theory change a draw. Stops early when
    every row equals a seed.
    """
    sketch_NK = _sketch(features_ND, rng)
    tries = 2 + int(np.log(clusters))
    seeds = [int(rng.integers(len(features_ND)))]
    distance_N = _distance(sketch_NK, np.array(seeds))[0]
    with track(total=clusters, initial=1, desc="k-means seeds", unit="seed", disable=len(features_ND) < _ROWS) as bar:
        while len(seeds) < clusters and distance_N.any():
            pool_share = distance_N / distance_N.sum()
            size = min(_POOL, np.count_nonzero(pool_share))
            pool = rng.choice(len(features_ND), size, replace=False, p=pool_share)
            before = distance_N[pool]
            distance_PN = _distance(sketch_NK, pool)
            for _ in range(min(_POOL // 2, clusters - len(seeds))):
                # Rows of the pool that the seeds since have come close to must become as unlikely as a new draw has it.
                weight = distance_N[pool] / before
                if not weight.any():
                    break
                few = rng.choice(size, min(tries, np.count_nonzero(weight)), replace=False, p=weight / weight.sum())
                left = [np.minimum(distance_N, distance_PN[i]) for i in few]
                best = int(np.argmin([each.sum() for each in left]))
                seeds.append(int(pool[few[best]]))
                distance_N = left[best]
                bar.update()
    return np.array(seeds)


def _sketch(features_ND: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """float64 [N, at most _SKETCH + 2]: the rows, or random projections that keep distances to within some 10 %.

    The last two columns are a row's squared length and 1: with them, a squared distance is one inner product.
    """
    n, width = features_ND.shape
    if width <= _SKETCH:
        kept_NK = features_ND.astype(np.float64)
    else:
        signs_DK = rng.choice((-1.0, 1.0), size=(width, _SKETCH)) / np.sqrt(_SKETCH)
        starts = range(0, n, _ROWS)
        kept_NK = np.concatenate([features_ND[start : start + _ROWS].astype(np.float64) @ signs_DK for start in starts])
    return np.column_stack([kept_NK, np.einsum("nk,nk->n", kept_NK, kept_NK), np.ones(n)])


def _distance(sketch_NK: np.ndarray, rows_P: np.ndarray) -> np.ndarray:
    """Squared distances of these rows to all, [P, N]; rows equal up to the rounding of their features are at 0."""
    rows_PK = sketch_NK[rows_P]
    factor_PK = np.column_stack([-2 * rows_PK[:, :-2], rows_PK[:, -1], rows_PK[:, -2]])
    distance_PN = factor_PK @ sketch_NK.T
    distance_PN[distance_PN < 1e-6] = 0
    return distance_PN
