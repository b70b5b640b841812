"""What a training step takes of memory: the planner's words, and the search for what fits. No model is here.

A family's estimate is arithmetic on its dimensions (its memory.py); what the device says is train/measure.py. All sizes
are bytes.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from pairuni.streams import Stream, generator
from pairuni.types import Prompt, SamplingSpec, Side

RESIDENT, OPTIMISER = "resident", "optimiser step"
ROLLOUT = {Side.GENERATION: "image rollout", Side.UNDERSTANDING: "text rollout"}
UPDATE = {Side.GENERATION: "image update", Side.UNDERSTANDING: "text update"}

Parts = dict[str, int]
Stages = dict[str, Parts]
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


class Sizes(Protocol):
    """A model's parameters in numbers."""

    @property
    def parameters(self) -> int: ...

    @property
    def trained(self) -> int:
        """Of all but the frozen towers."""
        ...

    @property
    def largest(self) -> int:
        """Of the largest trained matrix."""
        ...

    @property
    def matrices(self) -> int:
        """Of all linear layers, towers included."""
        ...

    @property
    def layers(self) -> int: ...

    @property
    def layer(self) -> int:
        """Of one layer of the language model."""
        ...


Phases = Mapping[Side, Callable[[], Iterable[Parts]]]
"""What a side's stage has alive, one phase after the other, beyond what is resident."""


def stages_of(d: Sizes, work: Workload, rollout: Phases, update: Phases) -> Stages:
    """The stages of any family: each with its largest phase. Gradients are dropped after the update."""
    resident = _resident(d, work)
    base = {RESIDENT: sum(resident.values())}
    gradients = {"gradients": 4 * (work.trained or d.trained) * work.gradients // work.shards}
    sides = [side for side in reversed(Side) if side in work.sides]
    stages = {RESIDENT: resident}
    whole, some = _gathered(d, work)
    stages |= {ROLLOUT[side]: base | whole | _top(rollout[side]()) for side in sides}
    stages |= {UPDATE[side]: base | some | gradients | _top(update[side]()) for side in sides}
    # On a CPU AdamW makes two copies of one parameter after the other; on CUDA it is fused and makes none.
    copies = {} if work.cuda else {"copies of a parameter": 8 * d.largest // work.shards}
    return stages | {OPTIMISER: base | gradients | copies}


def _resident(d: Sizes, work: Workload) -> Parts:
    """Weights and both moments of AdamW; the reference model, which has the same frozen towers.

    Weights are fp32, but under bf16 the frozen ones of linear layers beside adapters.
    """
    narrowed = 2 * d.matrices if work.adapters and work.bf16 else 0
    towers = 4 * (d.parameters - d.trained)
    spread = (4 * (d.trained + work.adapters) - narrowed) // work.shards
    parts = {"weights": towers + spread, "moments": 8 * (work.trained or d.trained) // work.shards}
    own_copy = work.reference and not (work.adapters and work.adapters == work.trained)
    return parts | {"reference model": 4 * d.trained // work.shards} if own_copy else parts


def _gathered(d: Sizes, work: Workload) -> tuple[Parts, Parts]:
    """What is whole beyond a process' share: all weights while sampling; while scoring the ends and two layers."""
    if work.shards == 1:
        return {}, {}
    width = 2 if work.adapters and work.bf16 else 4
    ends = d.trained - d.layers * d.layer
    rest = 1 - 1 / work.shards
    models = 1 + work.reference
    return {"gathered": int(width * d.trained * rest)}, {"gathered": int(width * models * (ends + 2 * d.layer) * rest)}


def _top(phases: Iterable[Parts]) -> Parts:
    return max(phases, key=peak)


def width_of(bf16: bool) -> int:
    """Bytes of a number that autocast makes."""
    return 2 if bf16 else 4


def made_up(side: Side, work: Workload, pixels: int, tokens: Callable[[Prompt], int]) -> list[Prompt]:
    """`work.prompts` prompts, all different: a number and words, as far as the tokens go. Images are noise.

    Args:
        pixels: the side of an image.
        tokens: of a prompt's text with its template.
    """
    noise = generator(0, Stream.MEMORY_NOISE).integers(0, 256, (work.prompts, pixels, pixels, 3), dtype=np.uint8)
    images = [(image,) if side is Side.UNDERSTANDING else () for image in noise]

    def prompt(n: int, words: int) -> Prompt:
        return Prompt(side, " ".join([str(n), *["a"] * words]), images[n])

    def fits(n: int, words: int) -> bool:
        return tokens(prompt(n, words)) <= work.text_tokens

    return [prompt(n, most(partial(fits, n), work.text_tokens)) for n in range(work.prompts)]


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
