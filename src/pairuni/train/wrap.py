"""Spreads a policy's weights, gradients and moments over processes with PyTorch's FSDP2.

For sampling, weights are gathered once (`gathered`), so that each process samples at its own pace. For scoring they are
gathered layer by layer, and all processes score the same number of chunks. Gradients are summed as they are
spread. Checkpoints hold whole tensors, so that a run may go on with any number of processes, sharded or not.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from pairuni import dist
from pairuni.policies.base import Actor, Policy, Trainable
from pairuni.types import Chunk, Prompt, Rollouts, SamplingSpec, Side


class _Root(nn.Module):
    """The root module for FSDP: calls any function with the weights, inside the hooks of a forward."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, call: Callable[[], Any]) -> Any:
        return call()


class ShardedPolicy:
    """Samples and scores with sharded weights (`base.Actor`). All else is asked of the policy itself, `whole`.

    Sampling needs `gathered`; scoring is a collective, and so is all that reads weights.
    """

    def __init__(self, policy: Policy) -> None:
        """Spreads the weights of `policy`, which every process has loaded whole. Frozen modules stay whole."""
        self.whole = policy
        frozen = {parameter for module in policy.frozen_modules() for parameter in module.parameters()}
        mesh = init_device_mesh(policy.device.type, (dist.world(),))
        for layer in policy.fsdp_units():
            fully_shard(layer, mesh=mesh)
        self._root = _Root(policy.module)
        fully_shard(self._root, mesh=mesh, ignored_params=frozen)
        for part in self._parts():
            part.set_gradient_divide_factor(1.0)  # losses are divided by global denominators already
            part.set_force_sum_reduction_for_comms(True)
        if not list(policy.trainable()):  # no backward pass would spread the root's weights again
            self._root.set_reshard_after_forward(True, recurse=False)  # pyright: ignore

    @property
    def edits_images(self) -> bool:
        return self.whole.edits_images

    @property
    def positions(self) -> int:
        return self.whole.positions

    def tokens(self, prompt: Prompt, max_new_tokens: int) -> int:
        return self.whole.tokens(prompt, max_new_tokens)

    def sample(
        self, side: Side, prompts: Sequence[Prompt], rollouts: int, spec: SamplingSpec, seeds_BR: np.ndarray
    ) -> Rollouts:
        with torch.no_grad():
            return self._root(lambda: self.whole.sample(side, prompts, rollouts, spec, seeds_BR))

    def chunks(self, rollouts: Rollouts, budget: int, tokens: int = 0) -> list[Chunk]:
        return self.whole.chunks(rollouts, budget, tokens)

    def logprobs(self, rollouts: Rollouts, chunk: Chunk) -> Tensor:
        return self._root(lambda: self.whole.logprobs(rollouts, chunk))

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Gathers all weights on every process while inside. All processes enter and leave it."""
        parts = self._parts()
        for part in parts:
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
        try:
            yield
        finally:
            for part in parts:
                part.reshard()
                part.set_reshard_after_forward(part is not self._root, recurse=False)

    def _parts(self) -> list[FSDPModule]:
        return [part for part in self._root.modules() if isinstance(part, FSDPModule)]


@contextmanager
def gathered(policy: Actor) -> Iterator[None]:
    """Lets every process sample on its own while inside. All processes enter and leave it."""
    if isinstance(policy, ShardedPolicy):
        with policy.gathered():
            yield
    else:
        yield


def whole_weights(policy: Trainable) -> dict[str, Tensor]:
    """Whole weights on the CPU of the first process; empty on the others. All processes call it."""
    weights: dict[str, Tensor] = {}
    for name, value in policy.module.state_dict().items():
        value = dist.full(value.detach())
        if dist.is_main():
            weights[name] = value.cpu()
    return weights
