"""What every family does around its own sampling. No model and no modality here."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from torch import nn

from pairuni.types import Prompt, Side


def check_request(side: Side, prompts: Sequence[Prompt], rollouts: int, seeds_BR: np.ndarray) -> None:
    """Raises ValueError: no prompts, one of another side, no rollouts, or seeds of another shape."""
    if not prompts or any(prompt.side is not side for prompt in prompts):
        raise ValueError(f"at least one prompt, all of side {side}, is needed")
    if rollouts < 1 or seeds_BR.shape != (len(prompts), rollouts) or seeds_BR.dtype.kind not in "ui":
        raise ValueError(f"integer seeds [{len(prompts)}, {rollouts}] are needed, not {seeds_BR.shape}")


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; every sub-module's own mode afterwards (eval mode also rests gradient checkpointing)."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        yield
    finally:
        for part, training in modes:
            part.training = training
