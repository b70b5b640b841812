"""products: proposals lose nothing whatever their precision; exact products depend on nothing else."""

import hashlib

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from pairuni.data import products
from pairuni.data.cluster import cluster
from pairuni.data.match import candidates, match
from pairuni.data.products import above, exact, fastest

PRECISIONS = [torch.float32, torch.bfloat16]


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def clustered(n: int, width: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(width).normal(size=(8, width))  # the same for all seeds
    return unit(centres[rng.integers(8, size=n)] + rng.uniform(0.3, 1.2, size=(n, 1)) * rng.normal(size=(n, width)))


def floor_limit(floor: float):
    return lambda block, start, margin_R1: floor - margin_R1


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("floor", [0.0, 0.31, 0.6, 0.85])
def test_every_place_that_reaches_the_floor_is_proposed(precision, floor):
    left, right = clustered(300, 96, 0), clustered(200, 96, 1)
    truth = left.astype(np.float64) @ right.astype(np.float64).T
    proposed = {
        (r, c)
        for row, column in above(left, right, floor_limit(floor), precision)
        for r, c in zip(row, column, strict=True)
    }
    assert {(int(r), int(c)) for r, c in np.argwhere(truth >= floor)} <= proposed
    few = {(int(r), int(c)) for r, c in np.argwhere(truth >= floor - 0.013)}
    assert proposed <= few  # the margin is no excuse to propose everything


@pytest.mark.parametrize("precision", PRECISIONS)
def test_rounding_that_goes_all_one_way_is_within_the_margin(precision):
    # 1/sqrt(1016) is 2**-5 (1 + 2**-8), halfway between two bfloat16: both factors of every product lose the most.
    used = []
    for n in (1015, 1016, 1017, 254, 4064):
        row = unit(np.ones((1, n)))
        assert [r.tolist() for r, _ in above(row, row, floor_limit(1.0), precision)] == [[0]]
        rounded = torch.tensor(row).to(precision).double()
        used.append(abs(1 - float(rounded @ rounded.T)) / margin_of(row, row, precision).item())
    assert max(used) < 1
    assert precision == torch.float32 or max(used) > 0.95  # the bound is reached, not merely kept


def margin_of(left: np.ndarray, right: np.ndarray, precision: torch.dtype) -> np.ndarray:
    seen = []

    def limit(block: torch.Tensor, start: int, margin_R1: torch.Tensor) -> torch.Tensor:
        seen.append(margin_R1.numpy().copy())
        return torch.ones(len(block), 1)

    list(above(left, right, limit, precision))
    return np.concatenate(seen)


@pytest.mark.parametrize("width", [3, 64, 2048])
def test_the_margin_covers_the_rounding_that_is_there(width):
    for seed, sparse in ((0, False), (1, True)):
        rows = np.random.default_rng(seed).normal(size=(2, 400, width)).astype(np.float32)
        left, right = (unit(np.maximum(side, 1e-9) if sparse else side) for side in rows)
        # Independent of torch: bfloat16 is the upper half of a float32, rounded to nearest (ties are not in this data).
        kept = [((r.view(np.uint32) + 0x8000) & 0xFFFF0000).view(np.float32).astype(float) for r in (left, right)]
        off = np.abs(left.astype(float) @ right.astype(float).T - kept[0] @ kept[1].T)
        margin = margin_of(left, right, torch.bfloat16)
        assert (off <= margin).all() and margin.max() < 0.0081
        assert width < 2048 or margin.max() < 0.0041  # the rounding of many values partly cancels


def test_what_a_rounded_product_was_is_bounded_from_below():
    value = torch.rand(10_000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for precision in PRECISIONS:
        assert (products.below(value.to(precision)) <= value).all()


def test_blocks_and_shards_do_not_change_what_is_proposed(monkeypatch):
    left, right = clustered(70, 32, 0), clustered(90, 32, 1)

    def places() -> list[tuple[int, int]]:
        found = above(left, right, floor_limit(0.5), torch.float32)
        return sorted((int(r), int(c)) for row, column in found for r, c in zip(row, column, strict=True))

    whole = places()
    monkeypatch.setitem(products.SIZES, "cpu", (16, 64))
    assert places() == whole and len(whole) > 100


def test_top_n_over_shards_equals_sorting_everything(monkeypatch):
    gen, und = clustered(40, 24, 2), clustered(120, 24, 3)
    monkeypatch.setitem(products.SIZES, "cpu", (16, 1 << 22))
    truth = np.round(gen.astype(np.float64) @ und.astype(np.float64).T, 7)
    for neighbours in (1, 5, 20):
        edges = candidates(gen, und, neighbours, 0.2)
        for g in range(len(gen)):
            ranked = sorted(range(len(und)), key=lambda u: (-truth[g, u], u))[:neighbours]
            assert edges.u_E[edges.g_E == g].tolist() == [u for u in ranked if truth[g, u] >= 0.2]


@pytest.mark.parametrize("neighbours", [0, 4])
def test_the_graph_does_not_depend_on_the_precision(monkeypatch, neighbours):
    gen, und = clustered(400, 64, 4), clustered(300, 64, 5)
    graphs = []
    for precision in PRECISIONS:
        monkeypatch.setattr("pairuni.data.products.fastest", lambda precision=precision: precision)
        graphs.append(candidates(gen, und, neighbours, 0.6))
    assert all(np.array_equal(vars(graphs[0])[name], vars(graphs[1])[name]) for name in vars(graphs[0]))
    assert len(graphs[0].g_E) > 500


def test_clusters_do_not_depend_on_the_precision(monkeypatch):
    features = clustered(900, 48, 6)
    found = []
    for precision in PRECISIONS:
        monkeypatch.setitem(products.SIZES, "cpu", (25 if found else 4096, 1 << 22))  # nor on shards
        monkeypatch.setattr("pairuni.data.products.fastest", lambda precision=precision: precision)
        found.append(cluster(features, 60, 0, "lloyd", "medoid"))
    assert np.array_equal(found[0].assignment_N, found[1].assignment_N)
    assert np.array_equal(found[0].selected, found[1].selected)


def test_exact_products_do_not_depend_on_their_neighbours(monkeypatch):
    left, right = clustered(50, 333, 7), clustered(60, 333, 8)
    row, column = (part.ravel() for part in np.indices((50, 60)))
    whole = exact(left, right, row, column)
    monkeypatch.setattr(products, "_GATHER", 1000)
    assert np.array_equal(exact(left, right, row[::-1], column[::-1])[::-1], whole)
    assert np.allclose(whole, (left.astype(np.float64) @ right.astype(np.float64).T).ravel(), atol=1e-12)


def test_memory_mapped_rows_are_read_without_a_warning(tmp_path, recwarn):
    rows = clustered(20, 16, 9)
    rows.tofile(tmp_path / "rows.f32")
    mapped = np.memmap(tmp_path / "rows.f32", np.float32, "r", shape=rows.shape)
    assert np.array_equal(candidates(mapped, mapped, 1, 0.6).u_E, np.arange(20)) and not len(recwarn)


def test_a_precision_is_chosen():
    assert fastest() in PRECISIONS


def test_threads_do_not_change_the_result():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(90, 256))[rng.integers(90, size=3000)] + 1.2 * rng.normal(size=(3000, 256))
    rows = rows.astype(np.float32)
    prints = set()
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            with threadpool_limits(threads):  # of NumPy's and SciPy's BLAS
                found = cluster(rows, 150, 0, "lloyd", "medoid")
                g, u, s = match(rows[:1600], rows[1600:], 0, 0.5, "paper_order")
        finally:
            torch.set_num_threads(before)
        assert len(g) > 100 and found.passes > 3
        parts = (found.assignment_N, found.selected, g, u, s)
        prints.add(hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest())
    assert len(prints) == 1
