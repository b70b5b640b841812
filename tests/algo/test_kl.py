"""The KL estimators against exact divergences and their gradients: all sequences of a four-word vocabulary, summed."""

import pytest
import torch
from torch import Tensor

from pairuni.algo.surrogate import kl_estimate

V, T, GUIDANCE = 4, 2, 3.0
ESTIMATORS = ["k1", "k2", "k3"]


class World:
    """Two actions each: the second one's distribution depends on the first. Logits [1 + V, V] by prefix."""

    def __init__(self, seed: int = 0, spread: float = 0.8) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.cond, self.uncond, self.ref = (
            spread * torch.randn(1 + V, V, generator=generator, dtype=torch.float64) for _ in range(3)
        )
        self.ref = self.cond + 0.7 * self.ref
        self.cond.requires_grad_()
        self.guided = (self.uncond + GUIDANCE * (self.cond - self.uncond)).detach()
        self.actions = torch.cartesian_prod(torch.arange(V), torch.arange(V))
        self.prefixes = torch.stack([torch.zeros(V * V, dtype=torch.int64), 1 + self.actions[:, 0]], dim=1)

    def logp(self, logits: Tensor) -> Tensor:
        """[V^T, T] of every sequence's actions."""
        return logits.log_softmax(-1)[self.prefixes, self.actions]

    def divergence(self, visits: Tensor, swapped: bool = False) -> Tensor:
        """KL(policy || reference), or the other way round, summed over actions; prefixes as `visits` [V^T] has them.

        Differentiable, with how often a prefix is visited held fixed.
        """
        p, q = self.cond.log_softmax(-1), self.ref.log_softmax(-1)
        p, q = (q, p) if swapped else (p, q)
        by_prefix = (p.exp() * (p - q)).sum(-1)
        return (visits[:, None] * by_prefix[self.prefixes]).sum()


def gradient(value: Tensor, world: World) -> Tensor:
    (found,) = torch.autograd.grad(value, world.cond, retain_graph=True)
    return found


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("seed", range(3))
def test_expected_values_and_gradients_are_those_of_the_divergence(seed, estimator, guided):
    """The expectation is exact: each sequence counts with the probability that it is drawn with."""
    world = World(seed)
    drawn = world.logp(world.guided if guided else world.cond.detach())
    visits, mask = drawn.sum(-1).exp(), torch.ones(V**T, T, dtype=torch.bool)
    logp, ref = world.logp(world.cond), world.logp(world.ref)
    scale = visits[:, None] * (logp.detach() - drawn).exp()
    value = kl_estimate(logp, ref, mask, estimator, scale)
    exact = world.divergence(visits)
    if estimator == "k2":
        squares = 0.5 * (logp.detach() - ref) ** 2
        assert float(value.detach()) == pytest.approx(float((scale * squares).sum()), abs=1e-12)
    else:
        assert float(value.detach()) == pytest.approx(float(exact.detach()), abs=1e-12)
    target = world.divergence(visits, swapped=estimator == "k3")
    torch.testing.assert_close(gradient(value, world), gradient(target, world), atol=1e-12, rtol=0)
    other = gradient(world.divergence(visits, swapped=estimator != "k3"), world)
    assert (gradient(target, world) - other).abs().max() > 0.01  # the two directions differ here


def test_guided_draws_without_the_weight_estimate_something_else():
    world = World(0)
    drawn = world.logp(world.guided)
    visits, mask = drawn.sum(-1).exp(), torch.ones(V**T, T, dtype=torch.bool)
    naive = kl_estimate(world.logp(world.cond), world.logp(world.ref), mask, "k3", visits)
    exact = world.divergence(visits)
    assert abs(float((naive - exact).detach())) > 0.2 * float(exact.detach())


def test_k1_differentiated_as_it_stands_has_no_gradient():
    """Why it takes the gradient of k2."""
    world = World(0)
    logp = world.logp(world.cond)
    visits = logp.detach().sum(-1).exp()
    plain = (visits[:, None] * (logp - world.logp(world.ref))).sum()
    assert gradient(plain, world).abs().max() < 1e-12


def test_refuses_an_unknown_estimator():
    with pytest.raises(ValueError, match="kl_estimator must be one of k1, k2, k3, not 'k4'"):
        kl_estimate(torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), "k4")  # pyright: ignore
