"""Sampling: one loop for image codes with guidance and for text until the end token. Log-probs are recorded as drawn.

A prompt is prefilled once and its keys and values are shared by its rollouts (cache.py). A call's prompts are of equal
length, so that there is no padding whose rounding could reach a row. All that changes from step to step is in tensors:
on a GPU a step is recorded once as a CUDA graph and replayed. Callers hold no_grad, eval mode and autocast.
Shapes: n rows, T actions, D prefixes, H hidden width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from transformers import JanusForConditionalGeneration

from pairuni.policies.janus.cache import Prefix, SharedCache
from pairuni.policies.janus.model import advance, embed_codes
from pairuni.policies.sampling import check, draw
from pairuni.types import SamplingSpec, Side

_LOOK = 16  # tokens between looks at whether rows have ended, on a GPU
_SHARE = 0.75  # of rows that are left, below which the others are taken out: that copies their own keys and values


@dataclass(frozen=True)
class Decoded:
    """n rows of T actions: int64 actions, bool mask, fp32 log-probs (0 outside the mask)."""

    actions_nT: Tensor
    mask_nT: Tensor
    sampled_logp_nT: Tensor
    cond_logp_nT: Tensor


@dataclass(frozen=True)
class Kind:
    """What sampling text and sampling codes differ in."""

    embed: Callable[[Tensor], Tensor]
    """Actions [n] -> what the language model reads [n, H]."""
    head: nn.Module
    parts: tuple[nn.Module, ...]
    """What else than the language model's layers runs at each step."""
    guided: bool
    """Each row has an unconditional twin, which continues the last prefix."""
    banned: Tensor | None
    """int64 ids that are never drawn."""
    eos: int | None
    """The action after which a row has ended."""
    filler: int
    """Stands where a row has ended."""


def codes(model: JanusForConditionalGeneration, guided: bool) -> Kind:
    """Image codes: every row has as many as there are numbers to draw them with."""
    head, aligner = model.model.generation_head, model.model.generation_aligner
    return Kind(partial(embed_codes, model), head, (head, aligner), guided, banned=None, eos=None, filler=0)


def text(model: JanusForConditionalGeneration, banned: Tensor, eos: int, filler: int) -> Kind:
    """Text tokens until the end token."""
    return Kind(model.model.language_model.embed_tokens, model.lm_head, (model.lm_head,), False, banned, eos, filler)


def decode(
    model: JanusForConditionalGeneration,
    kind: Kind,
    prefix: Prefix,
    slots_n: Tensor,
    uniforms_nT: Tensor,
    spec: SamplingSpec,
    cuda_graphs: bool,
) -> Decoded:
    """Draws actions until every row has ended or has T of them; ended rows leave the batch.

    Args:
        prefix: the D prompts; where the kind is guided one more row, the unconditional prompt, last.
        slots_n: int64, which prefix a row continues.
        uniforms_nT: float64 in [0, 1), one number per action.
        cuda_graphs: record a step and replay it where the device can.

    Returns:
        As many actions as the longest row took. The end token is one; a row without it is True throughout.
    """
    rows = _Rows(model, kind, prefix, slots_n, uniforms_nT, spec)
    count, ends = uniforms_nT.shape[1], kind.eos is not None
    every = _every(slots_n.device) if ends else count
    run = _Repeated(rows, cuda_graphs)
    for start in range(1, count, every):
        left = int(rows.alive.sum()) if ends else len(slots_n)
        if not left:
            break
        if left <= _SHARE * len(rows.alive):
            del run  # the memory of its graph
            rows.keep()
            run = _Repeated(rows, cuda_graphs)
        run(min(every, count - start))
    check([rows.finite], [rows.as_asked], spec, Side.UNDERSTANDING if ends else Side.GENERATION)
    longest = int(rows.out.mask_nT.any(0).sum())
    return Decoded(*(part[:, :longest] for part in vars(rows.out).values()))


class _Rows:
    """The rows that are still being drawn, and what has been drawn. `step` changes tensors in place, nothing else."""

    def __init__(
        self,
        model: JanusForConditionalGeneration,
        kind: Kind,
        prefix: Prefix,
        slots_n: Tensor,
        uniforms_nT: Tensor,
        spec: SamplingSpec,
    ) -> None:
        self.model, self.kind, self.spec, self.uniforms_nT = model, kind, spec, uniforms_nT
        # Conditional rows first, then the unconditional twin of each: they differ only in the prompt.
        twins = [torch.full_like(slots_n, len(prefix.hidden_DH) - 1)] if kind.guided else []
        slots = torch.cat([slots_n, *twins])
        self.cache = SharedCache(prefix, slots, uniforms_nT.shape[1] - 1)
        self.out = Decoded(
            torch.full_like(uniforms_nT, kind.filler, dtype=torch.int64),
            torch.zeros_like(uniforms_nT, dtype=torch.bool),
            *(torch.zeros_like(uniforms_nT, dtype=torch.float32) for _ in range(2)),
        )
        self.t_1 = torch.zeros(1, dtype=torch.int64, device=slots.device)
        self.rows = torch.arange(len(slots_n), device=slots.device)
        self.tokens, self.alive = torch.zeros_like(self.rows), torch.ones_like(self.rows, dtype=torch.bool)
        self.finite, self.as_asked = (torch.ones((), dtype=torch.bool, device=slots.device) for _ in range(2))
        self._decide(prefix.hidden_DH[slots])

    def step(self) -> None:
        """One more action of each row."""
        embedded = self.kind.embed(self.tokens)
        self._decide(advance(self.model, self.cache, embedded.repeat(2, 1) if self.kind.guided else embedded))

    def keep(self) -> None:
        """Takes ended rows out."""
        kept = self.alive.nonzero()[:, 0]
        self.cache.keep(kept)
        self.rows, self.alive, self.tokens = self.rows[kept], self.alive[kept], self.tokens[kept]

    def _decide(self, hidden: Tensor) -> None:
        logits, kind, at = self.kind.head(hidden), self.kind, (self.rows, self.t_1)
        cond, uncond = logits.chunk(2) if kind.guided else (logits, None)
        drawn = draw(cond, uncond, self.uniforms_nT[at], self.spec, kind.banned)
        self.out.actions_nT[at] = drawn.actions_n.where(self.alive, kind.filler)
        self.out.mask_nT[at] = self.alive
        self.out.sampled_logp_nT[at] = drawn.sampled_logp_n.where(self.alive, 0)
        self.out.cond_logp_nT[at] = drawn.cond_logp_n.where(self.alive, 0)
        self.tokens.copy_(drawn.actions_n)
        self.finite &= drawn.finite
        self.as_asked &= drawn.as_asked
        if kind.eos is not None:
            self.alive &= drawn.actions_n != kind.eos
        self.t_1 += 1


class _Repeated:
    """Runs the step of rows whose number does not change; as a CUDA graph from the second time on."""

    def __init__(self, rows: _Rows, cuda_graphs: bool) -> None:
        self._rows, self._graph = rows, None
        self._records, self._ran = cuda_graphs and rows.cache.in_tensors, False

    def __call__(self, times: int) -> None:
        for _ in range(times):
            if self._graph is not None:
                self._graph.replay()
            elif self._records and self._ran:
                self._graph = torch.cuda.CUDAGraph()
                # Rewards of other machines are waited for in threads beside this one.
                with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                    self._rows.step()
                self._graph.replay()
            else:
                # Eagerly: it also compiles kernels and fills autocast's cache of weights, which a graph must not do.
                self._rows.step()
                self._ran = True


def _every(device: torch.device) -> int:
    """Tokens between looks at whether rows have ended: to ask a GPU is to wait for it."""
    return 1 if device.type == "cpu" else _LOOK
