"""k-means over the images of both sides and one member per cluster (Algorithm 1, first half; paper 2.2).

Pure functions, numpy in and numpy out, float32. The default is spherical Lloyd with full passes: short mini-batch runs
at thousands of clusters leave up to two thirds of them with one image, whose "medoid" is then no prototype, so the
numbers of empty and singleton clusters are part of the result.
Shapes: N images, D features, C clusters.
"""

from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.cluster import MiniBatchKMeans

from pairuni.data.match import normalise

PASSES = 50
"""Most passes of Lloyd's algorithm; it usually settles earlier."""
_BLOCK = 1 << 22  # similarities that are held at once
_POOL = 64  # candidates that are compared with all images in one product while seeding
_MINIBATCH = 8192  # below this, batches hold too few images per cluster at C in the thousands


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
) -> Clustering:
    """Clusters the L2-normalised rows and selects one member of each cluster.

    kmeans: lloyd (spherical, until no image moves or PASSES) or minibatch (scikit-learn, Euclidean). select: medoid,
    the member with the largest inner product with its centroid (the lowest index of equals), or a random member.

    Raises:
        ValueError: as `medoids`, or an unknown option.
    """
    if kmeans not in ("lloyd", "minibatch") or select not in ("medoid", "random"):
        raise ValueError(f"kmeans must be lloyd or minibatch and select medoid or random, not {kmeans!r}, {select!r}")
    if not 1 <= clusters <= len(features_ND):
        raise ValueError(f"clusters must be between 1 and the number of images ({len(features_ND)}), not {clusters}")
    features_ND = normalise(features_ND)
    rng = np.random.default_rng(seed)
    assignment_N, centroids_CD = (_lloyd if kmeans == "lloyd" else _minibatch)(features_ND, clusters, rng)
    score_N = np.einsum("nd,nd->n", features_ND, centroids_CD[assignment_N])
    if select == "random":
        score_N = rng.random(len(features_ND))
    ordered = np.lexsort((np.arange(len(score_N)), -score_N, assignment_N))
    _, first = np.unique(assignment_N[ordered], return_index=True)
    sizes_C = np.bincount(assignment_N, minlength=clusters)
    return Clustering(np.sort(ordered[first]), assignment_N, int((sizes_C == 0).sum()), int((sizes_C == 1).sum()))


def _lloyd(features_ND: np.ndarray, clusters: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(assignment, unit centroids of that assignment). Clusters that get no seed come last and stay empty."""
    centroids_CD = features_ND[_seeds(features_ND, clusters, rng)]
    assignment_N = np.full(len(features_ND), -1)
    for _ in range(PASSES):
        nearest_N = _nearest(features_ND, centroids_CD)
        if np.array_equal(nearest_N, assignment_N):
            break
        assignment_N = nearest_N
        centroids_CD = _centroids(features_ND, assignment_N, centroids_CD)
    return assignment_N, centroids_CD


def _minibatch(features_ND: np.ndarray, clusters: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    # Seeded as Lloyd is: scikit-learn's own k-means++ makes one pass over all images per cluster.
    seeds_CD = features_ND[_seeds(features_ND, clusters, rng)]
    state, batch = int(rng.integers(2**31)), min(_MINIBATCH, len(features_ND))
    # scikit-learn has no annotations: what is inferred from its defaults is wrong.
    model: Any = MiniBatchKMeans(len(seeds_CD), init=cast(Any, seeds_CD), batch_size=batch, random_state=state)
    model.set_params(n_init=1).fit(features_ND)
    return model.labels_.astype(np.int64), model.cluster_centers_.astype(np.float32)


def _seeds(features_ND: np.ndarray, clusters: int, rng: np.random.Generator) -> np.ndarray:
    """Greedy k-means++: of a few rows drawn by squared distance to the seeds, the one that lowers the total most.

    Rows are drawn from pools, so that distances come from matrix products instead of one product per seed. Stops early
    when every row equals a seed.
    """
    tries = 2 + int(np.log(clusters))
    seeds = [int(rng.integers(len(features_ND)))]
    distance_N = _distance(features_ND, features_ND[seeds])[:, 0]
    while len(seeds) < clusters and distance_N.any():
        drawn_N = distance_N.astype(np.float64) / distance_N.sum(dtype=np.float64)
        pool = rng.choice(len(features_ND), min(_POOL, np.count_nonzero(drawn_N)), replace=False, p=drawn_N)
        before = distance_N[pool]
        distance_NP = _distance(features_ND, features_ND[pool])
        for _ in range(min(_POOL // 4, clusters - len(seeds))):
            # Rows of the pool that the seeds since have come close to must become as unlikely as a new draw has it.
            weight = distance_N[pool].astype(np.float64) / before
            if not weight.any():
                break
            few = rng.choice(len(pool), min(tries, np.count_nonzero(weight)), replace=False, p=weight / weight.sum())
            totals = [np.minimum(distance_N, distance_NP[:, i]).sum(dtype=np.float64) for i in few]
            best = few[int(np.argmin(totals))]
            seeds.append(int(pool[best]))
            distance_N = np.minimum(distance_N, distance_NP[:, best])
    return np.array(seeds)


def _distance(features_ND: np.ndarray, others_PD: np.ndarray) -> np.ndarray:
    """Squared distances of unit rows, [N, P]; rows equal up to rounding are at 0."""
    distance_NP = 2 - 2 * (features_ND @ others_PD.T)
    return np.where(distance_NP < 1e-6, np.float32(0), distance_NP)


def _nearest(features_ND: np.ndarray, centroids_CD: np.ndarray) -> np.ndarray:
    rows = max(1, _BLOCK // len(centroids_CD))
    parts = [
        np.argmax(features_ND[start : start + rows] @ centroids_CD.T, axis=1)
        for start in range(0, len(features_ND), rows)
    ]
    return np.concatenate(parts)


def _centroids(features_ND: np.ndarray, assignment_N: np.ndarray, old_CD: np.ndarray) -> np.ndarray:
    """Unit means; a cluster without members, or whose members cancel, keeps its centroid and may win members again."""
    n = len(features_ND)
    member = csr_matrix((np.ones(n, np.float32), (assignment_N, np.arange(n))), shape=(len(old_CD), n))
    sum_CD = np.asarray(member @ features_ND)
    length_C = np.linalg.norm(sum_CD, axis=1, keepdims=True)
    return np.where(length_C > 1e-6, sum_CD / np.maximum(length_C, 1e-6), old_CD).astype(np.float32)
