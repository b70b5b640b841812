"""Janus in a memory plan: its model from config.json alone, and the rows of tokens that sampling and updates read."""

import copy
from collections.abc import Iterator, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from transformers import JanusConfig, JanusForConditionalGeneration

from pairuni.errors import InputError
from pairuni.policies.activations import States
from pairuni.policies.janus import model
from pairuni.policies.janus.cache import SHORT
from pairuni.policies.janus.load import refuse_sampler_options
from pairuni.policies.janus.packing import pack_shape
from pairuni.policies.janus.policy import MANY
from pairuni.policies.memory import Parts, Pass, Planner, Workload, drawing, width_of
from pairuni.policies.released import released
from pairuni.policies.scoring import compute_dtype
from pairuni.policies.source import BROKEN, brief, resolve_model
from pairuni.types import Side


class JanusPlanner(Planner):
    """See `memory.Planner`."""

    def __init__(self, path_or_hub_id: str, sampler_options: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Reads config.json alone; of a released checkpoint without asking the Hub.

        Raises:
            InputError: there is none, it describes no Janus model, or there are sampler options.
        """
        refuse_sampler_options(sampler_options)
        source = resolve_model(path_or_hub_id)
        try:
            known = released(source)
            self.config: Any = JanusConfig.from_pretrained(source) if known is None else JanusConfig(**known)
            self.config.tie_word_embeddings = False  # as in load.py
            self.text, self.vq = self.config.text_config, self.config.vq_config
            with torch.device("meta"):
                module = self.build(self.text.num_hidden_layers)
        except (*BROKEN, TypeError, ZeroDivisionError) as err:
            raise InputError(f"describes no Janus model: {brief(err)}", file=path_or_hub_id) from None
        inner = module.model
        self.keys: int = self.text.num_key_value_heads * self.text.head_dim
        self.codes, self.image_codes = self.vq.num_embeddings, self.vq.num_patches**2
        self.pixels: int = self.vq.num_patches * 2 ** (len(self.vq.channel_multiplier) - 1)
        self.seen = 4 * inner.vision_model.embeddings.num_patches * self.config.vision_config.hidden_size
        frozen = "model.vision_model.", "model.vqmodel."
        super().__init__(module, inner.language_model.layers, frozen, inner.vision_model.embeddings.num_patches)

    def build(self, layers: int) -> JanusForConditionalGeneration:
        config = copy.deepcopy(self.config)
        config.text_config.num_hidden_layers = layers
        module = JanusForConditionalGeneration(config)
        module.model.language_model.set_attn_implementation(model.UNMASKED)
        return module

    def states(self, side: Side) -> States:
        return self._image_states if side is Side.GENERATION else self._text_states

    def _image_states(self, module: Any, rows: int, length: int, read: int, masked: int) -> Tensor:
        prompt = model.embed_prompts(module, torch.zeros(rows, length - read + 1, dtype=torch.int64), None, 0)
        codes = model.embed_codes(module, torch.zeros(rows, read - 1, dtype=torch.int64))
        states = _read(module, torch.cat([prompt, codes.to(prompt.dtype)], 1), read, masked)
        return _rounded(model.before_last(module.model.generation_head)(states))

    def _text_states(self, module: Any, rows: int, length: int, read: int, masked: int) -> Tensor:
        images = module.model.aligner(torch.zeros(rows, self.image_tokens, self.config.vision_config.hidden_size))
        embedded = model.embed_prompts(module, torch.zeros(rows, length, dtype=torch.int64), images, 0)
        return _rounded(_read(module, embedded, read, masked))

    def rollout(self, side: Side, work: Workload) -> Iterator[Parts]:
        """Images are seen once, prompts are read once, and one cache has all rows, the unconditional ones included."""
        rows, batch = work.prompts * work.rollouts, model.PIXEL_BATCH
        if side is Side.GENERATION:
            guided = work.spec.guidance > 1
            prompts = work.prompts + guided
            yield from self._decoding(work, side, prompts, work.text_tokens, rows, self.image_codes, guided)
            codes = batch, self.image_codes
            peak = self.activations.peak_of("pixels", lambda m: model.decode_pixels(m, torch.zeros(codes).long()))
            yield {"pixels": min(rows, batch) * peak // batch + rows * 3 * self.pixels**2}
            return
        images = batch, 3, self.pixels, self.pixels
        peak = self.activations.peak_of("images", lambda m: model.see(m, torch.zeros(images)), work.bf16)
        seen = {"seen images": work.prompts * self.seen}
        yield seen | {"vision encoder": min(work.prompts, batch) * peak // batch}
        length, answer = self.image_tokens + work.text_tokens, work.spec.max_new_tokens
        for phase in self._decoding(work, side, work.prompts, length, rows, answer, False):
            yield phase if work.cuda else seen | phase  # which are on the CPU

    def _decoding(
        self, work: Workload, side: Side, prompts: int, length: int, rows: int, actions: int, guided: bool
    ) -> Iterator[Parts]:
        """Prefill, and the last action with all keys and values there: those of a prompt once, not once per row."""
        outputs = self.codes if side is Side.GENERATION else self.text.vocab_size
        copies, tokens = self.copies(work, outputs), prompts * length
        copied = 0 if work.cuda or length > SHORT else length
        own, token = rows * (1 + guided) * (copied + actions - 1), self.kv_bytes(work.bf16)
        # Under autocast the forward's keys are fp32, and rounded when it is over.
        rotated = self.depth * self.keys * 4 if work.bf16 else 0
        yield copies | {"keys and values": tokens * (token + rotated)} | self.forward(side, tokens, work)
        kept = copies | {"keys and values": (tokens + own) * token}
        if not work.cuda:  # Plain torch, with a blocked copy of the weights, and attention over long prompts in fp32.
            if not work.bf16 and actions >= MANY:
                kept |= {"blocked weights": 4 * (self.linear + outputs * self.hidden)}
            if not copied:
                scores = 20 * rows * (1 + guided) * (length + actions) * self.text.num_attention_heads
                yield kept | {"attention": scores + work.bf16 * 4 * self.keys * (tokens + own)}
        # Taking rows out copies a layer's keys after the other.
        yield kept | {"copy of a layer's keys": own * self.keys * width_of(work.bf16)}
        yield kept | drawing(rows, outputs, guided, work.bf16)

    def kv_bytes(self, bf16: bool) -> int:
        """Keys and values of one token."""
        return 2 * self.depth * self.keys * width_of(bf16)

    def passes(self, side: Side, work: Workload) -> Iterator[Pass]:
        """Rows [caption | codes] with a mask for their unequal lengths; packs [question | answer | answer ...]."""
        if side is Side.GENERATION:
            twice = 1 + (guided := work.spec.logprob_mode == "cfg" and work.spec.guidance > 1)
            length, rows = work.text_tokens + self.image_codes, min(work.micro_batch, work.prompts * work.rollouts)
            rows = max(1, min(rows, work.micro_tokens // (twice * length))) if work.micro_tokens else rows
            yield Pass(twice * rows, length - 1, self.image_codes, self.codes, length - 1, guided)
            return
        prompt, answer = self.image_tokens + work.text_tokens, work.spec.max_new_tokens
        images, outputs = 0 if work.cuda else work.prompts * self.seen, self.text.vocab_size
        shape = cache(pack_shape)
        for groups in answer_chunks(work, prompt):
            packs = [shape(prompt, answer, number, self.hidden) for number in groups]
            rows, longest = sum(rows for rows, _ in packs), max(length for _, length in packs)
            yield Pass(rows, longest, -(-sum(groups) * answer // rows), outputs, longest - prompt, images=images)


def _read(module: Any, embedded_nLH: Tensor, read: int, masked: int) -> Tensor:
    """[n * read, H]: states of some tokens of rows in which the last `masked` tokens attend by a mask."""
    rows, length, _ = embedded_nLH.shape
    positions = torch.arange(length).expand(rows if masked else 1, -1)
    mask = torch.ones(rows, 1, masked, length, dtype=torch.bool) if masked else None
    states_nLH = model.packed_states(module, embedded_nLH, positions, mask)
    return states_nLH.flatten(0, 1)[torch.zeros(rows * read, dtype=torch.int64)]


def _rounded(x: Tensor) -> Tensor:
    return x.to(compute_dtype(x))


def answer_chunks(work: Workload, prompt: int) -> set[tuple[int, ...]]:
    """Answers of each prompt in the chunks that a call is split into.

    Under micro_tokens a chunk may begin anywhere, since real answers differ in length, and be a little smaller:
    packing saves most for some numbers of answers, so that fewer can take more.
    """
    per, rows, found = work.rollouts, work.prompts * work.rollouts, set[tuple[int, ...]]()
    for start in range(per) if work.micro_tokens else range(0, rows, work.micro_batch):
        fit: list[tuple[int, ...]] = []
        for size in range(1, min(work.micro_batch, rows - start) + 1):
            first = min(size, per - start % per)
            groups = (first, *(size - first) // per * (per,), (size - first) % per)
            groups = tuple(number for number in groups if number)
            tokens = len(groups) * prompt + size * work.spec.max_new_tokens
            if size == 1 or not work.micro_tokens or tokens <= work.micro_tokens:
                fit.append(groups)
        found |= set(fit[-1 - per :] if work.micro_tokens else fit[-1:])
    return found
