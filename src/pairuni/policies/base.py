"""The contract between a model family and training: Sampler, Scorer and Trainable, together a Policy.

Nothing of a family leaks out. Training sees actions with a mask, the log-probs recorded while sampling, and chunks that
are scored with one forward and backward each. It never looks at an action's value: a token, an image code, or a vector
of floats is the family's own affair.
Shapes: B prompts, R rollouts per prompt, T actions, k rows of a chunk, N actions of a chunk.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn

from pairuni.types import Chunk, Prompt, Rollouts, SamplingSpec, Side


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
    """Says how likely sampled rollouts are."""

    def chunks(self, rollouts: Rollouts, budget: int, tokens: int = 0) -> list[Chunk]:
        """Splits rollouts into chunks of at most `budget` rows and `tokens` tokens of a forward (0: any number).

        Every masked action is in exactly one chunk; a row that has more tokens is a chunk of its own.

        Raises:
            ValueError: a budget below 1, or tokens below 0.
        """
        ...

    def logprobs(self, rollouts: Rollouts, chunk: Chunk) -> Tensor:
        """[k, N] fp32 log-probs, or log-densities, differentiable, under the spec that the rollouts were drawn with.

        Positions outside `chunk.mask_kN` hold 0.
        """
        ...


class Actor(Sampler, Scorer, Protocol):
    """Samples and scores: all that a step does with a model."""


class Trainable(Protocol):
    """What training changes, freezes, spreads over processes and writes."""

    @property
    def module(self) -> nn.Module: ...

    def trainable(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Names and parameters that RL changes: all but those of the frozen modules."""
        ...

    def frozen_modules(self) -> Sequence[nn.Module]:
        """Those that RL leaves alone, such as the vision encoder and the image tokenizer."""
        ...

    def fsdp_units(self) -> Sequence[nn.Module]:
        """The repeated layers, in order: FSDP gathers the weights of one at a time."""
        ...

    def lora_targets(self) -> list[str]:
        """Names of the linear layers that get an adapter where the config names none."""
        ...

    def checkpoint_activations(self) -> None:
        """Recomputes activations layer by layer in the backward pass from now on; the result is the same."""
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


class Policy(Sampler, Scorer, Trainable, Protocol):
    """A model that can be sampled, scored and trained, and says what it is."""

    @property
    def family(self) -> str: ...

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

    def describe(self) -> dict[str, str]:
        """Ids and sizes that a user can hold against the model's own documentation."""
        ...
