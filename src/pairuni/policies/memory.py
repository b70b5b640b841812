"""Peak memory of a training step, from a model's config alone and for any family. All sizes are bytes.

Weights, gradients, moments and caches follow from the shapes of a model on meta tensors; activations are measured on
fake tensors (activations.py). A family's planner.py builds its model and says which rows of tokens a step reads.

Not counted: fragmentation, workspaces of kernels, the CUDA context and Python, for which there are allowances below,
and other models of a run (rewards, benchmarks). Answers are taken as long as they may become, and no row is skipped for
a zero advantage, so real steps take less. `train/measure.py` measures on the device itself.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from pairuni.policies.activations import Activations, RowSizes
from pairuni.policies.linear import linear_layers
from pairuni.policies.scoring import LOGITS
from pairuni.types import SamplingSpec, Side

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
    """The sizes of one process' step."""

    sides: tuple[Side, ...]
    prompts: int
    """Prompts that are sampled together."""
    rollouts: int
    spec: SamplingSpec
    text_tokens: int
    """Tokens of a prompt with its template, without those of an image."""
    micro_batch: int
    micro_tokens: int
    bf16: bool
    cuda: bool
    checkpointing: bool
    reference: bool
    gradients: int = 1
    """Copies of the gradients that are alive during the updates; 3 where those of the sides are compared."""
    trained: int = 0
    """Trained parameters, adapters included; 0: all but the frozen modules."""
    adapters: int = 0
    """Parameters of LoRA adapters; with any, and bf16, frozen linear weights are kept in bf16."""
    shards: int = 1
    """Processes that weights, gradients and moments are spread over."""


@dataclass(frozen=True)
class Pass:
    """One forward of the language model over rows of equal length, and what its head reads."""

    rows: int
    length: int
    read: int
    """Tokens of a row whose states the head reads."""
    outputs: int
    """Of the head: ids or codes."""
    masked: int = 0
    """The last tokens of a row that attend by a mask."""
    guided: bool = False
    """Half of the rows are unconditional."""
    images: int = 0
    """Bytes of what is kept of images beside the pass."""


class Planner(ABC):
    """A family's memory plan, made from a path or hub id without loading weights. A family derives from it."""

    def __init__(self, module: nn.Module, layers: nn.ModuleList, frozen: tuple[str, ...], image_tokens: int) -> None:
        """Counts the parameters of a model on meta tensors.

        Args:
            layers: of its language model.
            frozen: how the names of parameters begin that never train.
            image_tokens: of an image in a prompt.
        """
        own, linear = linear_layers(module, layers), linear_layers(module, [module])
        self.sizes = {name: p.numel() for name, p in module.named_parameters() if not name.startswith(frozen)}
        """Numbers in each parameter that can be trained, by its name."""
        self.lora_targets = {name: part.in_features + part.out_features for name, part in own.items()}
        """Inputs and outputs together of each linear layer that can get an adapter, by its name."""
        self.parameters, self.trained = sum(p.numel() for p in module.parameters()), sum(self.sizes.values())
        self.depth, self.image_tokens = len(layers), image_tokens
        self.hidden = next(part.in_features for part in own.values())
        self.linear, self._matrices = (sum(p.weight.numel() for p in some.values()) for some in (own, linear))
        self._layer = sum(p.numel() for p in layers[0].parameters())
        self._widest = max(p.numel() for p in layers[0].parameters())
        (name,) = (name for name, part in module.named_modules() if part is layers)
        self.activations = Activations(partial(self.build, 2), name, frozen)

    @abstractmethod
    def build(self, layers: int) -> nn.Module:
        """The model with so many layers, on the current device; the frozen modules whole."""

    @abstractmethod
    def states(self, side: Side) -> Callable[[Any, int, int, int, int], Tensor]:
        """What the last layer of a side's head reads of a forward, as scoring computes it: `activations.States`."""

    @abstractmethod
    def rollout(self, side: Side, work: Workload) -> Iterator[Parts]:
        """What sampling has alive, one phase after the other, beyond what is resident."""

    @abstractmethod
    def passes(self, side: Side, work: Workload) -> Iterable[Pass]:
        """The forwards of an update that may take most."""

    def kept_by_cpu(self) -> int:
        """Bytes per token and layer under bf16 that a CPU, as which fake tensors pass, keeps and a GPU does not."""
        return 0

    def estimate(self, work: Workload) -> Stages:
        """Peak of each stage. Never falls as prompts or micro_tokens grow (0: any number)."""
        narrowed = 2 * self._matrices if work.adapters and work.bf16 else 0
        spread = 4 * (self.trained + work.adapters) - narrowed
        trained = work.trained or self.trained
        resident = {
            "weights": 4 * (self.parameters - self.trained) + spread // work.shards,
            "moments": 8 * trained // work.shards,
        }
        if work.reference and not work.adapters == work.trained > 0:
            resident["reference model"] = 4 * self.trained // work.shards
        base = {RESIDENT: sum(resident.values())}
        gradients = {"gradients": 4 * trained * work.gradients // work.shards}
        sampling, scoring = self._gathered(work)
        stages = {RESIDENT: resident}
        sides = [side for side in reversed(Side) if side in work.sides]
        stages |= {ROLLOUT[side]: base | sampling | max(self.rollout(side, work), key=peak) for side in sides}
        for side in sides:
            phases = [phase for one in self.passes(side, work) for phase in self._update(one, side, work)]
            stages[UPDATE[side]] = base | scoring | gradients | max(phases, key=peak)
        # On a CPU AdamW makes two copies of one parameter after the other; on CUDA it is fused and makes none.
        copies = {} if work.cuda else {"copies of a parameter": 8 * max(self.sizes.values()) // work.shards}
        return stages | {OPTIMISER: base | gradients | copies}

    def copies(self, work: Workload, outputs: int) -> Parts:
        """Autocast's copies of the weights that a call has used, which live until it returns."""
        return {"bf16 weights": 2 * (work.adapters or self.linear + outputs * self.hidden)} if work.bf16 else {}

    def forward(self, side: Side, tokens: int, work: Workload) -> Parts:
        """A forward over so many tokens without gradients."""
        token = self.activations.token(self.states(side), self.image_tokens, work.bf16)
        return {"activations": int(tokens * token)}

    def _gathered(self, work: Workload) -> tuple[Parts, Parts]:
        """What is whole beyond a process' share: all weights while sampling; while scoring the ends and two layers."""
        if work.shards == 1:
            return {}, {}
        whole = (2 if work.adapters and work.bf16 else 4) * (1 - 1 / work.shards)
        some = (1 + work.reference) * (self.trained - (self.depth - 2) * self._layer)
        return {"gathered": int(whole * self.trained)}, {"gathered": int(whole * some)}

    def _update(self, one: Pass, side: Side, work: Workload) -> Iterator[Parts]:
        """Backward through the head, with all activations alive; through the last layer; into the embeddings."""
        size = one.length, one.read, one.masked, work.bf16
        row = self.activations.row(self.states(side), self.image_tokens, *size)
        if work.bf16 and work.cuda:
            less = one.length * self.kept_by_cpu()
            row = RowSizes(row.kept - less, row.layer - less, row.peak - 2 * less)
        # With checkpointing a layer keeps its input alone, and one at a time is computed again.
        kept = 4 * one.length * self.hidden if work.checkpointing else row.layer
        shared = self.copies(work, one.outputs) | ({"images": one.images} if one.images else {})
        actions = one.rows * one.read // (1 + one.guided)
        logits = min(actions, max(1, LOGITS // one.outputs)) * one.outputs
        # fp32: one tensor, or both kinds, their difference, product and sum. Under autocast products are bf16 before
        # they are fp32, and an earlier slice's memory is not written over.
        each = (26 if one.guided else 12) if work.bf16 else (16 if one.guided else 4)
        gradient = 0 if work.adapters else 6 if work.bf16 else 4  # autocast's are bf16 before they are added up
        yield shared | {
            "activations": one.rows * (row.kept - row.layer + self.depth * kept),
            "logits": logits * each,
            "a weight's gradient": gradient * one.outputs * self.hidden,
        }
        yield shared | {
            "activations": one.rows * (row.peak - row.layer + (self.depth - 1) * kept),
            "a weight's gradient": gradient * self._widest,
        }
        yield {"a weight's gradient": min(gradient, 4) * max(self.sizes.values())}


def drawing(number: int, outputs: int, guided: bool, bf16: bool) -> Parts:
    """Logits of so many draws, fp32 log-probs of one or two distributions, and the fp64 sum with what it sums."""
    return {"logits": number * outputs * ((width_of(bf16) + 4) * (1 + guided) + 16)}


def width_of(bf16: bool) -> int:
    """Bytes of a number that autocast makes."""
    return 2 if bf16 else 4


def peak(parts: Parts) -> int:
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
