"""Lumina-DiMOO behind the policy contract: texts and images by filling masked slots, scored along the recorded steps.

A row is scored in groups of slots, one forward each, heads on the slots of the group: by default along its own steps,
each seeing what was filled before it (the trace; estimators.py has the others). Groups without an action cost nothing.
Shapes: B prompts, R rollouts, n = B * R rows, N slots, k rows of a chunk, M forwards (row and group), A answer tokens.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from pairuni.errors import InputError
from pairuni.files import atomic_path
from pairuni.policies.dimoo import decode
from pairuni.policies.dimoo.estimators import masked_prompt, scoring, seen
from pairuni.policies.dimoo.model import Dimoo, states_at
from pairuni.policies.dimoo.prompts import DimooPrompts, Encoded
from pairuni.policies.linear import linear_layers
from pairuni.policies.requests import check_budgets, check_request, evaluating, refuse_lengths, rows_within
from pairuni.policies.scoring import action_logp, autocast
from pairuni.types import Chunk, Prompt, Rollouts, SamplingSpec, Side

LANGUAGE = "language."
VQVAE = "vqvae"


@dataclass(frozen=True)
class _Trace:
    """What a rollout keeps to be scored again."""

    encoded: Encoded
    steps_nN: Tensor
    """int64: the step that filled each slot."""
    groups_nN: Tensor
    """int64: the forward that scores it."""
    seeds_n: np.ndarray


class DimooPolicy:
    """Masked discrete diffusion over text and VQ image codes in one vocabulary."""

    family = "dimoo"
    edits_images = True

    def __init__(
        self, module: Dimoo, tokenizer: PreTrainedTokenizerBase, precision: Literal["fp32", "bf16"] = "fp32"
    ) -> None:
        """Takes a loaded model; freezes its image tokenizer. Raises InputError: ids and tokenizer disagree."""
        self.module, self.tokenizer = module, tokenizer
        self.precision: Literal["fp32", "bf16"] = precision
        self.prompts = DimooPrompts(module, tokenizer)
        module.vqvae.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        return self.module.language.head.weight.device

    @property
    def image_size(self) -> int:
        return self.module.image_size

    @property
    def positions(self) -> int:
        """See `base.Sampler`. The released config.json has LLaDA's max_sequence_length, which its images exceed."""
        return int(getattr(self.module.language.config, "max_position_embeddings", 0))

    def tokens(self, prompt: Prompt, max_new_tokens: int) -> int:
        """See `base.Sampler`."""
        generation = prompt.side is Side.GENERATION
        layout = self.prompts.image() if generation else self.prompts.answer(max_new_tokens)
        return self.prompts.length(prompt) + len(layout.ids_A)

    def sample(
        self, side: Side, prompts: Sequence[Prompt], rollouts: int, spec: SamplingSpec, seeds_BR: np.ndarray
    ) -> Rollouts:
        """See `base.Sampler`. Rollouts live on the CPU. A generation prompt with images is an edit of them."""
        check_request(side, prompts, rollouts, seeds_BR)
        with evaluating(self.module), torch.no_grad():
            encoded = self.prompts.encode(side, prompts)
            if self.positions:
                answer = len(self._task(side, spec).layout.ids_A)
                refuse_lengths([len(ids) for ids in encoded.ids], answer, self.positions)
            owners = [b for b in range(len(prompts)) for _ in range(rollouts)]
            guided = spec.guides(side)
            contexts = [encoded.ids, encoded.unconditional] if guided else [encoded.ids]
            rows = [[ids[b] for b in owners] for ids in contexts]
            task, seeds_n = self._task(side, spec), seeds_BR.reshape(-1)
            with autocast(self.device.type, self.precision == "bf16"):
                filled = decode.fill(self.module.language, rows, task, spec, seeds_n)
            c = self.module.language.config
            shape = (*seeds_BR.shape, -1)
            texts = images = None
            lengths_n, steps = torch.full((len(seeds_n),), filled.actions_nN.shape[1]), c.scored_image_steps
            if side is Side.UNDERSTANDING:
                lengths_n, steps = self.prompts.lengths(filled.actions_nN), 0
                written = [self.prompts.text(row) for row in filled.actions_nN.tolist()]
                texts = tuple(tuple(written[b * rollouts : (b + 1) * rollouts]) for b in range(len(prompts)))
            else:
                pixels = self.module.decode_pixels(filled.actions_nN)
                images = pixels.reshape(*seeds_BR.shape, *pixels.shape[1:])
        scored = scoring(c.estimator, filled.steps_nN, lengths_n, steps, seeds_n)
        return Rollouts(
            side=side,
            spec=spec,
            prompts=tuple(prompts),
            actions_BRT=filled.actions_nN.view(shape),
            mask_BRT=scored.mask_nN.view(shape),
            sampled_logp_BRT=(filled.sampled_logp_nN * scored.mask_nN).view(shape),
            cond_logp_BRT=(filled.cond_logp_nN * scored.mask_nN).view(shape),
            texts=texts,
            images_BRHWC=images,
            context=_Trace(encoded, filled.steps_nN, scored.groups_nN, seeds_n),
            weight_BRT=scored.weight_nN.view(shape),
            counted_BR=lengths_n.view(seeds_BR.shape),
        )

    def chunks(self, rollouts: Rollouts, budget: int, tokens: int = 0) -> list[Chunk]:
        """See `base.Policy`: consecutive rows with all of their groups, or with one where all have too many tokens."""
        check_budgets(budget, tokens)
        self._refuse_cache()
        trace = _trace(rollouts)
        mask, recorded = rollouts.mask_BRT.flatten(0, 1), rollouts.logp_BRT.flatten(0, 1)
        weight = None if rollouts.weight_BRT is None else rollouts.weight_BRT.flatten(0, 1)
        answer = len(self._task(rollouts.side, rollouts.spec).layout.ids_A)
        cost = max(len(row) for row in trace.encoded.ids) + answer
        cost *= 2 if rollouts.scored_guided else 1
        groups = [int(g) for g in trace.groups_nN[mask].unique()]
        whole, size = chunk_size(budget, tokens, cost, len(groups))
        chunks = []
        for start in range(0, len(mask), size):
            rows = list(range(start, min(len(mask), start + size)))
            recorded_kN = recorded[rows].to(self.device)
            weight_kN = None if weight is None else weight[rows].to(self.device)
            for group in [None] if whole else groups:
                part = mask[rows] if group is None else mask[rows] & (trace.groups_nN[rows] == group)
                if part.any():
                    chunks.append(Chunk(tuple(rows), part.to(self.device), recorded_kN, group, weight_kN))
        return chunks

    def logprobs(self, rollouts: Rollouts, chunk: Chunk) -> Tensor:
        """See `base.Policy`: one forward over all groups of the chunk's rows."""
        trace, task, spec = _trace(rollouts), self._task(rollouts.side, rollouts.spec), rollouts.spec
        rows = list(chunk.rows)
        mask_kN, groups_kN = chunk.mask_kN.cpu(), trace.groups_nN[rows]
        actions_kN = rollouts.actions_BRT.flatten(0, 1)[rows]
        # One forward for each row and group with an action; one all the same where there is none, as processes in
        # step with others need.
        found = {(i, int(g)) for i, g in zip(mask_kN.nonzero()[:, 0].tolist(), groups_kN[mask_kN], strict=True)}
        pairs = sorted(found) or [(0, 0)]
        i_M, g_M = torch.tensor([i for i, _ in pairs]), torch.tensor([g for _, g in pairs])
        seen_MN = seen(self.module.language.config.estimator, groups_kN[i_M], g_M)
        scored_MN = mask_kN[i_M] & (groups_kN[i_M] == g_M[:, None])
        answers_MA = task.layout.ids_A.repeat(len(pairs), 1)
        known = torch.where(seen_MN, actions_kN[i_M] + task.ids.start, answers_MA[:, task.layout.slots_N])
        answers_MA[:, task.layout.slots_N] = known
        owners = [rows[i] for i, _ in pairs]
        which, slots = scored_MN.nonzero().T
        places_MN = task.layout.slots_N.to(self.device).expand(len(pairs), -1)
        language, here = self.module.language, (which.to(self.device), slots.to(self.device))
        contexts = [trace.encoded.ids] + ([trace.encoded.unconditional] if rollouts.scored_guided else [])
        with autocast(self.device.type, self.precision == "bf16"):
            read = [self._read(ids, owners, rollouts) for ids in contexts]
            # Each state stands behind its own forward's prompt, at its slot.
            states = [states_at(language, prompts, answers_MA.to(self.device), places_MN)[here] for prompts in read]
            logp = action_logp(
                language.head.weight[task.ids],
                None,
                states[0],
                states[1] if len(states) > 1 else None,
                actions_kN[i_M[which], slots].to(self.device),
                spec,
                None if task.banned is None else task.banned.to(self.device),
            )
        out = torch.zeros(mask_kN.shape, device=self.device)
        return out.index_put((i_M[which].to(self.device), here[1]), logp)

    def checkpoint_activations(self) -> None:
        """See `base.Policy`."""
        self.module.gradient_checkpointing_enable()
        self.module.language.train()

    def trainable(self) -> Iterable[tuple[str, nn.Parameter]]:
        """See `base.Policy`. Raises InputError: what is drawn with a cache cannot be trained on."""
        self._refuse_cache()
        return [(name, p) for name, p in self.module.named_parameters() if p.requires_grad]

    def describe(self) -> dict[str, str]:
        """See `base.Policy`."""
        c = self.module.language.config
        cached = ", images with a cache" if c.cached_share else ""
        return {
            "family": self.family,
            "token ids": ", ".join(f"{name} {number}" for name, number in c.tokens().items()),
            "vocabulary": f"{c.embedding_size:,}, image codes from {c.image_offset:,}",
            "image codes": f"{self.module.codes_per_side**2} of {self.module.codebook:,}",
            "images": f"{self.image_size} x {self.image_size} pixels",
            "steps": f"{c.text_steps} for texts, {c.image_steps} for images, in {c.order} order{cached}",
            "log-probs": f"{c.estimator}, {c.scored_image_steps or 'all'} image steps",
            "forward passes": f"{self.precision} on {self.device}",
        }

    def frozen_modules(self) -> Sequence[nn.Module]:
        """See `base.Policy`: the image tokenizer."""
        return (self.module.vqvae,)

    def fsdp_units(self) -> Sequence[nn.Module]:
        return list(self.module.language.blocks)

    def lora_targets(self) -> list[str]:
        """See `base.Policy`: all linear layers of the blocks."""
        return list(linear_layers(self.module, self.fsdp_units()))

    def reference(self) -> Self:
        """See `base.Policy`. In eval mode, on the same device; the image tokenizer is the same, not copied."""
        frozen = copy.deepcopy(self.module, {id(self.module.vqvae): self.module.vqvae}).eval().requires_grad_(False)
        return type(self)(frozen, self.tokenizer, self.precision)

    def save(self, path: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """Writes fp32 weights, tokenizer, and the image tokenizer in its own folder; all of it appears at once."""
        named = self.module.state_dict() if weights is None else weights
        own = {name.removeprefix(LANGUAGE): value for name, value in named.items() if name.startswith(LANGUAGE)}
        with atomic_path(path) as folder:
            self.module.language.save_pretrained(folder, state_dict=own)
            self.tokenizer.save_pretrained(folder)
            self.module.vqvae.save_pretrained(folder / VQVAE)

    def _refuse_cache(self) -> None:
        if self.module.language.config.cached_share:
            problem = "is for evaluation alone: what is drawn with a cache has other probabilities than the model says"
            raise InputError(problem, field="model.sampler_options.cached_share")

    def _task(self, side: Side, spec: SamplingSpec) -> decode.Task:
        c = self.module.language.config
        if side is Side.UNDERSTANDING:
            layout, length = self.prompts.answer(spec.max_new_tokens), spec.max_new_tokens
            plan = decode.text_steps(length, c.text_steps, c.text_block)
            return decode.Task(layout, plan, slice(0, c.image_offset), self.prompts.banned(), c.order)
        layout = self.prompts.image()
        ids = slice(c.image_offset, c.image_offset + self.module.codebook)
        plan = decode.image_steps(len(layout.slots_N), c.image_steps)
        return decode.Task(layout, plan, ids, None, c.order, c.cached_share)

    def _read(self, ids: Sequence[Tensor], owners: Sequence[int], rollouts: Rollouts) -> list[Tensor]:
        """The prompts of rows as the estimator's forwards see them."""
        c, prompts = self.module.language.config, [ids[n // rollouts.shape[1]] for n in owners]
        if c.estimator != "mean_field" or not c.masked_prompt:
            return prompts
        seeds = [int(_trace(rollouts).seeds_n[n]) for n in owners]
        rows = zip(prompts, seeds, strict=True)
        return [masked_prompt(row, c.masked_prompt, c.mask_token_id, seed) for row, seed in rows]


def chunk_size(budget: int, tokens: int, cost: int, groups: int) -> tuple[bool, int]:
    """Whether a chunk has all groups of its rows, of `cost` tokens each, or one of them; and its rows."""
    whole = not tokens or cost * groups <= tokens
    return whole, rows_within(budget, tokens, cost * (groups if whole else 1))


def _trace(rollouts: Rollouts) -> _Trace:
    assert isinstance(rollouts.context, _Trace), "rollouts of another family"
    return rollouts.context
