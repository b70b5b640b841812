"""Blocked weights multiply as the layers' own do, and leave no trace."""

import pytest
import torch
from torch import nn

from pairuni.policies.linear import blocked_linears


class Gated(nn.Linear):
    """A layer that does more than multiply."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input).sigmoid()


def _parts() -> nn.Sequential:
    torch.manual_seed(0)
    twice = nn.Linear(24, 24)
    return nn.Sequential(nn.Linear(16, 24), nn.Tanh(), twice, twice, nn.Linear(24, 40, bias=False), Gated(40, 8))


@pytest.mark.parametrize("shape", [(1, 16), (7, 16), (3, 5, 16)])
def test_products_are_those_of_the_layers(shape: tuple[int, ...]) -> None:
    parts, x = _parts(), torch.randn(shape)
    with torch.no_grad():
        expected = parts(x)
        with blocked_linears([parts], 7):
            changed = [layer for layer in parts if "forward" in vars(layer)]
            found = parts(x)
            assert found.shape == expected.shape
        assert torch.equal(parts(x), expected)
    assert len(changed) == (4 if torch.backends.mkldnn.is_available() else 0)  # the one that is there twice, twice
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_layers_are_restored_after_an_error() -> None:
    parts = _parts()
    with pytest.raises(ValueError, match="on purpose"), blocked_linears([parts], 7):
        raise ValueError("on purpose")
    assert not any("forward" in vars(layer) for layer in parts)
    loss = parts(torch.randn(2, 16)).sum()
    loss.backward()
    assert all(p.grad is not None for p in parts.parameters())


def test_other_precisions_are_left_alone() -> None:
    for parts, autocast in ((_parts().bfloat16(), False), (_parts(), True)):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast), blocked_linears([parts], 7):
            assert not any("forward" in vars(layer) for layer in parts)


def test_weights_are_read_when_the_context_begins() -> None:
    """A training step between two calls must show in the second."""
    layer, x = nn.Linear(16, 8), torch.randn(3, 16)
    results = []
    with torch.no_grad():
        for _ in range(2):
            with blocked_linears([layer], 3):
                results.append(layer(x))
            layer.weight.add_(1)
    torch.testing.assert_close(results[1] - results[0], x.sum(1, keepdim=True).expand(3, 8), rtol=1e-5, atol=1e-5)
