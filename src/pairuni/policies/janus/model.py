"""Janus' sub-modules as plain functions: embeddings, prefill, one cached step, pixels. No sampling and no loss here.

transformers' class is only the container of the weights: its own `generate` truncates silently, keeps no log-probs,
cannot switch guidance off and prefills a prompt once per rollout. Functions run in the caller's grad and autocast mode.
Shapes: n rows, D prefixes, P prompt tokens, H hidden width, I tokens per input image.
"""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import Cache, DynamicCache, JanusForConditionalGeneration, LlamaModel
from transformers.cache_utils import DynamicLayer

from pairuni.policies.base import SamplingSpec
from pairuni.policies.sampling import action_logp

# The argument is `past_key_values` in transformers 5.17; 5.24 has renamed it and warns at the old name until 5.40.
_CACHE = "cache" if "cache" in inspect.signature(LlamaModel.forward).parameters else "past_key_values"
# Images decoded to pixels at a time: the image tokenizer's activations dwarf a row of the language model.
PIXEL_BATCH = 32
# Logits that exist at a time while scoring: 64 MB in fp32, and a few copies of them.
LOGITS = 1 << 24


class SliceLayer(DynamicLayer):
    """One layer's keys and values in a buffer of the final length; attention sees a view of the filled part.

    transformers' growing cache copies everything at each step, its static one attends to the whole length.
    """

    def __init__(self, keys: Tensor, values: Tensor, rows: Tensor, capacity: int) -> None:
        """Starts from the keys and values [D, heads, P, width] of `rows` (int64 [n])."""
        super().__init__()
        self.dtype, self.device = keys.dtype, keys.device
        self._length = keys.shape[-2]
        self._keys, self._values = (self._expand(source, rows, capacity) for source in (keys, values))
        self.keys, self.values = self._keys[:, :, : self._length], self._values[:, :, : self._length]
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Called by the attention layers, whose signature this is."""
        start, self._length = self._length, self._length + key_states.shape[-2]
        self._keys[:, :, start : self._length] = key_states
        self._values[:, :, start : self._length] = value_states
        self.keys, self.values = self._keys[:, :, : self._length], self._values[:, :, : self._length]
        return self.keys, self.values

    def keep(self, rows: Tensor) -> None:
        """Drops all rows but these (int64)."""
        self._keys, self._values = self._keys[rows], self._values[rows]
        self.keys, self.values = self._keys[:, :, : self._length], self._values[:, :, : self._length]

    @staticmethod
    def _expand(source: Tensor, rows: Tensor, capacity: int) -> Tensor:
        _, heads, length, width = source.shape
        buffer = source.new_empty(len(rows), heads, capacity, width)
        buffer[:, :, :length] = source[rows]
        return buffer


@dataclass(frozen=True)
class Prefix:
    """D prompts of equal length after their forward."""

    hidden_DH: Tensor
    """State at the last token: it predicts the first decision."""
    cache: DynamicCache
    length: int

    def share(self, rows: Tensor, capacity: int) -> Cache:
        """A cache for rows that continue prefix rows[i], with room for `capacity` more tokens."""
        layers: list[Any] = []
        for filled in self.cache.layers:
            assert isinstance(filled, DynamicLayer) and filled.keys is not None and filled.values is not None
            layers.append(SliceLayer(filled.keys, filled.values, rows, self.length + capacity))
        return Cache(layers=layers)


def keep_rows(cache: Cache, rows: Tensor) -> None:
    """Drops all rows but these (int64) from a cache of `Prefix.share`."""
    for layer in cache.layers:
        assert isinstance(layer, SliceLayer)
        layer.keep(rows)


def image_features(model: JanusForConditionalGeneration, pixels_DCHW: Tensor) -> Tensor:
    """[D, I, H]: the frozen vision tower without grad, then the trainable aligner."""
    with torch.no_grad():
        seen = model.model.vision_model(pixels_DCHW).last_hidden_state
    return model.model.aligner(seen)


def embed_prompts(
    model: JanusForConditionalGeneration, ids_nP: Tensor, features_mIH: Tensor | None, image_token: int
) -> Tensor:
    """[n, P, H]: token embeddings, with the placeholders, row by row, replaced by the m images' I features each."""
    embedded = model.model.language_model.embed_tokens(ids_nP)
    if features_mIH is None:
        return embedded
    placeholder = (ids_nP == image_token)[..., None].expand_as(embedded)
    return embedded.masked_scatter(placeholder, features_mIH.to(embedded.dtype))


def embed_codes(model: JanusForConditionalGeneration, codes: Tensor) -> Tensor:
    """[..., H]: image codes as the language model reads them back."""
    return model.model.generation_aligner(model.model.generation_embeddings(codes))


def prefill(model: JanusForConditionalGeneration, embedded_DPH: Tensor) -> Prefix:
    """One forward over prompts of equal length, hence without a mask."""
    cache = DynamicCache()
    length = embedded_DPH.shape[1]
    positions = torch.arange(length, device=embedded_DPH.device)[None]
    out = model.model.language_model(
        inputs_embeds=embedded_DPH, position_ids=positions, use_cache=True, **{_CACHE: cache}
    )
    return Prefix(out.last_hidden_state[:, -1], cache, length)


def advance(model: JanusForConditionalGeneration, cache: Cache, embedded_nH: Tensor, position: int) -> Tensor:
    """[n, H]: the states after one more token per row, at `position` counted from BOS."""
    positions = torch.full((1, 1), position, device=embedded_nH.device)
    out = model.model.language_model(
        inputs_embeds=embedded_nH[:, None], position_ids=positions, use_cache=True, **{_CACHE: cache}
    )
    return out.last_hidden_state[:, -1]


def states(model: JanusForConditionalGeneration, embedded_nLH: Tensor, attended_nL: Tensor) -> Tensor:
    """[n, L, H]: one forward without a cache; padding (False in the bool mask) may stand on either side."""
    positions = (attended_nL.long().cumsum(-1) - 1).clamp(min=0)
    # All rows of one length: without a mask attention takes its plain causal path.
    mask = None if bool(attended_nL.all()) else attended_nL.long()
    out = model.model.language_model(
        inputs_embeds=embedded_nLH, attention_mask=mask, position_ids=positions, use_cache=False
    )
    return out.last_hidden_state


def packed_states(
    model: JanusForConditionalGeneration, embedded_QLH: Tensor, positions_QL: Tensor, mask: Tensor | None
) -> Tensor:
    """[Q, L, H]: one forward without a cache over rows in which `mask` (bool [Q, 1, L, L]) says what a token sees."""
    out = model.model.language_model(
        inputs_embeds=embedded_QLH, attention_mask=mask, position_ids=positions_QL, use_cache=False
    )
    return out.last_hidden_state


def head_logp(
    head: nn.Module,
    cond_NH: Tensor,
    uncond_NH: Tensor | None,
    actions_N: Tensor,
    spec: SamplingSpec,
    banned: Tensor | None,
) -> Tensor:
    """[N] fp32 log-probs of actions from the states that predict them; guided iff unconditional states are given.

    Logits of at most LOGITS values exist at a time: they are computed again in the backward pass instead of kept, since
    those of a batch of answers over Janus-Pro's 102,400 tokens outweigh the model.
    """

    def logp(cond: Tensor, uncond: Tensor | None, actions: Tensor) -> Tensor:
        return action_logp(head(cond), None if uncond is None else head(uncond), actions, spec, banned)

    size = max(1, LOGITS // _vocabulary(head))
    if len(actions_N) <= size:
        return logp(cond_NH, uncond_NH, actions_N)
    slices = [slice(start, start + size) for start in range(0, len(actions_N), size)]
    unconds = [None if uncond_NH is None else uncond_NH[part] for part in slices]
    parts = [
        checkpoint(logp, cond_NH[part], uncond, actions_N[part], use_reentrant=False, preserve_rng_state=False)
        for part, uncond in zip(slices, unconds, strict=True)
    ]
    return torch.cat(parts)


def _vocabulary(head: nn.Module) -> int:
    """Outputs of a linear head, or of the last linear layer of one."""
    return [part for part in head.modules() if isinstance(part, nn.Linear)][-1].out_features


def decode_pixels(model: JanusForConditionalGeneration, codes_nT: Tensor) -> Tensor:
    """uint8 [n, height, width, 3] on the CPU."""
    parts = [model.decode_image_tokens(codes) for codes in codes_nT.split(PIXEL_BATCH)]
    return torch.cat([((part.float() + 1) * 127.5).clamp(0, 255).to(torch.uint8).cpu() for part in parts])
