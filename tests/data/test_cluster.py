"""cluster: planted clusters are found, medoids are what their definition says, edge cases are refused or counted."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pairuni.data import cluster as module
from pairuni.data.cluster import cluster, medoids


def planted(groups: int, each: int, noise: float, seed: int, width: int = 16) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(groups, width))
    label = rng.permutation(np.repeat(np.arange(groups), each))
    return (centres[label] + noise * rng.normal(size=(groups * each, width))).astype(np.float32), label


@pytest.mark.parametrize("seed", range(8))
def test_planted_clusters_get_one_medoid_each(seed):
    features, label = planted(12, 15, 0.05, seed)
    chosen = medoids(features, 12, seed)
    assert sorted(label[chosen].tolist()) == list(range(12))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    for row in chosen:  # by definition, in float64 and by loops
        members = np.flatnonzero(label == label[row])
        mean = unit[members].astype(float).mean(axis=0)
        scores = [float(unit[m].astype(float) @ mean) for m in members]
        assert scores[members.tolist().index(row)] == pytest.approx(max(scores), abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(1, 40), data=st.data(), kmeans=st.sampled_from(["lloyd", "minibatch"]))
def test_properties(seed, n, data, kmeans):
    clusters = data.draw(st.integers(1, n))
    select = data.draw(st.sampled_from(["medoid", "random"]))
    features = np.random.default_rng(seed).normal(size=(n, 4)).astype(np.float32)
    found = cluster(features, clusters, seed, kmeans, select)
    sizes = np.bincount(found.assignment_N, minlength=clusters)
    assert len(sizes) == clusters and sizes.sum() == n
    assert (found.empty, found.singletons) == ((sizes == 0).sum(), (sizes == 1).sum())
    assert (np.diff(found.selected) > 0).all() and len(found.selected) == clusters - found.empty
    assert len(set(found.assignment_N[found.selected].tolist())) == len(found.selected)
    assert np.array_equal(found.selected, cluster(features, clusters, seed, kmeans, select).selected)


def test_lloyd_settles_where_every_image_is_with_its_nearest_centroid():
    features, _ = planted(6, 30, 0.8, 0)
    found = cluster(features, 9, 1, "lloyd", "medoid")
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    centroids = np.stack([unit[found.assignment_N == c].mean(axis=0) for c in range(9)])
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    assert np.array_equal(np.argmax(unit @ centroids.T, axis=1), found.assignment_N)


def test_length_of_rows_does_not_matter():
    features, _ = planted(5, 10, 0.1, 0)
    scale = np.random.default_rng(1).uniform(0.5, 2, size=(50, 1))
    assert np.array_equal(medoids(features, 5, 0), medoids((features * scale).astype(np.float32), 5, 0))


def test_every_image_its_own_cluster():
    features = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    found = cluster(features, 30, 0, "lloyd", "medoid")
    assert found.selected.tolist() == list(range(30)) and (found.empty, found.singletons) == (0, 30)


def test_more_clusters_than_distinct_rows_leaves_empty_ones():
    features = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    found = cluster(features, 6, 0, "lloyd", "medoid")
    assert found.selected.tolist() == [0, 4, 8] and (found.empty, found.singletons) == (3, 0)


def test_pools_and_blocks_reach_many_clusters(monkeypatch):
    monkeypatch.setattr(module, "_ROWS", 32)
    features, label = planted(150, 4, 0.02, 3, width=32)
    chosen = medoids(features, 150, 0)
    assert len(set(label[chosen].tolist())) >= 148


def test_random_selection_is_seeded_and_differs_from_the_medoid():
    features, _ = planted(10, 20, 0.3, 0)
    picks = {tuple(cluster(features, 10, seed, "lloyd", "random").selected.tolist()) for seed in range(3)}
    assert len(picks) == 3
    assert tuple(medoids(features, 10, 0).tolist()) not in picks


def test_minibatch_finds_planted_clusters_too():
    features, label = planted(3, 40, 0.05, 0)
    found = cluster(features, 3, 0, "minibatch", "medoid")
    assert all(len(set(found.assignment_N[label == k].tolist())) == 1 for k in range(3))


@pytest.mark.parametrize(
    ("features", "clusters", "message"),
    [
        (np.eye(3), 4, "clusters"),
        (np.eye(3), 0, "clusters"),
        (np.zeros((3, 2)), 1, "row 0"),
        (np.array([[1.0, 0], [np.nan, 0]]), 1, "row 1"),
        (np.array([[1.0, 0], [np.inf, 0]]), 1, "row 1"),
        (np.ones(3), 1, "shape"),
    ],
)
def test_refuses(features, clusters, message):
    with pytest.raises(ValueError, match=message):
        medoids(features, clusters, 0)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_nearest_is_nearest_in_float64_where_two_centroids_are_almost_as_near(monkeypatch, precision):
    monkeypatch.setattr("pairuni.data.products.fastest", lambda: precision)
    rng = np.random.default_rng(0)
    centroids = rng.normal(size=(40, 64))
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    first, second = rng.integers(40, size=(2, 500))
    tilt = rng.choice([-1, 1], size=(500, 1)) * 10.0 ** rng.uniform(-6, -3, size=(500, 1))
    rows = (1 + tilt) * centroids[first] + centroids[second]
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    truth = rows.astype(np.float64) @ centroids.astype(np.float32).astype(np.float64).T
    assert np.array_equal(module.nearest(rows, centroids.astype(np.float32)), truth.argmax(axis=1))
