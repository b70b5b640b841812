"""Janus' sub-modules as plain functions: embeddings, prefill, one cached step, pixels. No sampling and no loss here.

transformers' class is only the container of the weights: its own `generate` truncates silently, keeps no log-probs,
cannot switch guidance off and prefills a prompt once per rollout. Functions run in the caller's grad and autocast mode.
Shapes: n rows, D prefixes, P prompt tokens, H hidden width, I tokens per input image.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    DynamicCache,
    JanusForConditionalGeneration,
    LlamaModel,
)
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from pairuni.policies.janus.cache import Prefix, SharedCache
from pairuni.policies.requests import PIXEL_BATCH
from pairuni.policies.scoring import action_logp, compute_dtype
from pairuni.types import SamplingSpec

# The argument is `past_key_values` in transformers 5.17; 5.24 has renamed it and warns at the old name until 5.40.
_CACHE = "cache" if "cache" in inspect.signature(LlamaModel.forward).parameters else "past_key_values"


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
    keys, values, kind = [], [], compute_dtype(out.last_hidden_state)
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
    return normed.to(compute_dtype(normed))


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
    """[Q, L, H]: one forward without a cache over rows in which `mask` (bool [Q, 1, A, L]) says what the last A see."""
    out = model.model.language_model(
        inputs_embeds=embedded_QLH, attention_mask=mask, position_ids=positions_QL, use_cache=False
    )
    return out.last_hidden_state


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """torch's attention. Where a mask is for the last queries alone, those before are in causal order.

    They are most of a packed row: half of the work, and flash attention on a GPU, which takes no mask.
    """
    start = 0 if mask is None else query.shape[2] - mask.shape[2]
    if start == 0:
        return sdpa_attention_forward(module, query, key, value, mask, **options)
    # Else autocast would round keys and values, and keep them, once for each.
    query, key, value = (x.to(compute_dtype(x)) for x in (query, key, value))
    early = query[:, :, :start], key[:, :, :start], value[:, :, :start]
    first, _ = sdpa_attention_forward(module, *early, None, **options)
    rest, _ = sdpa_attention_forward(module, query[:, :, start:], key, value, mask, **options)
    return torch.cat([first, rest], 1), None


ATTENTION = "pairuni"
AttentionInterface.register(ATTENTION, _attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
# The same without transformers' masks: on fake tensors it makes one where none is needed, since it cannot look.
UNMASKED = "pairuni unmasked"
AttentionInterface.register(UNMASKED, _attend)


def head_logp(
    head: Any,
    cond_NH: Tensor,
    uncond_NH: Tensor | None,
    actions_N: Tensor,
    spec: SamplingSpec,
    banned: Tensor | None,
) -> Tensor:
    """[N] fp32 log-probs of actions from the states that predict them; guided iff unconditional states are given."""
    last, first = head_parts(head)
    uncond_NF = None if uncond_NH is None else first(uncond_NH)
    return action_logp(last.weight, last.bias, first(cond_NH), uncond_NF, actions_N, spec, banned)


def head_parts(head: Any) -> tuple[nn.Linear, nn.Module]:
    """The linear layer that makes logits, and what comes before it: nothing for text, two modules for image codes."""
    if isinstance(head, nn.Linear):
        return head, nn.Identity()
    return head.vision_head, nn.Sequential(head.proj_out, head.activation_fn)


def decode_pixels(model: JanusForConditionalGeneration, codes_nT: Tensor) -> Tensor:
    """uint8 [n, height, width, 3] on the CPU."""
    parts = [model.decode_image_tokens(codes) for codes in codes_nT.split(PIXEL_BATCH)]
    return torch.cat([((part.float() + 1) * 127.5).clamp(0, 255).to(torch.uint8).cpu() for part in parts])
