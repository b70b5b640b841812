"""The approximate graph: all probes give the exact graph, few probes a part of it, and recall says how large a part."""

import sys

import numpy as np
import pytest

from pairuni.config import PairConfig
from pairuni.data.approximate import approximate_candidates, recall
from pairuni.data.match import candidates
from pairuni.data.pairing import build_pairs
from pairuni.errors import InputError
from pairuni.types import Quadruple, Side


def clustered(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(40, 48))
    rows = centres[rng.integers(40, size=n)] + 0.9 * rng.normal(size=(n, 48))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


GEN, UND = clustered(700, 0), clustered(800, 1)


@pytest.mark.parametrize("neighbours", [0, 5])
def test_all_lists_give_the_exact_graph(neighbours):
    found = approximate_candidates(GEN, UND, neighbours, 0.4, probes=10_000, seed=0)
    true = candidates(GEN, UND, neighbours, 0.4)
    assert all(np.array_equal(vars(found)[name], vars(true)[name]) for name in vars(true))
    assert recall(found, GEN, UND, neighbours, 0.4, seed=0)[0] == 1.0


def test_few_lists_give_a_part_and_recall_measures_it():
    found = approximate_candidates(GEN, UND, 0, 0.4, probes=1, seed=0)
    true = candidates(GEN, UND, 0, 0.4)
    have = set(zip(found.g_E.tolist(), found.u_E.tolist(), strict=True))
    want = set(zip(true.g_E.tolist(), true.u_E.tolist(), strict=True))
    assert have < want
    share, edges = recall(found, GEN, UND, 0, 0.4, seed=0)  # 700 rows: the sample is all of them
    assert edges == len(want) and share == pytest.approx(len(have) / len(want)) and share < 0.9
    more = approximate_candidates(GEN, UND, 0, 0.4, probes=8, seed=0)
    assert recall(more, GEN, UND, 0, 0.4, seed=0)[0] > share


def test_it_is_an_option_of_pairing_that_reports_its_recall():
    features = np.concatenate([GEN, UND])
    sides = [Side.GENERATION] * len(GEN) + [Side.UNDERSTANDING] * len(UND)
    quadruples = [Quadruple(str(n), side, f"{n}.png", "p", "q", "a") for n, side in enumerate(sides)]
    options = {"clusters": 20, "similarity_floor": 0.4, "kmeans_passes": 5}
    graphs = {}
    for index, probes in (("exact", 1), ("ivf", 1), ("ivf", 10_000)):
        config = PairConfig("q", "o", index=index, index_probes=probes, **options)
        graphs[index, probes] = build_pairs(quadruples, features, config)
    exact, few, every = graphs.values()
    assert exact.graph == {"index": "exact", "edges": exact.graph["edges"]}
    assert few.graph["index"] == "ivf" and 0.1 < few.graph["recall"] < 0.9 and few.graph["recall_of_edges"] > 1000
    assert few.graph["edges"] < exact.graph["edges"] == every.graph["edges"] and every.graph["recall"] == 1.0
    assert [p.to_json() for p in every.pairs] == [p.to_json() for p in exact.pairs]


def test_without_faiss_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match=r"pairuni\[faiss\]"):
        approximate_candidates(GEN, UND, 0, 0.6, probes=1, seed=0)
