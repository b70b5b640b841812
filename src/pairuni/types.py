"""The vocabulary of the project, defined once: what the data holds, what a model samples, what a step trains on.

A `Sample` has one half of a quadruple; a `Quadruple` has all of (image, caption, question, answer). Training takes only
pairs of quadruples, so a sample without a caption cannot reach it. Files of these are records.py.
Shapes: B prompts, R rollouts per prompt, T actions of a rollout, k rows of a chunk, N actions of a chunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # readers of files need no torch
    import numpy as np
    from torch import Tensor


class Side(StrEnum):
    """The two abilities of a unified model."""

    UNDERSTANDING = "understanding"
    GENERATION = "generation"


Kind = Literal["aligned", "retrieved"]


@dataclass(frozen=True)
class Prompt:
    """The input of a policy. Understanding: `text` is the question about `images`, which come before it.

    Generation: `text` is the caption, or with images what to change in them, for a model that edits.
    images: uint8 arrays [height, width, 3].
    """

    side: Side
    text: str
    images: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True)
class Sample:
    """One half as it comes from a source: (question, answer) for understanding, a prompt for generation."""

    id: str
    side: Side
    image_path: str
    prompt: str | None = None
    question: str | None = None
    answer: str | None = None
    tag: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        half = (self.prompt,) if self.side is Side.GENERATION else (self.question, self.answer)
        if not all(half):
            need = "prompt" if self.side is Side.GENERATION else "question and answer"
            raise ValueError(f"{self.side} sample {self.id!r} needs a non-empty {need}")


@dataclass(frozen=True)
class Quadruple:
    """A whole sample (I, C, Q, A). `side` says which half was original, None where the file does not say."""

    id: str
    side: Side | None
    image_path: str
    prompt: str
    question: str
    answer: str
    tag: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        known = {"id": self.id, "side": None if self.side is None else str(self.side), "image_path": self.image_path}
        known |= {"prompt": self.prompt, "question": self.question, "answer": self.answer, "tag": self.tag}
        return {**self.extra, **{k: v for k, v in known.items() if v is not None}}


@dataclass(frozen=True)
class Pair:
    """An understanding-generation pair. Aligned: both halves are one quadruple; retrieved: two similar images."""

    id: str
    kind: Kind
    similarity: float
    generate: Quadruple
    understand: Quadruple
    extra: Mapping[str, Any] = field(default_factory=dict)

    def half(self, side: Side) -> Quadruple:
        """The half that is trained on `side`: the generate half's prompt, the understand half's image and question."""
        return self.generate if side is Side.GENERATION else self.understand

    def to_json(self) -> dict[str, Any]:
        known = {"id": self.id, "kind": self.kind, "similarity": self.similarity}
        halves = {"generate_ann": self.generate.to_json(), "understand_ann": self.understand.to_json()}
        return {**self.extra, **known, **halves}


@dataclass(frozen=True)
class Half:
    """One half of a pair, as one side is trained on it."""

    pair_id: str
    quadruple: Quadruple
    similarity: float
    aligned: bool
    repeat: int = 0
    """How often the same pair's half of this side stands earlier in the batch: sampling seeds must differ."""


@dataclass(frozen=True)
class SamplingSpec:
    """How actions are drawn. Rollouts keep it, so that scoring repeats it exactly."""

    temperature: float = 1.0
    """Divides the logits; 0 means greedy (evaluation only)."""
    guidance: float = 1.0
    """Classifier-free guidance s of u + s * (c - u) on image actions; 1 is off."""
    logprob_mode: Literal["cond", "cfg"] = "cond"
    """Log-probs of the conditional logits, or of the guided ones that were sampled."""
    max_new_tokens: int = 32
    """Longest text answer; image length is the model's."""
    top_k: int = 0
    """Keep only the k most likely tokens (0: all). Rollouts for training refuse anything else."""
    top_p: float = 1.0
    """Keep the smallest set of tokens with this probability (1: all). Rollouts for training refuse anything else."""

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.guidance < 1 or self.max_new_tokens < 1:
            raise ValueError(f"temperature >= 0, guidance >= 1 and max_new_tokens >= 1 are needed, not {self}")
        if self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(f"top_k >= 0 and 0 < top_p <= 1 are needed, not {self}")
        if self.logprob_mode not in ("cond", "cfg"):
            raise ValueError(f"logprob_mode must be 'cond' or 'cfg', not {self.logprob_mode!r}")

    @property
    def trainable(self) -> bool:
        """True where the recorded log-probs are those of the whole distribution (no truncation, not greedy)."""
        return self.top_k == 0 and self.top_p == 1.0 and self.temperature > 0

    def guides(self, side: Side) -> bool:
        """Whether sampling needs the unconditional logits too."""
        return side is Side.GENERATION and self.guidance > 1

    def scores_guided(self, side: Side) -> bool:
        """Whether scoring needs them too."""
        return self.guides(side) and self.logprob_mode == "cfg"


@dataclass(frozen=True)
class Rollouts:
    """R samples for each of B prompts of one side. Tensors have no grad and live on the CPU or the model's device."""

    side: Side
    spec: SamplingSpec
    prompts: tuple[Prompt, ...]
    actions_BRT: Tensor
    """As sampled: int64 token ids or image codes, never re-tokenised, or floats [B, R, T, ...]. The family's own."""
    mask_BRT: Tensor
    """bool, True at actions that are scored (an end-of-answer token counts, what follows it does not)."""
    sampled_logp_BRT: Tensor
    """fp32 log-probs (or log-densities) under the distribution that was sampled (under guidance: the guided one)."""
    cond_logp_BRT: Tensor
    """fp32, under the conditional distribution at the same temperature and vocabulary limits."""
    texts: tuple[tuple[str, ...], ...] | None
    """[B][R] decoded answers (understanding)."""
    images_BRHWC: np.ndarray | None
    """uint8 images (generation)."""
    context: Any = None
    """What the family needs to score again; opaque to everyone else."""
    weight_BRT: Tensor | None = None
    """fp32 factors, above 0, of the actions in their rollout's sum; None: 1. Where only some of a rollout's actions
    are scored, one over the probability of being scored, so that the expectation is the sum over all of them."""
    counted_BR: Tensor | None = None
    """int64, how many actions each rollout is said to have; None: those of the mask. Another number where not all of
    them are scored, or where something is scored that is no part of the answer."""

    @property
    def logp_BRT(self) -> Tensor:
        """The log-probs recorded while sampling, of what `spec.logprob_mode` scores."""
        guided = self.side is Side.GENERATION and self.spec.logprob_mode == "cfg"
        return self.sampled_logp_BRT if guided else self.cond_logp_BRT

    @property
    def scored_guided(self) -> bool:
        """Whether scoring needs the unconditional logits too."""
        return self.spec.scores_guided(self.side)

    @property
    def length_BR(self) -> Tensor:
        """int64, the actions that denominators and token counts go by."""
        return self.mask_BRT.sum(-1) if self.counted_BR is None else self.counted_BR

    @property
    def shape(self) -> tuple[int, int]:
        return self.mask_BRT.shape[0], self.mask_BRT.shape[1]


@dataclass(frozen=True)
class Chunk:
    """Actions that are scored with one forward and backward."""

    rows: tuple[int, ...]
    """k flat rollout indices b * R + r."""
    mask_kN: Tensor
    """bool, the actions this chunk covers; N is T, all places of a rollout."""
    recorded_kN: Tensor
    """fp32 log-probs of them, recorded while sampling, on the model's device."""
    step: int | None = None
    """Which trace step, for families that score a rollout in several forwards."""
    weight_kN: Tensor | None = None
    """fp32, their factors in the loss (`Rollouts.weight_BRT`), on the model's device; None: 1."""


@dataclass
class MicroBatch:
    """A chunk with its part of the loss. The first update of a step fills in `old_kN` and `ref_kN`."""

    rollouts: Rollouts
    chunk: Chunk
    advantage_k: Tensor
    """fp32, pair weight times group advantage."""
    scale_k: Tensor
    """fp32, from `loss_scales`, times the side's weight."""
    trained: bool = True
    """Whether it has a gradient; a probe has none."""
    counted: bool = True
    """Whether metrics count it; padding is not counted."""
    old_kN: Tensor | None = None
    """Log-probs under the weights before the step's first update."""
    ref_kN: Tensor | None = None
    """Log-probs of the reference model, where there is a KL term."""

    def narrow(self, keep: list[int]) -> MicroBatch:
        """The micro-batch with only these of its k rows."""
        chunk = self.chunk
        narrowed = replace(
            chunk,
            rows=tuple(chunk.rows[i] for i in keep),
            mask_kN=chunk.mask_kN[keep],
            recorded_kN=chunk.recorded_kN[keep],
            weight_kN=None if chunk.weight_kN is None else chunk.weight_kN[keep],
        )
        return MicroBatch(self.rollouts, narrowed, self.advantage_k[keep], self.scale_k[keep])


@dataclass(frozen=True)
class Objective:
    """What a step minimises and in which portions (paper 3): `TrainConfig.objective`, resolved for the pairing mode."""

    weighting: Literal["none", "linear", "sqrt"]
    """Weight of a retrieved pair; none in modes without a meaningful similarity."""
    std_eps: float
    clip_eps: float
    kl_beta: float
    kl_estimator: Literal["k1", "k2", "k3"]
    loss_norm: Literal["sequence_mean", "token_sum", "token_mean", "constant"]
    norm_length: Mapping[Side, int]
    side_weights: Mapping[Side, float]
    shared_denominator: bool
    """One denominator for both sides: mode vanilla."""
    updates_per_rollout: int
    micro_batch: int
    micro_tokens: int


@dataclass(frozen=True)
class Workload:
    """The sizes of one process' step: what its memory depends on beside the model."""

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

    @property
    def rows(self) -> int:
        return self.prompts * self.rollouts

    @property
    def width(self) -> int:
        """Bytes of a number that a forward makes."""
        return 2 if self.bf16 else 4
