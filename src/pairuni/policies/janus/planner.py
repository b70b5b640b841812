"""Janus in a memory plan: its model from config.json alone, and the rows of tokens that sampling and updates read."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import JanusConfig, JanusForConditionalGeneration

from pairuni.policies.activations import Pass
from pairuni.policies.janus import model
from pairuni.policies.janus.cache import SHORT
from pairuni.policies.janus.load import refuse_sampler_options
from pairuni.policies.janus.packing import answer_chunks, pack_shape
from pairuni.policies.janus.policy import MANY
from pairuni.policies.memory import Parts, Planner
from pairuni.policies.released import released
from pairuni.policies.requests import PIXEL_BATCH, rows_within
from pairuni.policies.source import loading, resolve_model
from pairuni.types import Side, Workload


class JanusPlanner(Planner):
    """See `memory.Planner`."""

    def __init__(self, path_or_hub_id: str, sampler_options: Mapping[str, Any]) -> None:
        """Reads config.json alone. Raises InputError: it is absent or of no Janus model, or there are options."""
        refuse_sampler_options(sampler_options)
        source = resolve_model(path_or_hub_id)
        with loading(path_or_hub_id, "Janus"):
            known = released(source)
            self.config: Any = JanusConfig.from_pretrained(source) if known is None else JanusConfig(**known)
            self.config.tie_word_embeddings = False  # as in load.py
            text, vision, vq = self.config.text_config, self.config.vision_config, self.config.vq_config
            self.image_tokens = (vision.image_size // vision.patch_size) ** 2
            self.keys: int = text.num_key_value_heads * text.head_dim
            self.codes, self.image_codes = vq.num_embeddings, vq.num_patches**2
            self.pixels = vq.num_patches * 2 ** (len(vq.channel_multiplier) - 1)
            self.seen = 4 * self.image_tokens * vision.hidden_size
            frozen = "model.vision_model.", "model.vqmodel."
            super().__init__(text.num_hidden_layers, "model.language_model.layers", frozen)

    def build(self, layers: int) -> JanusForConditionalGeneration:
        config = copy.deepcopy(self.config)
        config.text_config.num_hidden_layers = layers
        module = JanusForConditionalGeneration(config)
        module.model.language_model.set_attn_implementation(model.UNMASKED)
        return module

    def states(self, side: Side, module: Any, rows: int, length: int, read: int, masked: int) -> Tensor:
        if side is Side.GENERATION:
            prompt = model.embed_prompts(module, torch.zeros(rows, length - read + 1, dtype=torch.int64), None, 0)
            codes = model.embed_codes(module, torch.zeros(rows, read - 1, dtype=torch.int64))
            embedded, head = torch.cat([prompt, codes.to(prompt.dtype)], 1), module.model.generation_head
        else:
            images = module.model.aligner(torch.zeros(rows, self.image_tokens, self.config.vision_config.hidden_size))
            embedded = model.embed_prompts(module, torch.zeros(rows, length, dtype=torch.int64), images, -1)
            head = module.lm_head
        positions = torch.arange(length).expand(rows if masked else 1, -1)
        mask = torch.ones(rows, 1, masked, length, dtype=torch.bool) if masked else None
        states_nLH = model.packed_states(module, embedded, positions, mask)
        _, first = model.head_parts(head)
        return first(states_nLH.flatten(0, 1)[torch.zeros(rows * read, dtype=torch.int64)])

    def rollout(self, side: Side, work: Workload) -> Iterator[Parts]:
        """Each prompt is read once, and one cache has all rows. Images are looked at before, or get pixels behind."""
        guided, text, seen = work.spec.guides(side), self.config.text_config, {}
        prompts, rows = work.prompts + guided, work.rows * (1 + guided)
        if side is Side.GENERATION:
            length, actions, outputs = work.text_tokens, self.image_codes, self.codes
            pixels = self.activations.peak_of("pixels", self._decode, min(work.rows, PIXEL_BATCH))
            yield {"pixels": pixels, "images": 3 * work.rows * self.pixels**2}
        else:
            length, actions, outputs = self.image_tokens + work.text_tokens, work.spec.max_new_tokens, text.vocab_size
            seen = {"seen images": work.prompts * self.seen}
            looked = self.activations.peak_of("images", self._look, min(work.prompts, PIXEL_BATCH), work.bf16)
            yield seen | {"vision encoder": looked}
        copies = self.copies(work, outputs) | ({} if work.cuda else seen)
        tokens, token = prompts * length, 2 * self.depth * self.keys * work.width
        own = rows * (actions - 1 + (0 if work.cuda or length > SHORT else length))  # short prompts are copied
        # Under autocast the forward's keys are fp32, and rounded when it is over.
        cached = tokens * (token + work.bf16 * 4 * self.depth * self.keys)
        yield copies | {"keys and values": cached, "activations": self.activations.forward(side, tokens, work.bf16)}
        kept = copies | {"keys and values": (tokens + own) * token}
        if not work.cuda:  # plain torch, with a blocked copy of the weights, and attention over long prompts in fp32
            if not work.bf16 and actions >= MANY:
                kept |= {"blocked weights": 4 * (self.linear + outputs * self.hidden)}
            if length > SHORT:
                scores = 20 * rows * (length + actions) * text.num_attention_heads
                yield kept | {"attention": scores + work.bf16 * 4 * self.keys * (tokens + own)}
        # Taking rows out copies a layer's keys after the other.
        yield kept | {"copy of a layer's keys": own * self.keys * work.width}
        yield kept | self.drawing(work.rows, outputs, guided, work)

    def _look(self, module: Any, images: int) -> Tensor:
        return model.see(module, torch.zeros(images, 3, self.pixels, self.pixels))

    def _decode(self, module: Any, images: int) -> Tensor:
        return model.decode_pixels(module, torch.zeros(images, self.image_codes, dtype=torch.int64))

    def passes(self, side: Side, work: Workload) -> Iterator[Pass]:
        """Rows [caption | codes] with a mask for their unequal lengths; packs [question | answer | answer ...]."""
        if side is Side.GENERATION:
            twice, length = 1 + work.spec.scores_guided(side), work.text_tokens + self.image_codes
            rows = rows_within(min(work.micro_batch, work.rows), work.micro_tokens, twice * length)
            yield Pass(twice * rows, length - 1, self.image_codes, self.codes, length - 1)
            return
        prompt, answer = self.image_tokens + work.text_tokens, work.spec.max_new_tokens
        outputs, images = self.config.text_config.vocab_size, 0 if work.cuda else work.prompts * self.seen
        for groups in answer_chunks(work, prompt):
            packs = [pack_shape(prompt, answer, number, self.hidden) for number in groups]
            rows, longest = sum(rows for rows, _ in packs), max(length for _, length in packs)
            yield Pass(rows, longest, -(-sum(groups) * answer // rows), outputs, longest - prompt, images)
