"""Janus behind the policy contract: groups prompts for sampling, scores rows with one forward, saves a checkpoint.

The sampling loop is in decode.py, the forward passes are in model.py.
Shapes: B prompts, R rollouts, n = B * R rows, T actions, k rows of a chunk, P padded prompt tokens, I image tokens.
"""

import copy
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from transformers import JanusForConditionalGeneration, JanusProcessor
from transformers.utils.logging import disable_progress_bar

from pairuni.files import atomic_path
from pairuni.policies.janus import decode, model
from pairuni.policies.janus.packing import pack, split_rows
from pairuni.policies.janus.prompts import Encoded, JanusPrompts, Seen
from pairuni.policies.linear import blocked_linears, linear_layers
from pairuni.policies.requests import check_budgets, check_request, evaluating, refuse_lengths
from pairuni.policies.sampling import row_uniforms
from pairuni.policies.scoring import autocast
from pairuni.types import Chunk, Prompt, Rollouts, SamplingSpec, Side

MANY = 16  # actions of a row from which on it pays to lay weights out for them


class JanusPolicy:
    """Autoregressive text and VQ image codes from one language model (families: AR + VQ)."""

    family = "janus"
    edits_images = False

    def __init__(
        self,
        module: JanusForConditionalGeneration,
        processor: JanusProcessor,
        precision: Literal["fp32", "bf16"] = "fp32",
        cuda_graphs: bool = True,
    ) -> None:
        """Takes a loaded model; freezes its vision encoder and image tokenizer."""
        self.module = module
        self.processor = processor
        self.precision: Literal["fp32", "bf16"] = precision
        self.cuda_graphs = cuda_graphs
        self.prompts = JanusPrompts(processor)
        for tower in self.frozen_modules():
            tower.requires_grad_(False)
        language = module.model.language_model
        if language.config._attn_implementation == "sdpa":
            language.set_attn_implementation(model.ATTENTION)

    @property
    def device(self) -> torch.device:
        return self.module.lm_head.weight.device

    @property
    def image_size(self) -> int:
        """Pixels: the VQ grid times what its decoder upsamples by."""
        vq = self.module.model.vqmodel.config
        return vq.num_patches * 2 ** (len(vq.channel_multiplier) - 1)

    @property
    def image_codes(self) -> int:
        """Codes per image it draws."""
        return self.module.model.vqmodel.config.num_patches**2

    @property
    def positions(self) -> int:
        """See `base.Sampler`."""
        return int(self.module.model.language_model.config.max_position_embeddings)

    def tokens(self, prompt: Prompt, max_new_tokens: int) -> int:
        """See `base.Sampler`."""
        return self.prompts.length(prompt) + self._answer_length(prompt.side, max_new_tokens)

    def sample(
        self, side: Side, prompts: Sequence[Prompt], rollouts: int, spec: SamplingSpec, seeds_BR: np.ndarray
    ) -> Rollouts:
        """See `base.Sampler`. Rollouts live on the CPU.

        All rows whose prompts are of equal length are decoded together. A row depends on its prompt and seed alone, up
        to the rounding of its logits.
        """
        check_request(side, prompts, rollouts, seeds_BR)
        with evaluating(self.module), torch.no_grad(), _current(self.device):
            encoded = self.prompts.encode(side, prompts)
            answer = self._answer_length(side, spec.max_new_tokens)
            refuse_lengths([len(ids) for ids in encoded.ids], answer, self.positions)
            with autocast(self.device.type, self.precision == "bf16"):
                encoded = self._see(encoded)
                decoded = self._decode(side, encoded, spec, seeds_BR)
            shape = (*seeds_BR.shape, -1)
            actions, mask = decoded.actions_nT.view(shape), decoded.mask_nT.view(shape)
            texts = images = None
            if side is Side.UNDERSTANDING:
                texts = tuple(
                    tuple(self.prompts.text(row[kept].tolist()) for row, kept in zip(rows, keeps, strict=True))
                    for rows, keeps in zip(actions, mask, strict=True)
                )
            else:
                pixels = model.decode_pixels(self.module, decoded.actions_nT.to(self.device)).numpy()
                images = pixels.reshape(*seeds_BR.shape, *pixels.shape[1:])
        return Rollouts(
            side=side,
            spec=spec,
            prompts=tuple(prompts),
            actions_BRT=actions,
            mask_BRT=mask,
            sampled_logp_BRT=decoded.sampled_logp_nT.view(shape),
            cond_logp_BRT=decoded.cond_logp_nT.view(shape),
            texts=texts,
            images_BRHWC=images,
            context=encoded,
        )

    def chunks(self, rollouts: Rollouts, budget: int, tokens: int = 0) -> list[Chunk]:
        """See `base.Policy`: consecutive rows. A question's tokens count once for its answers in a chunk.

        An image row's count twice under logprob_mode = "cfg", which scores it with and without the caption.
        """
        check_budgets(budget, tokens)
        mask, recorded = rollouts.mask_BRT.flatten(0, 1), rollouts.logp_BRT.flatten(0, 1)
        parts = list(split_rows(self._costs(rollouts), budget, tokens))
        return [Chunk(tuple(rows), mask[rows].to(self.device), recorded[rows].to(self.device)) for rows in parts]

    def _costs(self, rollouts: Rollouts) -> list[tuple[int, int, int]]:
        """(prompt, tokens of the prompt that its other rows share, tokens of its own) of each row."""
        context, answers = rollouts.context, rollouts.mask_BRT.flatten(0, 1).sum(-1).tolist()
        assert isinstance(context, Encoded), "rollouts of another family"
        owners = [row // rollouts.shape[1] for row in range(len(answers))]
        prompts = [len(context.ids[b]) for b in owners]
        if rollouts.side is Side.UNDERSTANDING:
            return list(zip(owners, prompts, answers, strict=True))
        twice = 1 + rollouts.scored_guided
        return [(b, 0, twice * (p + a)) for b, p, a in zip(owners, prompts, answers, strict=True)]

    def logprobs(self, rollouts: Rollouts, chunk: Chunk) -> Tensor:
        """See `base.Policy`: one forward over [prompt | actions] per row, heads on the chunk's actions only."""
        spec, context = rollouts.spec, rollouts.context
        assert isinstance(context, Encoded), "rollouts of another family"
        owners = [row // rollouts.shape[1] for row in chunk.rows]
        actions_kT = rollouts.actions_BRT.flatten(0, 1)[list(chunk.rows)].to(self.device)
        mask_kT = chunk.mask_kN.to(self.device)
        steps = int(mask_kT.any(0).sum())  # rows are padded to the longest of all rollouts, not of this chunk
        actions_kT, scored_kT = actions_kT[:, :steps], mask_kT[:, :steps]
        guided = rollouts.scored_guided
        with autocast(self.device.type, self.precision == "bf16"):
            if rollouts.side is Side.UNDERSTANDING:
                head, uncond, banned = self.module.lm_head, None, self._banned()
                cond = self._answer_states(context, owners, actions_kT, scored_kT)
            else:
                ids = [context.ids[b] for b in owners]
                codes, scored = model.embed_codes(self.module, actions_kT[:, :-1]), scored_kT
                if guided:
                    ids = ids + [self.prompts.unconditional(row) for row in ids]
                    codes, scored = codes.repeat(2, 1, 1), scored_kT.repeat(2, 1)
                hidden = self._code_states(ids, scored, codes)[scored]
                cond, uncond = hidden.chunk(2) if guided else (hidden, None)
                head, banned = self.module.model.generation_head, None
            logp = model.head_logp(head, cond, uncond, actions_kT[scored_kT], spec, banned)
        return torch.zeros(mask_kT.shape, device=self.device).masked_scatter(mask_kT, logp)

    def checkpoint_activations(self) -> None:
        """See `base.Policy`: the language model's layers, which recompute in training mode alone; it has no dropout."""
        language = self.module.model.language_model
        # The second name replaces the first in transformers 5.23 and later.
        enable = getattr(language, "activation_checkpointing_enable", None) or language.gradient_checkpointing_enable
        enable()
        language.train()

    def trainable(self) -> Iterable[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.module.named_parameters() if p.requires_grad]

    def describe(self) -> dict[str, str]:
        """See `base.Policy`."""
        names = ("bos", "eos", "pad", "image", "boi", "eoi")
        return {
            "family": self.family,
            "token ids": ", ".join(f"{name} {getattr(self.prompts, name)}" for name in names),
            "text vocabulary": f"{self.module.lm_head.out_features:,}",
            "image codes": f"{self.image_codes} of {self.module.model.vqmodel.config.num_embeddings:,}",
            "images": f"{self.image_size} x {self.image_size} pixels, {self.prompts.image_tokens} tokens if looked at",
            "forward passes": f"{self.precision} on {self.device}",
        }

    def frozen_modules(self) -> Sequence[nn.Module]:
        """See `base.Policy`: vision encoder and image tokenizer."""
        return self.module.model.vision_model, self.module.model.vqmodel

    def fsdp_units(self) -> Sequence[nn.Module]:
        return list(self.module.model.language_model.layers)

    def lora_targets(self) -> list[str]:
        """See `base.Policy`: all linear layers of the language model, its heads not among them."""
        return list(linear_layers(self.module, self.fsdp_units()))

    def reference(self) -> Self:
        """See `base.Policy`. In eval mode, on the same device; the frozen towers are the same, not copied."""
        towers = {id(tower): tower for tower in self.frozen_modules()}
        frozen = copy.deepcopy(self.module, towers).eval().requires_grad_(False)
        return type(self)(frozen, self.processor, self.precision, self.cuda_graphs)

    def save(self, path: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """Writes fp32 weights, processor and generation config; all of the folder appears at once."""
        disable_progress_bar()  # transformers' own, which is no line
        with atomic_path(path) as folder:
            self.module.save_pretrained(folder, state_dict=None if weights is None else dict(weights))
            self.processor.save_pretrained(folder)

    def _answer_length(self, side: Side, max_new_tokens: int) -> int:
        return max_new_tokens if side is Side.UNDERSTANDING else self.image_codes

    def _decode(self, side: Side, encoded: Encoded, spec: SamplingSpec, seeds_BR: np.ndarray) -> decode.Decoded:
        rollouts = seeds_BR.shape[1]
        length = self._answer_length(side, spec.max_new_tokens)
        uniforms_nT = row_uniforms(seeds_BR.reshape(-1), length)
        guided = spec.guides(side)
        if side is Side.UNDERSTANDING:
            kind = decode.text(self.module, self._banned(), self.prompts.eos, self.prompts.pad)
        else:
            kind = decode.codes(self.module, guided)
        parts: list[tuple[Tensor, decode.Decoded]] = []
        for prompts, slots in _length_groups(encoded):
            rows = (torch.tensor([b for b, _ in slots])[:, None] * rollouts + torch.arange(rollouts)).flatten()
            slots_n = torch.tensor([s for _, s in slots]).repeat_interleave(rollouts).to(self.device)
            uniforms = uniforms_nT[rows].to(self.device)
            ids_DP = torch.stack([encoded.ids[b] for b in prompts])
            if guided:
                ids_DP = torch.cat([ids_DP, self.prompts.unconditional(ids_DP[0])[None]])
            features = self._features(encoded, prompts) if side is Side.UNDERSTANDING else None
            prefix = model.prefill(self.module, self._embed_ids(ids_DP.to(self.device), features))
            layers = [self.module.model.language_model.layers, *kind.parts] if length >= MANY else []
            with blocked_linears(layers, len(rows) * (1 + guided)):
                drawn = decode.decode(self.module, kind, prefix, slots_n, uniforms, spec, self.cuda_graphs)
            parts.append((rows, drawn))
        return _gather(parts, kind.filler)

    def _see(self, encoded: Encoded) -> Encoded:
        """With what the vision encoder makes of the images: it is frozen, so that scoring need not ask it again."""
        if encoded.pixels_DCHW is None:
            return encoded
        states_DIV = model.see(self.module, encoded.pixels_DCHW.to(self.device)).cpu()
        return replace(encoded, seen=Seen(self.module.model.vision_model, states_DIV))

    def _features(self, encoded: Encoded, owners: Sequence[int]) -> Tensor:
        """[images, I, H]: features of these prompts' images one after another, each distinct image aligned once."""
        if encoded.seen is None or encoded.seen.tower is not self.module.model.vision_model:
            encoded = self._see(encoded)
        assert encoded.seen is not None
        wanted = [image for b in owners for image in encoded.image_index[b]]
        distinct = sorted(set(wanted))
        features = self.module.model.aligner(encoded.seen.states_DIV[distinct].to(self.device))
        return features[[distinct.index(image) for image in wanted]]

    def _answer_states(self, context: Encoded, owners: Sequence[int], actions_kT: Tensor, scored_kT: Tensor) -> Tensor:
        """[N, H]: the states that predict the scored tokens, row after row; a prompt's answers share its forward."""
        answers = [row[kept] for row, kept in zip(actions_kT.cpu(), scored_kT.cpu(), strict=True)]
        packed = pack(
            context.ids, owners, answers, self.module.model.language_model.embed_tokens.embedding_dim, self.prompts.pad
        )
        embedded = self._embed_ids(packed.ids_QL.to(self.device), self._features(context, packed.owners))
        hidden = model.packed_states(
            self.module, embedded, packed.positions_QL.to(self.device), packed.mask(self.device)
        )
        return hidden.flatten(0, 1)[packed.places_N.to(self.device)]

    def _code_states(self, ids: list[Tensor], scored_kT: Tensor, embedded: Tensor) -> Tensor:
        """[k, T, H]: the states that predict the T codes; prompts of unequal length are padded on the left."""
        longest = max(len(row) for row in ids)
        ids_kP = torch.full((len(ids), longest), self.prompts.pad)
        attended_kP = torch.zeros_like(ids_kP, dtype=torch.bool)
        for i, row in enumerate(ids):
            ids_kP[i, longest - len(row) :] = row
            attended_kP[i, longest - len(row) :] = True
        prompt = self._embed_ids(ids_kP.to(self.device), None)
        attended = torch.cat([attended_kP.to(self.device), scored_kT[:, :-1]], 1)
        # The state at the prompt's last token predicts action 0, the state at action t - 1 predicts action t.
        return model.states(self.module, torch.cat([prompt, embedded.to(prompt.dtype)], 1), attended)[:, longest - 1 :]

    def _embed_ids(self, ids_kP: Tensor, features: Tensor | None) -> Tensor:
        return model.embed_prompts(self.module, ids_kP, features, self.prompts.image)

    def _banned(self) -> Tensor:
        return torch.tensor(self.prompts.banned, device=self.device)


def _current(device: torch.device) -> AbstractContextManager[object]:
    """Kernels and CUDA graphs go to the current device, whatever device their tensors are on."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _length_groups(encoded: Encoded) -> Iterator[tuple[list[int], list[tuple[int, int]]]]:
    """Per prompt length: a prompt of each distinct content, and (prompt, its place among the distinct ones) of all."""
    groups: dict[int, list[int]] = defaultdict(list)
    for b, ids in enumerate(encoded.ids):
        groups[len(ids)].append(b)
    for members in groups.values():
        places: dict[object, int] = {}
        slots = [(b, places.setdefault(encoded.key(b), len(places))) for b in members]
        first = {slot: b for b, slot in reversed(slots)}
        yield [first[slot] for slot in range(len(places))], slots


def _gather(parts: list[tuple[Tensor, decode.Decoded]], filler: int) -> decode.Decoded:
    """The groups' rows in the order of the rollouts, on the CPU, padded to the longest group."""
    rows = torch.cat([indices for indices, _ in parts])
    longest = max(part.actions_nT.shape[1] for _, part in parts)
    inverse = rows.argsort()

    def merge(tensors: list[Tensor], value: int) -> Tensor:
        padded = [nn.functional.pad(x.cpu(), (0, longest - x.shape[1]), value=value) for x in tensors]
        return torch.cat(padded)[inverse]

    return decode.Decoded(
        merge([part.actions_nT for _, part in parts], filler),
        merge([part.mask_nT for _, part in parts], 0),
        merge([part.sampled_logp_nT for _, part in parts], 0),
        merge([part.cond_logp_nT for _, part in parts], 0),
    )
