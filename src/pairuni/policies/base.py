"""The contract between a model family and an RL step.

Nothing of a family leaks out: the trainer sees decisions (a text token, an image code, ...) with a mask, the log-probs
recorded while sampling, and chunks that are scored with one forward and backward each.
Shapes: B prompts, R rollouts per prompt, T decisions, k rows of a chunk, N decisions of a chunk.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn

from pairuni.records import Prompt, Side


@dataclass(frozen=True)
class SamplingSpec:
    """How decisions are drawn, kept with the rollouts so that scoring repeats it exactly."""

    temperature: float = 1.0
    """Divides the logits; 0 means greedy (evaluation only)."""
    guidance: float = 1.0
    """Classifier-free guidance s of u + s * (c - u) on image decisions; 1 is off."""
    score: Literal["cond", "cfg"] = "cond"
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
        if self.score not in ("cond", "cfg"):
            raise ValueError(f"score must be 'cond' or 'cfg', not {self.score!r}")

    @property
    def trainable(self) -> bool:
        """True where the recorded log-probs are those of the whole distribution (no truncation, not greedy)."""
        return self.top_k == 0 and self.top_p == 1.0 and self.temperature > 0


@dataclass(frozen=True)
class Rollouts:
    """R samples for each of B prompts of one side. Tensors have no grad and live on the CPU or the model's device."""

    side: Side
    spec: SamplingSpec
    prompts: tuple[Prompt, ...]
    actions_BRT: Tensor
    """int64 token ids or image codes as sampled, never re-tokenised."""
    mask_BRT: Tensor
    """bool, True at decisions that are scored (an end-of-answer token counts, what follows it does not)."""
    sampled_logp_BRT: Tensor
    """fp32, of the distribution that was sampled (under guidance: the guided one)."""
    cond_logp_BRT: Tensor
    """fp32, of the conditional distribution at the same temperature and vocabulary limits."""
    texts: tuple[tuple[str, ...], ...] | None
    """[B][R] decoded answers (understanding)."""
    images_BRHWC: np.ndarray | None
    """uint8 images (generation)."""
    context: Any = None
    """What the family needs to score again; opaque to everyone else."""
    weight_BRT: Tensor | None = None
    """fp32 factors, above 0, of the decisions in their rollout's sum; None: 1. Where only some of a rollout's decisions
    are scored, one over the probability of being scored, so that the expectation is the sum over all of them."""
    counted_BR: Tensor | None = None
    """int64, how many decisions each rollout is said to have; None: those of the mask. Another number where not all of
    them are scored, or where something is scored that is no part of the answer."""

    @property
    def logp_BRT(self) -> Tensor:
        """The log-probs recorded while sampling, of what `spec.score` scores."""
        guided = self.side is Side.GENERATION and self.spec.score == "cfg"
        return self.sampled_logp_BRT if guided else self.cond_logp_BRT

    @property
    def scored_guided(self) -> bool:
        """Whether scoring needs the unconditional logits too."""
        return self.side is Side.GENERATION and self.spec.score == "cfg" and self.spec.guidance > 1

    @property
    def length_BR(self) -> Tensor:
        """int64, the decisions that denominators and token counts go by."""
        return self.mask_BRT.sum(-1) if self.counted_BR is None else self.counted_BR

    @property
    def shape(self) -> tuple[int, int]:
        return self.mask_BRT.shape[0], self.mask_BRT.shape[1]


@dataclass(frozen=True)
class Chunk:
    """Decisions that are scored with one forward and backward."""

    rows: tuple[int, ...]
    """k flat rollout indices b * R + r."""
    mask_kN: Tensor
    """bool, the decisions this chunk covers; N is T, all places of a rollout."""
    recorded_kN: Tensor
    """fp32 log-probs of them, recorded while sampling, on the model's device."""
    step: int | None = None
    """Which trace step, for families that score a rollout in several forwards."""
    weight_kN: Tensor | None = None
    """fp32, their factors in the loss (`Rollouts.weight_BRT`), on the model's device; None: 1."""


class Sampler(Protocol):
    """Draws answers and images."""

    @property
    def edits_images(self) -> bool:
        """Whether it draws from an image and an instruction: a generation prompt with images."""
        ...

    @property
    def positions(self) -> int:
        """Most tokens of a prompt and its answer, as the model was made; 0 where it does not say."""
        ...

    def tokens(self, prompt: Prompt, max_new_tokens: int) -> int:
        """Of a prompt with its images and its answer at its longest. A question without an image is taken to have one
        of the usual size."""
        ...

    def sample(
        self, side: Side, prompts: Sequence[Prompt], rollouts: int, spec: SamplingSpec, seeds_BR: np.ndarray
    ) -> Rollouts:
        """R rollouts per prompt, without grad, in eval mode; module modes and grad mode are restored on any exit.

        Args:
            seeds_BR: uint64 [B, R], one counter seed per row (`pairuni.policies.sampling.counter_seed`): a row's sample
                depends on its prompt and seed alone.

        Raises:
            ValueError: no prompts, a prompt of another side, or seeds of another shape.
            InputError: a prompt and its answer are longer than `positions`.
        """
        ...


class Scorer(Protocol):
    """Says how likely what was sampled is."""

    def logprobs(self, rollouts: Rollouts, chunk: Chunk) -> Tensor:
        """[k, N] fp32 log-probs, differentiable, with the temperature, vocabulary limits and `score` of the spec.

        Positions outside `chunk.mask_kN` hold 0.
        """
        ...


class Policy(Sampler, Scorer, Protocol):
    """Everything a Pair-GRPO step needs from a model."""

    @property
    def family(self) -> str: ...

    @property
    def module(self) -> nn.Module: ...

    @property
    def precision(self) -> Literal["fp32", "bf16"]:
        """Of the forward passes."""
        ...

    @property
    def device(self) -> torch.device: ...

    @property
    def image_size(self) -> int:
        """Side length of the square images it draws, in pixels."""
        ...

    def chunks(self, rollouts: Rollouts, budget: int, tokens: int = 0) -> list[Chunk]:
        """Splits rollouts into chunks of at most `budget` rows and `tokens` tokens of a forward (0: any number).

        Every masked decision is in exactly one chunk; a row that has more tokens is a chunk of its own.

        Raises:
            ValueError: a budget below 1, or tokens below 0.
        """
        ...

    def checkpoint_activations(self) -> None:
        """What scoring keeps for its backward pass is recomputed layer by layer from now on; the result is the same."""
        ...

    def trainable(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Names and parameters that RL changes: all but the frozen towers (vision encoder, image tokenizer)."""
        ...

    def facts(self) -> dict[str, str]:
        """Ids and sizes that a user can hold against the model's own documentation."""
        ...

    def towers(self) -> Sequence[nn.Module]:
        """The frozen ones."""
        ...

    def layers(self) -> Sequence[nn.Module]:
        """The repeated layers, in order: what is gathered at a time where weights are spread over processes."""
        ...

    def adaptable(self) -> list[str]:
        """Names of the linear layers that get an adapter where the config does not say which."""
        ...

    def reference(self) -> Self:
        """A frozen copy with its own weights (embeddings included), for the KL term."""
        ...

    def save(self, path: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """Writes a folder that `load_policy` and the family's own library load.

        Args:
            weights: to write instead of the module's own.
        """
        ...
