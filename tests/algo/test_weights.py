"""Pair weights: the three schemes, and what is refused."""

import math

import numpy as np
import pytest
import torch

from pairuni.algo.weights import pair_weights

SIMILARITY, ALIGNED = [1.0, 0.64, 0.0, 0.25], [True, False, False, True]


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [("none", [1, 1, 1, 1]), ("linear", [1, 0.64, 0, 1]), ("sqrt", [1, 0.8, 0, 1])],
)
def test_schemes(scheme, expected):
    for similarity, aligned in (
        (SIMILARITY, ALIGNED),
        (np.array(SIMILARITY), np.array(ALIGNED)),
        (torch.tensor(SIMILARITY), torch.tensor(ALIGNED)),
    ):
        np.testing.assert_allclose(pair_weights(similarity, aligned, scheme), expected, atol=1e-7)


def test_square_root_lies_above_the_similarity():
    similarity = torch.linspace(0.05, 0.95, 19)
    retrieved = torch.zeros(19, dtype=torch.bool)
    root, linear = (pair_weights(similarity, retrieved, scheme) for scheme in ("sqrt", "linear"))
    assert bool((root > linear).all())
    np.testing.assert_allclose(root, [math.sqrt(s) for s in similarity.tolist()], atol=1e-6)


@pytest.mark.parametrize("bad", [math.nan, -0.01, 1.01, math.inf])
@pytest.mark.parametrize("scheme", ["none", "linear", "sqrt"])
@pytest.mark.parametrize("aligned", [True, False])
def test_similarity_outside_its_range_is_refused(bad, scheme, aligned):
    with pytest.raises(ValueError, match="similarity"):
        pair_weights([0.5, bad], [False, aligned], scheme)


def test_other_mistakes_are_refused():
    with pytest.raises(ValueError, match="sqrt"):
        pair_weights([0.5], [False], "cubic")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="both be"):
        pair_weights([0.5, 0.5], [False], "sqrt")
    with pytest.raises(ValueError, match="both be"):
        pair_weights([[0.5]], [[False]], "sqrt")  # pyright: ignore[reportArgumentType]
