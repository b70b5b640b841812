"""The gradient cosine against NumPy, and a conflict that is worked out by hand."""

import numpy as np
import pytest
import torch

from pairuni.algo import gradients
from pairuni.algo.gradients import count_sketch, gradient_cosine


def test_it_is_the_cosine_of_the_long_vectors() -> None:
    rng = np.random.default_rng(0)
    shapes = [(3, 4), (5,), (2, 1, 2)]
    a, b = ([rng.normal(size=shape).astype(np.float32) for shape in shapes] for _ in range(2))
    long_a, long_b = (np.concatenate([part.ravel() for part in parts]).astype(float) for parts in (a, b))
    expected = long_a @ long_b / np.linalg.norm(long_a) / np.linalg.norm(long_b)
    got = gradient_cosine(*([torch.from_numpy(part) for part in parts] for parts in (a, b)))
    assert got == pytest.approx(expected, abs=1e-12)


def test_two_losses_that_pull_apart() -> None:
    # 3x + 4y and -3x + 4y: (3, 4) and (-3, 4), hence (16 - 9) / 25. What only one loss uses has no share in the dot.
    x, y, z = (torch.zeros(1, requires_grad=True) for _ in range(3))
    grads = []
    for loss in (3 * x + 4 * y, -3 * x + 4 * y):
        grads.append(torch.autograd.grad(loss, [x, y, z], allow_unused=True))
    assert grads[0][2] is None and gradient_cosine(*grads) == pytest.approx(7 / 25)
    assert gradient_cosine(grads[0], [-g if g is not None else None for g in grads[0]]) == -1.0
    assert gradient_cosine(grads[0], [*grads[0][:2], torch.full((1,), 5.0)]) == pytest.approx(5 / 50**0.5)


def test_zero_vectors_and_unequal_lengths() -> None:
    some = [torch.ones(2)]
    for zero in ([torch.zeros(2)], [None]):
        assert gradient_cosine(some, zero) == gradient_cosine(zero, zero) == 0.0
    assert gradient_cosine([], []) == 0.0
    with pytest.raises(ValueError, match="1 and of 2 parameters"):
        gradient_cosine(some, [*some, None])


@pytest.mark.parametrize("broken", [float("inf"), -float("inf"), float("nan")])
def test_a_gradient_that_is_not_finite_has_no_cosine(broken: float) -> None:
    some, other = [torch.tensor([broken, 2.0])], [torch.tensor([1.0, 2.0])]
    assert np.isnan(gradient_cosine(some, other)) and np.isnan(gradient_cosine(other, some))


def test_tiny_and_huge_gradients_are_summed_in_float64() -> None:
    tiny, huge = torch.full((4,), 1e-30), torch.full((4,), 1e30)
    assert gradient_cosine([tiny], [huge]) == 1.0


def test_a_sketch_keeps_sums_and_dot_products(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    a, b = (torch.from_numpy(rng.normal(size=(40, 25))) for _ in range(2))
    b = b + 0.5 * a
    monkeypatch.setattr(gradients, "_BLOCK", 300)  # several blocks, the last one smaller
    both = count_sketch(2 * a - b, 64, 7)
    torch.testing.assert_close(both, 2 * count_sketch(a, 64, 7) - count_sketch(b, 64, 7))
    assert not torch.equal(count_sketch(a, 64, 7), count_sketch(a, 64, 8))
    # Over seeds the dot product is that of the vectors, spread as the docstring bounds it.
    dots = np.array([float(count_sketch(a, 64, seed) @ count_sketch(b, 64, seed)) for seed in range(400)])
    exact, bound = float((a * b).sum()), float(a.norm() * b.norm()) * (2 / 64) ** 0.5
    assert abs(dots.mean() - exact) < 4 * bound / 400**0.5 and 0.3 * bound < dots.std() < 1.1 * bound
    # One entry goes to one place, unchanged but for its sign.
    lone = torch.zeros(1000)
    lone[777] = 3.0
    assert sorted(count_sketch(lone, 64, 0).abs().tolist())[-2:] == [0.0, 3.0]
    with pytest.raises(ValueError, match="positive size"):
        count_sketch(a, 0, 0)
