"""De-duplication and contamination against brute force. What counts as one picture is test_near_copies.py."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_files import write_lines
from pairuni.data import cleaning
from pairuni.data.cleaning import (
    cosine_of_bits,
    near_copies,
    near_references,
    proposed,
    read_references,
)
from pairuni.errors import InputError


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(1, 30), floor=st.sampled_from([0.3, 0.6, 0.9]))
def test_proposals_and_copies_against_brute_force(seed, rows, floor):
    """Fewer rows than are looked at for each, so that every pair at the floor is proposed."""
    rng = np.random.default_rng(seed)
    features, bits = rng.normal(size=(rows, 3)), np.where(rng.random((rows, 64)) < 0.5, 1.0, -1.0)
    cosine = unit(features) @ unit(features).T
    found = proposed((features, bits), (features, bits), floor, 0.9)
    assert set(found) == {(i, j) for i in range(rows) for j in range(rows) if cosine[i, j] >= floor}
    assert all(value == pytest.approx(cosine[pair]) for pair, value in found.items())
    alike = rng.random((rows, rows)) < 0.7
    copies = near_copies(found, lambda i, j: bool(alike[j, i]))
    for later in range(rows):
        may = [j for j in range(later) if cosine[later, j] >= floor and alike[j, later] and j not in copies]
        assert (later in copies) == bool(may)
        if may:
            best = max(may, key=lambda j, later=later: cosine[later, j])
            assert copies[later] == (best, pytest.approx(cosine[later, best]))


def test_hashes_propose_beyond_the_nearest_by_features(monkeypatch):
    """Row 0's nearest rows by features are others; its hash names row 3, whose features are alike enough."""
    monkeypatch.setattr(cleaning, "_MOST", 2)
    features = np.array([[1, 0.0], [1, 0.01], [1, 0.02], [1, 0.5]])
    bits = np.where(np.random.default_rng(0).random((4, 64)) < 0.5, 1.0, -1.0)
    bits[3] = bits[0]
    assert (0, 3) in proposed((features, bits), (features, bits), 0.6, 0.9)
    assert (0, 3) not in proposed((features, bits), (features, bits), 0.95, 0.9), "features have a say"
    bits[3] = -bits[0]
    assert (0, 3) not in proposed((features, bits), (features, bits), 0.6, 0.9)


def test_a_chain_of_copies_keeps_every_second():
    """0 ~ 1 ~ 2, but 2 is not near 0: only what copies something kept goes."""
    assert list(near_copies({(1, 0): 0.9, (2, 1): 0.9}, lambda i, j: True)) == [1]


def test_near_references_name_the_most_similar_that_is_the_same():
    pairs = {(0, 3): 1.0, (0, 1): 0.9, (2, 1): 0.8}
    assert near_references(pairs, lambda i, j: True) == {0: (3, 1.0), 2: (1, 0.8)}
    assert near_references(pairs, lambda i, j: j != 3) == {0: (1, 0.9), 2: (1, 0.8)}
    nothing = np.empty((0, 8)), np.empty((0, 64))
    assert proposed((np.ones((3, 8)), np.ones((3, 64))), nothing, 0.5, 0.5) == {}


@pytest.mark.parametrize("bits", [0, 1, 6, 32])
def test_cosines_count_bits(bits):
    one, other = np.ones(64), np.ones(64)
    other[:bits] = -1
    assert one @ other / 64 == cosine_of_bits(bits)


def test_references_are_read(tmp_path):
    rows = [{"image_path": "a.png", "question": "What is it?"}, {"prompt": "a cat", "n": 3}, {"prompt": 5}]
    found = read_references([str(write_lines(tmp_path / "r.jsonl", rows))])
    assert found == ([tmp_path / "a.png"], ["What is it?", "a cat"])
    with pytest.raises(InputError, match=r"r.jsonl:1: image_path"):
        read_references([str(write_lines(tmp_path / "r.jsonl", [{"image_path": "../a.png"}]))])
