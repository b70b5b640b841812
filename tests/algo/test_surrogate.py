"""The clipped surrogate and the KL estimate against loops in NumPy and finite differences."""

import math

import numpy as np
import pytest
import torch

from pairuni.algo.surrogate import clipped_surrogate, kl_estimate, ratio_statistics

EPS = 0.2


def by_hand(logp, old, advantage, mask):
    total, count, cut = 0.0, 0, 0
    for b, t in zip(*np.nonzero(mask), strict=True):
        rho, a = math.exp(logp[b, t] - old[b, t]), advantage[b]
        total -= min(rho * a, min(max(rho, 1 - EPS), 1 + EPS) * a)
        count += 1
        cut += (a > 0 and rho > 1 + EPS) or (a < 0 and rho < 1 - EPS)
    return total, cut / count


def some_rows(seed: int = 0):
    rng = np.random.default_rng(seed)
    logp, gap = -rng.random((5, 7)) * 3, rng.normal(size=(5, 7)) * 0.3
    mask = rng.random((5, 7)) < 0.7
    advantage = np.array([1.3, -0.4, 0.0, -2.0, 0.7])
    return logp, logp - gap, advantage, mask


def tensors(*arrays):
    return [torch.from_numpy(np.array(a)) for a in arrays]


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_formula(seed):
    rows = some_rows(seed)
    loss, cut = clipped_surrogate(*tensors(*rows), EPS)
    assert loss.shape == () and (float(loss), float(cut)) == pytest.approx(by_hand(*rows), abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_statistics_of_ratios_equal_the_formula(seed):
    logp, old, _, mask = some_rows(seed)
    ratios = np.exp(logp - old)[mask]
    stats = ratio_statistics(*tensors(logp, old, mask))
    expected = {"ratio_mean": ratios.mean(), "ratio_max": ratios.max()}
    assert {k: float(v) for k, v in stats.items()} == pytest.approx(expected, abs=1e-12)


def test_the_four_corners_of_the_clip():
    """One action each: ratio above or below the range, advantage positive or negative."""
    rho = torch.tensor([[1.5], [1.5], [0.5], [0.5]], requires_grad=True)
    advantage = torch.tensor([2.0, -2.0, 2.0, -2.0])
    loss, cut = clipped_surrogate(rho.log(), torch.zeros(4, 1), advantage, torch.ones(4, 1, dtype=torch.bool), EPS)
    assert float(loss.detach()) == pytest.approx(-(1.2 * 2) + 1.5 * 2 - 0.5 * 2 + 0.8 * 2)
    (grad,) = torch.autograd.grad(loss, rho)
    np.testing.assert_allclose(grad[:, 0], [0, 2, -2, 0], atol=1e-6)
    assert float(cut) == 0.5


def test_gradient_by_finite_differences():
    logp, old, advantage, mask = tensors(*some_rows(3))
    logp.requires_grad_()
    (grad,) = torch.autograd.grad(clipped_surrogate(logp, old, advantage, mask, EPS)[0], logp)
    h = 1e-6
    for b in range(5):
        for t in range(7):
            step = torch.zeros(5, 7, dtype=torch.float64)
            step[b, t] = h
            high, low = (
                by_hand((logp.detach() + s).numpy(), *(x.numpy() for x in (old, advantage, mask)))[0]
                for s in (step, -step)
            )
            assert float(grad[b, t]) == pytest.approx((high - low) / (2 * h), abs=1e-6)


def test_at_ratio_one_the_gradient_is_minus_the_advantage():
    logp, _, advantage, mask = tensors(*some_rows(1))
    logp.requires_grad_()
    loss, cut = clipped_surrogate(logp, logp.detach(), advantage, mask, EPS)
    (grad,) = torch.autograd.grad(loss, logp)
    np.testing.assert_allclose(grad, -(advantage[:, None] * mask), atol=1e-12)
    assert float(cut) == 0.0


@pytest.mark.parametrize("junk", [math.nan, -math.inf, math.inf, 1e30])
def test_masked_positions_reach_neither_value_nor_gradient(junk):
    logp, old, advantage, mask = tensors(*some_rows(2))
    clean = logp.clone().requires_grad_()
    dirty = logp.where(mask, junk).requires_grad_()
    losses = []
    for x, o in ((clean, old), (dirty, old.where(mask, -junk))):
        loss = clipped_surrogate(x, o, advantage, mask, EPS)[0] + kl_estimate(x, o, mask)
        loss.backward()
        losses.append(float(loss.detach()))
    assert losses[0] == losses[1]
    assert clean.grad is not None and dirty.grad is not None
    assert torch.equal(clean.grad, dirty.grad)
    assert bool((dirty.grad[~mask] == 0).all())


def test_rows_without_advantage_stay_silent_when_their_ratio_overflows():
    logp = torch.tensor([[500.0], [0.1]], requires_grad=True)
    mask = torch.ones(2, 1, dtype=torch.bool)
    loss, _ = clipped_surrogate(logp, torch.zeros(2, 1), torch.tensor([0.0, 1.0]), mask, EPS)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(-math.exp(0.1))
    assert logp.grad is not None and logp.grad[0, 0] == 0
    assert ratio_statistics(logp, torch.zeros(2, 1), mask)["ratio_max"] == math.inf


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gap", [-2000.0, -300.0, -0.1, 0.0, 0.1, 5.0, 80.0, 89.0, 300.0, math.inf])
@pytest.mark.parametrize("advantage", [1.5, -1.5])
def test_value_and_gradient_where_ratios_overflow(advantage, gap, dtype):
    """Against float64, where exp(300) is a number: clipping ends a positive term, a negative one has no end."""
    logp = torch.tensor([[gap, -0.25]], dtype=dtype, requires_grad=True)
    row = torch.tensor([advantage], dtype=dtype)
    loss, _ = clipped_surrogate(logp, torch.zeros(1, 2, dtype=dtype), row, torch.ones(1, 2, dtype=torch.bool), EPS)
    loss.backward()
    total, slopes = 0.0, []
    for d in logp.detach().double()[0].tolist():
        rho = np.exp(np.float64(d))
        kept = rho * advantage <= min(max(rho, 1 - EPS), 1 + EPS) * advantage
        total -= rho * advantage if kept else min(max(rho, 1 - EPS), 1 + EPS) * advantage
        slopes.append(-rho * advantage if kept else 0.0)
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite there, and never NaN
        expected, slopes = float(np.float32(total)), np.float32(slopes).tolist()
    assert loss.dtype == torch.float32 and float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert logp.grad is not None
    assert logp.grad[0].tolist() == pytest.approx(slopes, rel=1e-5 if dtype == torch.float32 else 5e-3)


def test_half_precision_does_not_move_the_edge_of_the_clip():
    """In bf16 1.2 is 1.203: the ratio is worked out in fp32, whatever the log-probs come in."""
    logp = torch.tensor([[math.log(1.22)]]).bfloat16().requires_grad_()
    loss, cut = clipped_surrogate(logp, torch.zeros(1, 1), torch.ones(1), torch.ones(1, 1, dtype=torch.bool), EPS)
    assert float(loss.detach()) == pytest.approx(-1.2, rel=1e-6) and float(cut) == 1


@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (3, 0)])
def test_nothing_to_score(shape):
    logp = torch.zeros(shape, requires_grad=True)
    old, mask = torch.zeros(shape), torch.zeros(shape, dtype=torch.bool)
    loss, cut = clipped_surrogate(logp, old, torch.ones(shape[0]), mask, EPS)
    loss.backward()
    assert float(loss.detach()) == 0 and float(cut) == 0
    assert {k: float(v) for k, v in ratio_statistics(logp, old, mask).items()} == {"ratio_mean": 1, "ratio_max": 1}


@pytest.mark.parametrize("gap", [1e-4, -1e-4, 3e-3, 1e-6])
def test_k3_of_small_gaps_in_single_precision(gap):
    """exp(d) - d - 1 of 1e-4 is 5e-9, which fp32 loses beside 1."""
    logp = torch.tensor([[-2.0]])
    ref = logp + gap
    d = float(ref - logp)
    exact = d * d / 2 + d**3 / 6 + d**4 / 24
    assert float(kl_estimate(logp, ref, torch.ones(1, 1, dtype=torch.bool))) == pytest.approx(
        exact, rel=2e-2, abs=1e-13
    )


def test_k3_that_overflows_does_not_reach_a_side_without_weight():
    logp = torch.tensor([[-500.0], [-1.0]], requires_grad=True)
    mask = torch.ones(2, 1, dtype=torch.bool)
    loss = kl_estimate(logp, torch.zeros(2, 1), mask, "k3", torch.tensor([0.0, 1.0]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(math.e - 2)
    assert logp.grad is not None and logp.grad[0, 0] == 0 and logp.grad[1, 0] == pytest.approx(1 - math.e)


def test_ratios_outside_the_mask_do_not_count():
    """All ratios are below 1, the highest possible value of what is not there."""
    logp, mask = torch.tensor([[-2.0, 0.0]]), torch.tensor([[True, False]])
    stats = ratio_statistics(logp, torch.tensor([[-1.0, 0.0]]), mask)
    assert float(stats["ratio_max"]) == float(stats["ratio_mean"]) == pytest.approx(math.exp(-1))


def test_no_gradient_flows_into_what_is_held_fixed():
    logp, old, advantage, mask = tensors(*some_rows())
    scale = torch.ones(5, dtype=torch.float64)
    for t in (logp, old, advantage, scale):
        t.requires_grad_()
    (clipped_surrogate(logp, old, advantage, mask, EPS)[0] + kl_estimate(logp, old, mask, "k3", scale)).backward()
    assert logp.grad is not None and old.grad is None and advantage.grad is None and scale.grad is None


def test_k3_against_the_exact_divergence():
    """Averaged over the policy's own draws, k3 is the KL; here exactly, by summing over a four-word vocabulary."""
    p, q = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.1, 0.2, 0.3, 0.4])
    logp, ref, mask = tensors(np.log(p)[:, None], np.log(q)[:, None], np.ones((4, 1), bool))
    exact = float(np.sum(p * np.log(p / q)))
    assert float(kl_estimate(logp, ref, mask, "k3", torch.from_numpy(p))) == pytest.approx(exact, abs=1e-12)
    assert float(kl_estimate(logp, logp, mask)) == 0
    by_loop = sum(q[i] / p[i] - math.log(q[i] / p[i]) - 1 for i in range(4))
    assert float(kl_estimate(logp, ref, mask)) == pytest.approx(by_loop, abs=1e-12)
