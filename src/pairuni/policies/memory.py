"""Peak memory of a training step, from a model's config alone and for any family. All sizes are bytes.

Weights, gradients, moments and caches follow from the shapes of a model on meta tensors; activations are measured on
fake tensors (activations.py). A family's planner.py builds its model and says which rows of tokens a step reads.

Not counted: fragmentation, most workspaces of kernels, the CUDA context and Python, for which memory_plan.py makes
allowances, and other models of a run (rewards, benchmarks). Answers are taken as long as they may become, and no row is
skipped for a zero advantage, so real steps take less. `train/measure.py` measures on the device itself.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pairuni.policies.activations import Activations, Pass, RowSizes
from pairuni.policies.linear import linear_layers
from pairuni.policies.scoring import LOGITS
from pairuni.types import Side, Workload

RESIDENT, OPTIMISER = "resident", "optimiser step"
ROLLOUT = {Side.GENERATION: "image rollout", Side.UNDERSTANDING: "text rollout"}
UPDATE = {Side.GENERATION: "image update", Side.UNDERSTANDING: "text update"}

Parts = dict[str, int]
Stages = dict[str, Parts]
"""Stage -> what is alive at its peak -> bytes. Every stage counts what is resident."""


class Planner(ABC):
    """A family's memory plan, made from a path or hub id without loading weights. A family derives from it."""

    image_tokens: int
    """Tokens of an image in a prompt."""
    kept_by_cpu: int = 0
    """Bytes per token and layer under bf16 that a CPU, as which fake tensors pass, keeps and a GPU does not."""

    def __init__(self, depth: int, layers: str, frozen: tuple[str, ...]) -> None:
        """Counts parameters of `depth` language layers named `layers`; `frozen`: how names of untrained ones begin."""
        with torch.device("meta"):
            module = self.build(depth)
        own, linear = (linear_layers(module, [module.get_submodule(name)]) for name in (layers, ""))
        self.sizes = {name: p.numel() for name, p in module.named_parameters() if not name.startswith(frozen)}
        """Numbers in each parameter that can be trained, by its name."""
        self.lora_targets = {name: part.in_features + part.out_features for name, part in own.items()}
        """Inputs and outputs together of each linear layer that can get an adapter, by its name."""
        self.parameters, self.trained = sum(p.numel() for p in module.parameters()), sum(self.sizes.values())
        self.depth, self.hidden = depth, next(part.in_features for part in own.values())
        self.linear, self._matrices = (sum(p.weight.numel() for p in some.values()) for some in (own, linear))
        self._layer = [p.numel() for p in module.get_submodule(f"{layers}.0").parameters()]
        self.activations = Activations(partial(self.build, 2), layers, frozen, self.states, self.image_tokens)

    @abstractmethod
    def build(self, layers: int) -> nn.Module:
        """The model with so many layers, on the current device; the frozen modules whole."""

    @abstractmethod
    def states(self, side: Side, module: Any, rows: int, length: int, read: int, masked: int) -> Tensor:
        """[rows * read, F]: what the last layer of a side's head reads; see `Pass` for the sizes."""

    @abstractmethod
    def rollout(self, side: Side, work: Workload) -> Iterator[Parts]:
        """What sampling has alive, one phase after the other, beyond what is resident."""

    @abstractmethod
    def passes(self, side: Side, work: Workload) -> Iterable[Pass]:
        """The forwards of an update that may take most."""

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
        stages = {RESIDENT: resident}
        base = {RESIDENT: peak(resident)}
        # Under FSDP all weights are whole while sampling; while scoring those of two layers and of what is no layer.
        whole = (2 if narrowed else 4) * (1 - 1 / work.shards)
        some = (1 + work.reference) * (self.trained - (self.depth - 2) * sum(self._layer))
        sampling, scoring = ({"gathered": int(whole * n)} if whole else {} for n in (self.trained, some))
        gradients = {"gradients": 4 * trained * work.gradients // work.shards}
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

    def drawing(self, number: int, outputs: int, guided: bool, work: Workload) -> Parts:
        """Logits of so many draws, fp32 log-probs of one or two distributions, the fp64 sum with what it sums."""
        return {"logits": number * outputs * ((work.width + 4) * (1 + guided) + 16)}

    def _update(self, one: Pass, side: Side, work: Workload) -> Iterator[Parts]:
        """Backward through the head, with all activations alive; through the last layer; into the embeddings."""
        row = self.activations.row(side, one, work.bf16)
        if work.bf16 and work.cuda:
            less = one.length * self.kept_by_cpu
            row = RowSizes(row.kept - less, row.layer - less, row.peak - 2 * less)
        # With checkpointing a layer keeps its input alone, and one at a time is computed again.
        kept = 4 * one.length * self.hidden if work.checkpointing else row.layer
        shared = self.copies(work, one.outputs) | ({"images": one.images} if one.images else {})
        guided = work.spec.scores_guided(side)
        actions = one.rows * one.read // (1 + guided)
        logits = min(actions, max(1, LOGITS // one.outputs)) * one.outputs
        # fp32: one tensor, or both kinds, their difference, product and sum. Under autocast products are bf16 before
        # they are fp32, and an earlier slice's memory is not written over.
        each = (26 if guided else 12) if work.bf16 else (16 if guided else 4)
        gradient = 0 if work.adapters else 6 if work.bf16 else 4  # autocast's are bf16 before they are added up
        yield shared | {
            "activations": one.rows * (row.kept - row.layer + self.depth * kept),
            "logits": logits * each,
            "a weight's gradient": gradient * one.outputs * self.hidden,
        }
        yield shared | {
            "activations": one.rows * (row.peak - row.layer + (self.depth - 1) * kept),
            "a weight's gradient": gradient * max(self._layer),
        }
        yield {"a weight's gradient": min(gradient, 4) * max(self.sizes.values())}


def peak(parts: Parts) -> int:
    """Bytes of a stage."""
    return sum(parts.values())
