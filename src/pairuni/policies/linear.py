"""Linear layers: their names, and a context in which a CPU multiplies few rows by them faster, for decoding.

There the weights are in the blocked layout that oneDNN multiplies few rows with: torch's own CPU product of 16 to 64
rows reaches about half of what the same processor does then (docs/performance.md). The operators are those that
torch.compile uses for frozen weights; where a build of torch lacks them nothing changes.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn


def linear_layers(module: nn.Module, parts: Iterable[nn.Module]) -> dict[str, nn.Linear]:
    """The linear layers inside `parts`, by their names in `module`."""
    inside = {id(layer) for part in parts for layer in part.modules()}
    return {name: part for name, part in module.named_modules() if type(part) is nn.Linear and id(part) in inside}


@contextmanager
def blocked_linears(parts: Sequence[nn.Module], rows: int) -> Iterator[None]:
    """Inside, fp32 linear layers of `parts` on a CPU multiply by a blocked copy of their weights. No gradients inside.

    Takes as much memory as the layers' weights. The layers are as they were when the context ends, however it ends.

    Args:
        rows: about how many rows the layers will be given at a time.
    """
    changed: list[nn.Linear] = []
    try:
        for layer in (layer for part in parts for layer in part.modules()):
            # A subclass may do more than multiply; weights seen twice are blocked once.
            if type(layer) is nn.Linear and _fits(layer) and layer not in changed:
                blocked = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), rows)
                changed.append(layer)
                layer.forward = partial(_product, blocked, layer.bias)  # pyright: ignore[reportAttributeAccessIssue]
        yield
    finally:
        for layer in changed:
            del layer.forward  # of the instance: the class has its own


def _fits(layer: nn.Linear) -> bool:
    known = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    plain = layer.weight.device.type == "cpu" and layer.weight.dtype == torch.float32
    return known and plain and not torch.is_autocast_enabled("cpu")


def _product(blocked: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, blocked, bias, "none", [], "")
