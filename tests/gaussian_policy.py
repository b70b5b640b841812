"""A policy with continuous actions, for tests alone: each action is a vector of floats drawn from a Gaussian.

It stands for families that match flows or diffuse latents, and shows that nothing outside a family's folder takes
actions for integers. A prompt's letters and its image's colours decide the means; answers and images are read off the
actions. Shapes: B prompts, R rollouts, T actions, D floats of an action, k rows of a chunk.
"""

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import norm
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pairuni.errors import DivergedError
from pairuni.policies.requests import check_request, evaluating
from pairuni.policies.sampling import guide, row_uniforms
from pairuni.types import Chunk, Prompt, Rollouts, SamplingSpec, Side

T, D, SIZE, HIDDEN = 4, 3, 4, 12
"""Actions, floats of an action, side of an image (T rows of D colour values, stretched), features."""


def draw(mean_nTD: Tensor, uniforms_nU: Tensor, temperature: float) -> Tensor:
    """[n, T, D] floats at the mean plus `temperature` times what the uniform numbers are as normal ones."""
    noise_nTD = torch.from_numpy(norm.ppf(uniforms_nU.numpy().clip(1e-9, 1 - 1e-9))).float().view_as(mean_nTD)
    return mean_nTD + temperature * noise_nTD


class GaussianModel(nn.Module):
    """From a prompt to the means of its actions. The image encoder is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, HIDDEN).requires_grad_(False)
        self.embed = nn.Embedding(128, HIDDEN)
        self.place = nn.Embedding(T, HIDDEN)
        self.layer = nn.Linear(HIDDEN, HIDDEN)
        self.head = nn.Linear(HIDDEN, D)
        self.gradient_checkpointing = False

    def gradient_checkpointing_enable(self) -> None:
        self.gradient_checkpointing = True

    def forward(self, letters_nL: Tensor, colours_n3: Tensor, shift: int = 0) -> Tensor:
        """[n, T, D]. A prompt without letters is the unconditional one."""
        text_nH = self.embed(letters_nL).sum(1)  # of no letters: 0
        place_TH = self.place((torch.arange(T) + shift) % T)
        states = (text_nH + self.encoder(colours_n3))[:, None] + place_TH
        if self.gradient_checkpointing and self.training:
            states = checkpoint(self._hidden, states, use_reentrant=False)
        else:
            states = self._hidden(states)
        return self.head(states).float()

    def _hidden(self, states: Tensor) -> Tensor:
        return torch.tanh(self.layer(states))


class GaussianPolicy:
    """See `policies.base.Policy`."""

    family, edits_images, positions, image_size = "gaussian", False, 0, SIZE

    def __init__(self, module: GaussianModel, precision: Literal["fp32", "bf16"] = "fp32") -> None:
        self.module, self.precision = module, precision

    @property
    def device(self) -> torch.device:
        return self.module.head.weight.device

    def tokens(self, prompt: Prompt, max_new_tokens: int) -> int:
        return len(prompt.text) + T

    def sample(
        self, side: Side, prompts: Sequence[Prompt], rollouts: int, spec: SamplingSpec, seeds_BR: np.ndarray
    ) -> Rollouts:
        check_request(side, prompts, rollouts, seeds_BR)
        for image in [image for prompt in prompts for image in prompt.images]:
            if image.ndim != 3 or image.dtype != np.uint8:
                raise ValueError(f"an image is uint8 [H, W, 3], not {image.dtype} {image.shape}")
        if side is Side.UNDERSTANDING and not all(prompt.images for prompt in prompts):
            raise ValueError("a question needs an image")
        shape = len(prompts), rollouts, T
        with evaluating(self.module), torch.no_grad():
            cond, guided = self._means(side, prompts, rollouts, spec)
            if not bool(guided.isfinite().all()):
                raise DivergedError(f"{side}: the model's means are not finite")
            actions = draw(guided, row_uniforms(seeds_BR.reshape(-1), T * D), spec.temperature)
        images = texts = None
        if side is Side.GENERATION:
            rows_nT1D = (actions.sigmoid() * 255).to(torch.uint8).numpy()[:, :, None]
            images = rows_nT1D.repeat(SIZE, 2).reshape(*shape[:2], T, SIZE, D)
        else:
            letters = ["".join("abcdefghijklmnopqrstuvwxyz"[int(x) % 26] for x in row * 7) for row in actions[..., 0]]
            texts = tuple(tuple(letters[b * rollouts : (b + 1) * rollouts]) for b in range(len(prompts)))
        return Rollouts(
            side=side,
            spec=spec,
            prompts=tuple(prompts),
            actions_BRT=actions.view(*shape, D),
            mask_BRT=torch.ones(shape, dtype=torch.bool),
            sampled_logp_BRT=self._density(actions, guided, spec).view(shape),
            cond_logp_BRT=self._density(actions, cond, spec).view(shape),
            texts=texts,
            images_BRHWC=images,
        )

    def chunks(self, rollouts: Rollouts, budget: int, tokens: int = 0) -> list[Chunk]:
        if budget < 1 or tokens < 0:
            raise ValueError(f"at least one row, not {budget}, and {tokens} tokens")
        mask_nT, logp_nT = rollouts.mask_BRT.flatten(0, 1), rollouts.logp_BRT.flatten(0, 1)
        rows = range(len(mask_nT))
        parts = [list(rows[start : start + budget]) for start in range(0, len(rows), budget)]
        return [Chunk(tuple(part), mask_nT[part], logp_nT[part]) for part in parts]

    def logprobs(self, rollouts: Rollouts, chunk: Chunk) -> Tensor:
        rows = list(chunk.rows)
        cond, guided = self._means(rollouts.side, rollouts.prompts, rollouts.shape[1], rollouts.spec)
        mean = (guided if rollouts.scored_guided else cond)[rows]
        return self._density(rollouts.actions_BRT.flatten(0, 1)[rows], mean, rollouts.spec) * chunk.mask_kN

    def trainable(self) -> Iterable[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.module.named_parameters() if p.requires_grad]

    def frozen_modules(self) -> Sequence[nn.Module]:
        return [self.module.encoder]

    def fsdp_units(self) -> Sequence[nn.Module]:
        return [self.module.layer]

    def lora_targets(self) -> list[str]:
        return ["layer"]

    def checkpoint_activations(self) -> None:
        self.module.gradient_checkpointing_enable()

    def reference(self) -> Self:
        return type(self)(copy.deepcopy(self.module).eval().requires_grad_(False), self.precision)

    def save(self, path: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        path.mkdir(parents=True, exist_ok=True)
        save_file(dict(weights or self.module.state_dict()), path / "model.safetensors")
        (path / "config.json").write_text(json.dumps({"model_type": "gaussian"}))

    def describe(self) -> dict[str, str]:
        return {"family": self.family, "actions": f"{T} of {D} floats"}

    def _means(self, side: Side, prompts: Sequence[Prompt], rollouts: int, spec: SamplingSpec) -> tuple[Tensor, Tensor]:
        """[n, T, D] conditional, and guided where the spec says so."""
        colours = [p.images[0].mean((0, 1)) / 255 if p.images else np.zeros(3) for p in prompts]
        colours_n3 = torch.from_numpy(np.stack(colours)).float()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
            means = [
                self.module(torch.tensor([[ord(c) % 128 for c in prompt.text]]), colours_n3[b : b + 1])
                for b, prompt in enumerate(prompts)
            ]
            cond_nTD = torch.cat(means).repeat_interleave(rollouts, 0)
            if side is Side.UNDERSTANDING or spec.guidance == 1:
                return cond_nTD, cond_nTD
            nothing = self.module(torch.zeros(1, 0, dtype=torch.int64), torch.zeros(1, 3)).expand_as(cond_nTD)
        return cond_nTD, guide(cond_nTD, nothing, spec.guidance)

    def _density(self, actions_nTD: Tensor, mean_nTD: Tensor, spec: SamplingSpec) -> Tensor:
        """[n, T] log-density; greedy decoding is reported at temperature 1."""
        normal = torch.distributions.Normal(mean_nTD, spec.temperature or 1.0)
        return normal.log_prob(actions_nTD).sum(-1)


def make_gaussian(seed: int = 0) -> GaussianPolicy:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return GaussianPolicy(GaussianModel())


def load_gaussian(path: str, *, precision: str = "auto", **options: Any) -> GaussianPolicy:
    policy = make_gaussian()
    policy.module.load_state_dict(load_file(Path(path) / "model.safetensors"))
    policy.precision = "bf16" if precision == "bf16" else "fp32"
    return policy
