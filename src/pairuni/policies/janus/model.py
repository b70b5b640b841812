"""Janus' sub-modules as plain functions: embeddings, prefill, one cached step, pixels. No sampling and no loss here.

transformers' class is only the container of the weights: its own `generate` truncates silently, keeps no log-probs,
cannot switch guidance off and prefills a prompt once per rollout. Functions run in the caller's grad and autocast mode.
Shapes: n rows, D prefixes, P prompt tokens, H hidden width, I tokens per input image.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache, JanusForConditionalGeneration, LlamaModel
from transformers.cache_utils import DynamicLayer

from pairuni.policies.base import SamplingSpec
from pairuni.policies.janus.cache import Prefix, SharedCache
from pairuni.policies.sampling import action_logp

# The argument is `past_key_values` in transformers 5.17; 5.24 has renamed it and warns at the old name until 5.40.
_CACHE = "cache" if "cache" in inspect.signature(LlamaModel.forward).parameters else "past_key_values"
# Images seen, or decoded to pixels, at a time: the activations of these models dwarf a row of the language model.
PIXEL_BATCH = 32
# Logits that exist at a time while scoring: 64 MB in fp32, and a few copies of them.
LOGITS = 1 << 24


@torch.no_grad()
def see(model: JanusForConditionalGeneration, pixels_DCHW: Tensor) -> Tensor:
    """[D, I, V]: the states of the frozen vision tower."""
    parts = [model.model.vision_model(part).last_hidden_state for part in pixels_DCHW.split(PIXEL_BATCH)]
    return torch.cat(parts)


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
    keys, values, kind = [], [], _compute_dtype(out.last_hidden_state)
    for layer in cache.layers:
        assert isinstance(layer, DynamicLayer) and layer.keys is not None and layer.values is not None
        # Under autocast the rotation makes keys fp32, and transformers 5.17 values too; attention rounds both.
        keys.append(layer.keys.to(kind).contiguous())
        values.append(layer.values.to(kind).contiguous())
        layer.keys = layer.values = None
    return Prefix(out.last_hidden_state[:, -1].clone(), keys, values, length)  # a view would keep all states alive


def advance(model: JanusForConditionalGeneration, cache: SharedCache, embedded_nH: Tensor) -> Tensor:
    """[n, H]: the states after one more token per row, which joins the cache.

    The layers' own modules in the order of a Llama layer, without what transformers does around them: at one token per
    row that takes longer than the arithmetic of a small model.
    """
    language = model.model.language_model
    # Under autocast a head's way in gives bf16, but states are added up in the dtype of the weights, as in scoring.
    hidden = embedded_nH.to(language.norm.weight.dtype)
    cos, sin = language.rotary_emb(hidden, cache.position_11)  # in the dtype of its first argument
    for n, layer in enumerate(language.layers):
        attention, normed = layer.self_attn, _norm(layer.input_layernorm, hidden)
        projections = attention.q_proj, attention.k_proj, attention.v_proj
        query, key, value = (project(normed).unflatten(-1, (-1, attention.head_dim)) for project in projections)
        mixed = cache.attend(n, (query, key, value), (cos[0, 0], sin[0, 0]), attention.scaling)
        hidden = hidden + attention.o_proj(mixed.flatten(1))
        hidden = hidden + layer.mlp(_norm(layer.post_attention_layernorm, hidden))
    cache.grow()
    return _norm(language.norm, hidden)


def _norm(norm: Any, x: Tensor) -> Tensor:
    """On a GPU one kernel instead of six; rounded to what the linear layers read once for all of them."""
    weight = norm.weight
    normed = nn.functional.rms_norm(x, weight.shape, weight, norm.variance_epsilon) if x.is_cuda else norm(x)
    return normed.to(_compute_dtype(normed))


def _compute_dtype(x: Tensor) -> torch.dtype:
    """What linear layers and attention round `x` to."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


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
