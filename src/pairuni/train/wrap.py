"""A policy whose weights, gradients and moments are spread over processes: PyTorch's FSDP2 behind the policy contract.

Weights are gathered once for a rollout phase (`gathered`), so that each process samples at its own pace, and layer by
layer for scoring, which all processes do in step: the same number of chunks each. Gradients are summed as they are
spread. Checkpoints hold whole tensors, so that a run may go on with any number of processes, sharded or not.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from pairuni import dist
from pairuni.policies.base import Policy
from pairuni.types import Chunk, Prompt, Rollouts, SamplingSpec, Side


class _Root(nn.Module):
    """What FSDP sees as the model: whatever is called with its weights. Its hooks are those of a forward."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, call: Callable[[], Any]) -> Any:
        return call()


class ShardedPolicy:
    """See `base.Policy`. Sampling needs `gathered`; scoring is a collective, and so is all that reads weights."""

    def __init__(self, policy: Policy) -> None:
        """Spreads the weights of `policy`, which every process has loaded whole. Frozen towers stay whole."""
        self.whole = policy
        towers = {parameter for tower in policy.frozen_modules() for parameter in tower.parameters()}
        mesh = init_device_mesh(policy.device.type, (dist.world(),))
        for layer in policy.fsdp_units():
            fully_shard(layer, mesh=mesh)
        self._root = _Root(policy.module)
        fully_shard(self._root, mesh=mesh, ignored_params=towers)
        for part in self._parts():
            part.set_gradient_divide_factor(1.0)  # losses are divided by global denominators already
            part.set_force_sum_reduction_for_comms(True)
        if not list(policy.trainable()):  # no backward pass would spread the root's weights again
            self._root.set_reshard_after_forward(True, recurse=False)  # pyright: ignore

    @property
    def family(self) -> str:
        return self.whole.family

    @property
    def module(self) -> nn.Module:
        return self.whole.module

    @property
    def precision(self) -> Literal["fp32", "bf16"]:
        return self.whole.precision

    @property
    def device(self) -> torch.device:
        return self.whole.device

    @property
    def image_size(self) -> int:
        return self.whole.image_size

    @property
    def edits_images(self) -> bool:
        return self.whole.edits_images

    @property
    def positions(self) -> int:
        return self.whole.positions

    def tokens(self, prompt: Prompt, max_new_tokens: int) -> int:
        return self.whole.tokens(prompt, max_new_tokens)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Inside, every process has all weights. All enter and leave it."""
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

    def sample(
        self, side: Side, prompts: Sequence[Prompt], rollouts: int, spec: SamplingSpec, seeds_BR: np.ndarray
    ) -> Rollouts:
        with torch.no_grad():
            return self._root(lambda: self.whole.sample(side, prompts, rollouts, spec, seeds_BR))

    def chunks(self, rollouts: Rollouts, budget: int, tokens: int = 0) -> list[Chunk]:
        return self.whole.chunks(rollouts, budget, tokens)

    def logprobs(self, rollouts: Rollouts, chunk: Chunk) -> Tensor:
        return self._root(lambda: self.whole.logprobs(rollouts, chunk))

    def checkpoint_activations(self) -> None:
        self.whole.checkpoint_activations()

    def trainable(self) -> Iterable[tuple[str, nn.Parameter]]:
        return self.whole.trainable()

    def describe(self) -> dict[str, str]:
        return self.whole.describe()

    def frozen_modules(self) -> Sequence[nn.Module]:
        return self.whole.frozen_modules()

    def fsdp_units(self) -> Sequence[nn.Module]:
        return self.whole.fsdp_units()

    def lora_targets(self) -> list[str]:
        return self.whole.lora_targets()

    def reference(self) -> Self:
        raise NotImplementedError("a reference is made of the whole policy, and sharded itself")

    def save(self, path: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        self.whole.save(path, weights)

    def _parts(self) -> list[FSDPModule]:
        return [part for part in self._root.modules() if isinstance(part, FSDPModule)]


@contextmanager
def gathered(policy: Policy) -> Iterator[None]:
    """Inside, every process can sample from the policy without the others. All enter and leave it."""
    if isinstance(policy, ShardedPolicy):
        with policy.gathered():
            yield
    else:
        yield


def whole_weights(policy: Policy) -> dict[str, Tensor]:
    """The weights of a policy on the CPU, whole, on the first process; empty on the others. All call it."""
    weights: dict[str, Tensor] = {}
    for name, value in policy.module.state_dict().items():
        value = dist.full(value.detach())
        if dist.is_main():
            weights[name] = value.cpu()
    return weights
