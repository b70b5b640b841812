"""Group advantages against NumPy written from the formula, and the properties the formula promises."""

from decimal import Context, Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pairuni.algo.advantages import GroupStats, group_advantages, group_stats

ROWS = st.tuples(st.integers(1, 4), st.integers(2, 6))
REWARDS = hnp.arrays(np.float64, ROWS, elements=st.integers(-50, 50).map(lambda n: n / 4))


def by_hand(rewards: np.ndarray, eps: float) -> np.ndarray:
    out = np.zeros_like(rewards)
    for b, row in enumerate(rewards):
        known = [r for r in row if np.isfinite(r)]
        if len(set(known)) < 2:
            continue
        mean = sum(known) / len(known)
        std = (sum((r - mean) ** 2 for r in known) / len(known)) ** 0.5
        out[b] = [(r - mean) / (std + eps) if np.isfinite(r) else 0.0 for r in row]
    return out


def test_known_values():
    got = group_advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0], [2.0, 4.0, 6.0, 8.0]]), 1e-6)
    root3, root5 = 3**0.5, 5**0.5
    expected = [[root3, -1 / root3, -1 / root3, -1 / root3], [-3 / root5, -1 / root5, 1 / root5, 3 / root5]]
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got, expected, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(REWARDS, st.integers(0, 2**24 - 1), st.sampled_from([1e-6, 1e-3]))
def test_equals_the_formula_with_missing_rewards(rewards, holes, eps):
    holes = np.array([(holes >> i) & 1 for i in range(rewards.size)], bool).reshape(rewards.shape)
    rewards = np.where(holes, np.nan, rewards)
    got = group_advantages(rewards, eps).numpy()
    np.testing.assert_allclose(got, by_hand(rewards, eps), atol=1e-9)
    assert np.all(got[holes] == 0)


@settings(max_examples=40, deadline=None)
@given(REWARDS, st.integers(-1000, 1000), st.sampled_from([0.25, 0.5, 3.0, 64.0]))
def test_shift_and_scale_change_nothing_but_the_epsilon(rewards, shift, scale):
    plain = group_advantages(rewards, 1e-12)
    np.testing.assert_allclose(group_advantages(rewards + shift, 1e-12), plain, atol=1e-9)
    np.testing.assert_allclose(group_advantages(rewards * scale, 1e-12), plain, atol=1e-9)
    np.testing.assert_allclose(group_advantages(-rewards, 1e-12), -plain, atol=1e-9)


@pytest.mark.parametrize(
    "row", [[0.1, 0.1, 0.1], [0.1 + 0.2, 0.3, 0.3], [1e8 + 0.1] * 3, [0.0, -0.0, 0.0], [1e-30] * 3, [-0.7] * 3]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rewards_equal_up_to_rounding_give_exactly_zero(row, dtype):
    rewards = torch.tensor([row, [0.0, 0.5, 1.0]], dtype=dtype)
    got = group_advantages(rewards, 1e-6)
    assert torch.equal(got[0], torch.zeros(3, dtype=dtype))
    assert got[1].abs().max() > 1


def test_a_small_true_difference_is_not_rounding():
    got = group_advantages(torch.tensor([[1.0, 1.0 + 1e-4]]), 1e-12)
    np.testing.assert_allclose(got, [[-1, 1]], atol=1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_missing_rewards_leave_the_statistics(value):
    got = group_advantages(np.array([[1.0, value, 0.0], [value, value, 5.0], [value] * 3]))
    np.testing.assert_allclose(got[0], [1, 0, -1], atol=1e-5)
    assert torch.equal(got[1:], torch.zeros(2, 3, dtype=torch.float64))


def exactly(row: list[float], eps: float) -> list[float]:
    """The formula in fractions, with one square root to 60 digits: nothing overflows and nothing vanishes."""
    values = [Fraction(r) for r in row]
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / len(values)
    with localcontext(Context(prec=60, Emin=-9999, Emax=9999)):
        std = (Decimal(variance.numerator) / Decimal(variance.denominator)).sqrt() + Decimal(eps)
        return [float(Decimal((v - mean).numerator) / Decimal((v - mean).denominator) / std) for v in values]


@pytest.mark.parametrize("size", [1e308, 1e200, 1e160, 1e154, 1e30, 1.0, 1e-5, 1e-160, 1e-300, 5e-324])
def test_rewards_of_any_size(size):
    row = [1.7 * size, -1.6 * size, 0.5 * size, 0.0]
    got = group_advantages(np.array([row, [0.0, 0.0, 1.0, 1.0]]), 1e-6)
    np.testing.assert_allclose(got[0], exactly(row, 1e-6), rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(got[1], [-1, -1, 1, 1], atol=1e-5)
    assert group_stats(np.array([row])).zero_std == 0


def test_large_rewards_that_differ_little():
    row = [1e160, 1e160 * (1 + 1e-9), 1e160 * (1 - 3e-9)]
    np.testing.assert_allclose(group_advantages(np.array([row]), 1e-6)[0], exactly(row, 1e-6), rtol=1e-6)


def test_rows_never_mix():
    """Two pairs with the same prompt stay two groups, however unequal their rewards."""
    rewards = np.array([[0.0, 1.0], [10.0, 12.0]])
    both = group_advantages(rewards)
    np.testing.assert_allclose(both, [[-1, 1], [-1, 1]], atol=1e-5)
    alone = group_advantages(rewards[:1])
    assert torch.equal(both[:1], alone)


def test_integer_and_bool_rewards():
    for rewards in (np.array([[1, 0]]), torch.tensor([[True, False]])):
        got = group_advantages(rewards)
        assert got.dtype == torch.float32
        np.testing.assert_allclose(got, [[1, -1]], atol=1e-5)


def test_stats_count_groups_without_signal_and_missing_rewards():
    nan, inf = np.nan, np.inf
    rewards = np.array([[0.1, 0.1, 0.1], [0, 1, 0], [nan, nan, 1], [nan, 0, 1], [nan, nan, nan], [inf, 0, -inf]])
    assert group_stats(rewards) == GroupStats(groups=6, zero_std=4, missing=8)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"\[pairs, rollouts\]"):
        group_advantages(torch.zeros(3))
    with pytest.raises(ValueError, match="std_eps"):
        group_advantages(torch.zeros(1, 2), 0.0)
