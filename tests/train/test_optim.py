"""AdamW against the published update in NumPy, the master-weight rule, and its state."""

import numpy as np
import pytest
import torch
from torch import nn

from pairuni.config import OptimConfig
from pairuni.train.optim import Optimizer, learning_rate


def parameter(seed: int, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    return nn.Parameter(torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)).to(dtype))


def test_bf16_master_weights_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be float32, but half is torch\.bfloat16"):
        Optimizer([("whole", parameter(0)), ("half", parameter(1, torch.bfloat16))], OptimConfig())
    with pytest.raises(ValueError, match="no trainable parameters"):
        Optimizer([], OptimConfig())


def test_warm_up_is_linear_and_then_constant() -> None:
    config = OptimConfig(lr=4e-6, warmup=4)
    rates = [learning_rate(config, step) for step in range(1, 7)]
    assert rates == pytest.approx([1e-6, 2e-6, 3e-6, 4e-6, 4e-6, 4e-6])
    assert learning_rate(OptimConfig(lr=1e-6), 1) == 1e-6


def test_updates_are_those_of_adamw_with_clipping() -> None:
    config = OptimConfig(lr=1e-2, beta1=0.8, beta2=0.95, eps=1e-6, weight_decay=0.1, warmup=2, max_grad_norm=0.5)
    weight = parameter(0)
    optimizer = Optimizer([("w", weight)], config)
    expected = weight.detach().double().numpy().copy()
    first = np.zeros_like(expected)
    second = np.zeros_like(expected)
    for step in range(1, 5):
        grad = np.random.default_rng(step).normal(size=(3, 4)) * (0.01 if step == 3 else 1)
        weight.grad = torch.from_numpy(grad).float()
        norm = optimizer.gradient_norm()
        assert norm == pytest.approx(np.linalg.norm(grad))
        optimizer.update(step, norm)
        grad = grad * min(1, 0.5 / np.linalg.norm(grad))
        rate = 1e-2 * min(1, step / 2)
        expected -= rate * 0.1 * expected
        first = 0.8 * first + 0.2 * grad
        second = 0.95 * second + 0.05 * grad**2
        corrected = np.sqrt(second / (1 - 0.95**step)) + 1e-6
        expected -= rate * first / (1 - 0.8**step) / corrected
        assert np.allclose(weight.detach().numpy(), expected, atol=1e-6)


def test_a_restored_optimiser_continues_exactly() -> None:
    config = OptimConfig(lr=1e-2)

    def run(optimizer: Optimizer, weight: nn.Parameter, steps: range) -> None:
        for step in steps:
            optimizer.zero_grad()
            weight.grad = weight.detach() ** 2 + step
            optimizer.update(step, optimizer.gradient_norm())

    weight, idle = parameter(0), parameter(1)
    optimizer = Optimizer([("w", weight), ("idle", idle)], config)
    run(optimizer, weight, range(1, 4))
    copy = nn.Parameter(weight.detach().clone())
    restored = Optimizer([("w", copy), ("idle", parameter(1))], config)
    state = {name: tensor.clone() for name, tensor in optimizer.state().items()}
    assert state.keys() == {"step/w", "exp_avg/w", "exp_avg_sq/w"}
    restored.load_state(state)
    run(optimizer, weight, range(4, 7))
    run(restored, copy, range(4, 7))
    assert torch.equal(weight, copy)
    assert not torch.equal(state["exp_avg/w"], optimizer.state()["exp_avg/w"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state | {"step/other": torch.zeros(())}, "unknown parameters: other"),
        (lambda state: state | {"exp_avg/w": torch.zeros(2)}, "w does not fit"),
        (lambda state: {k: v for k, v in state.items() if k != "exp_avg_sq/w"}, "w does not fit"),
    ],
)
def test_the_state_of_another_model_is_refused(change: object, message: str) -> None:
    weight = parameter(0)
    optimizer = Optimizer([("w", weight)], OptimConfig())
    weight.grad = torch.ones_like(weight)
    optimizer.update(1, 1.0)
    assert callable(change)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state(change(optimizer.state()))
