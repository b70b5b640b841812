"""Log-probs from the features before a head's last layer, and their gradients, against NumPy."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pairuni.policies import scoring
from pairuni.policies.scoring import action_logp
from pairuni.types import SamplingSpec

N, F, V = 7, 4, 11
BANNED = [0, 3]


class World:
    """Features, a last layer and actions, and what NumPy makes of them in double precision."""

    def __init__(self, dtype: torch.dtype, guided: bool, bias: bool, temperature: float) -> None:
        rng = np.random.default_rng(1)
        self.cond, self.uncond = (torch.tensor(rng.normal(0, 1, (N, F))).to(dtype).requires_grad_() for _ in range(2))
        # Numbers that bf16 has, so that NumPy multiplies the same.
        weights = torch.tensor(rng.normal(0, 1, (V, F + 1))).bfloat16()
        self.last = nn.Linear(F, V, bias=bias, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
        with torch.no_grad():
            self.last.weight.copy_(weights[:, :F])
            if bias:
                self.last.bias.copy_(weights[:, F])
        self.guided, self.dtype = guided, dtype
        self.actions = torch.tensor([1, 2, 4, 10, 9, 1, 5])
        self.shares = rng.normal(0, 1, N)
        self.spec = SamplingSpec(temperature=temperature, guidance=2.5, logprob_mode="cfg" if guided else "cond")

    def logp(self) -> Tensor:
        uncond = self.uncond if self.guided else None
        return action_logp(
            self.last.weight, self.last.bias, self.cond, uncond, self.actions, self.spec, torch.tensor(BANNED)
        )

    def backward(self, logp: Tensor, **options: bool) -> None:
        (logp * torch.tensor(self.shares)).sum().backward(**options)

    def expected(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Log-probs [N], gradients of their sum with `shares`."""
        cond, uncond, weight = (x.detach().double().numpy() for x in (self.cond, self.uncond, self.last.weight))
        bias = 0 if self.last.bias is None else self.last.bias.detach().double().numpy()
        share = self.spec.guidance if self.guided else 1.0
        logits = share * (cond @ weight.T + bias) + (1 - share) * (uncond @ weight.T + bias)
        temperature = self.spec.temperature or 1.0
        powers = np.exp(logits / temperature)
        powers[:, BANNED] = 0
        probabilities = powers / powers.sum(1, keepdims=True)
        actions = self.actions.numpy()
        slope = self.shares[:, None] * (np.eye(V)[actions] - probabilities) / temperature
        grads = {"cond": share * slope @ weight, "weight": slope.T @ (share * cond + (1 - share) * uncond)}
        grads |= {"uncond": (1 - share) * slope @ weight} if self.guided else {}
        grads |= {"bias": slope.sum(0)} if self.last.bias is not None else {}
        return np.log(probabilities[np.arange(N), actions]), grads

    def gradients(self) -> dict[str, Tensor | None]:
        return {
            "cond": self.cond.grad,
            "uncond": self.uncond.grad,
            "weight": self.last.weight.grad,
            "bias": None if self.last.bias is None else self.last.bias.grad,
        }


@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_log_probs_and_gradients_against_numpy(
    dtype: torch.dtype, guided: bool, bias: bool, temperature: float, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "LOGITS", rows * V)
    world = World(dtype, guided, bias, temperature)
    logp, (expected, gradients) = world.logp(), world.expected()
    exact = dtype != torch.bfloat16
    assert logp.dtype == torch.float32
    np.testing.assert_allclose(logp.detach().numpy(), expected, atol=1e-5 if exact else 0.15)
    world.backward(logp)
    for name, grad in world.gradients().items():
        assert (grad is not None) == (name in gradients), name
        if grad is not None:
            assert grad.dtype == (dtype if "cond" in name else world.last.weight.dtype)
            apart = np.linalg.norm(grad.double().numpy() - gradients[name]) / np.linalg.norm(gradients[name])
            assert apart < (1e-6 if exact else 0.02), (name, apart)


def test_a_second_backward_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept of the forward pass is written over."""
    for rows in (3, 100):
        monkeypatch.setattr(scoring, "LOGITS", rows * V)
        world = World(torch.float32, True, True, 0.7)
        logp = world.logp()
        world.backward(logp, retain_graph=True)
        once = {name: grad.clone() for name, grad in world.gradients().items() if grad is not None}
        world.backward(logp)
        for name, grad in world.gradients().items():
            torch.testing.assert_close(grad, 2 * once[name])


def test_frozen_layers_and_features_get_no_gradient() -> None:
    world = World(torch.float32, False, True, 1.0)
    world.last.requires_grad_(False)
    world.backward(world.logp())
    assert world.cond.grad is not None and world.last.weight.grad is None and world.last.bias.grad is None
    world = World(torch.float32, False, True, 1.0)
    world.cond.requires_grad_(False)
    world.backward(world.logp())
    assert world.cond.grad is None and world.last.weight.grad is not None


def test_no_decision_and_what_is_not_a_number() -> None:
    world = World(torch.float32, False, True, 1.0)
    none = action_logp(world.last.weight, world.last.bias, world.cond[:0], None, world.actions[:0], world.spec, None)
    none.sum().backward()
    assert none.shape == (0,) and not world.last.weight.grad.any()  # pyright: ignore
    with torch.no_grad():
        world.cond[2, 0] = torch.nan
    logp = world.logp()
    assert logp.isnan().nonzero().tolist() == [[2]]
    world.backward(logp)
    assert world.last.weight.grad.isnan().any()  # pyright: ignore
