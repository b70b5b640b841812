"""What a training step takes of memory: the planner's words, and the search for what fits. No model is here.

A family's estimate is arithmetic on its dimensions (policies/janus/memory.py); what the device says is
train/measure.py. All sizes are bytes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from pairuni.policies.base import SamplingSpec
from pairuni.records import Prompt, Side

RESIDENT, OPTIMISER = "resident", "optimiser step"
ROLLOUT = {Side.GENERATION: "image rollout", Side.UNDERSTANDING: "text rollout"}
UPDATE = {Side.GENERATION: "image update", Side.UNDERSTANDING: "text update"}

Stages = dict[str, dict[str, int]]
"""Stage -> what is alive at its peak -> bytes. Every stage counts what is resident."""

OVERHEAD = 1 << 30
"""Allowance for what is no tensor: the CUDA context and its libraries' workspaces, or Python and its libraries."""
FRAGMENTATION = 0.05
"""Allowance for what the allocator cannot use, and for small tensors, as a share of the estimate."""


@dataclass(frozen=True)
class Workload:
    """What one process does in a step, in numbers."""

    sides: tuple[Side, ...]
    prompts: int
    """Prompts that are sampled together."""
    rollouts: int
    spec: SamplingSpec
    text_tokens: int
    """Of a prompt, its template included, an image's own not."""
    micro_batch: int
    micro_tokens: int
    bf16: bool
    cuda: bool
    checkpointing: bool
    reference: bool
    gradients: int = 1
    """Copies of the gradients that are alive during the updates; 3 where those of the sides are compared."""
    trained: int = 0
    """Parameters that train where not all but the towers do, adapters among them (0: all)."""
    adapters: int = 0
    """Parameters of LoRA adapters; with any, and bf16, frozen linear weights are kept in bf16."""
    shards: int = 1
    """Processes that weights, gradients and moments are spread over."""


class Planner(Protocol):
    """A family's side of the plan, made from a path or hub id without loading weights."""

    parameters: int
    trained: int
    sizes: dict[str, int]
    """Numbers in each parameter that can be trained, by its name."""
    adaptable: dict[str, int]
    """Inputs and outputs together of each linear layer that can get an adapter, by its name."""

    def estimate(self, work: Workload) -> Stages:
        """Peak of each stage. Never falls as prompts or micro_tokens grow (0: any number)."""
        ...

    def prompts(self, policy: Any, side: Side, work: Workload) -> list[Prompt]:
        """Made-up prompts of `work.text_tokens`, all different, to measure with."""
        ...


def peak(parts: dict[str, int]) -> int:
    """Bytes of a stage."""
    return sum(parts.values())


def needed(peak_bytes: int) -> int:
    """The memory that a device must have for a peak, allowances included."""
    return int(peak_bytes * (1 + FRAGMENTATION)) + OVERHEAD


def most(fits: Callable[[int], bool], limit: int) -> int:
    """The largest n in 1..limit that fits, 0 where 1 does not; what fits at n must fit below it."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
