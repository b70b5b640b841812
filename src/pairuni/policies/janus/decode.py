"""The two sampling loops: image codes with guidance, text until the end token. Log-probs are recorded as drawn.

A prompt is prefilled once and its keys and values are copied to its rollouts. A call's prompts are of equal length, so
that there is no padding whose rounding could reach a row. Callers hold no_grad, eval mode and autocast.
Shapes: n rows, T decisions, D prefixes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import JanusForConditionalGeneration

from pairuni.policies.base import SamplingSpec
from pairuni.policies.janus.model import Prefix, advance, embed_codes, keep_rows
from pairuni.policies.sampling import Drawn, check, draw

_LOOK = 16  # tokens between looks at whether rows have ended, on a GPU
_SHARE = 0.75  # of rows that are left, below which the others are taken out: that copies the cache once


@dataclass(frozen=True)
class Decoded:
    """n rows of T decisions: int64 actions, bool mask, fp32 log-probs (0 outside the mask)."""

    actions_nT: Tensor
    mask_nT: Tensor
    sampled_logp_nT: Tensor
    cond_logp_nT: Tensor


def decode_codes(
    model: JanusForConditionalGeneration, prefix: Prefix, slots_n: Tensor, uniforms_nT: Tensor, spec: SamplingSpec
) -> Decoded:
    """Draws T image codes per row.

    Args:
        prefix: the D prompts; under guidance one more row, the unconditional prompt, last.
        slots_n: int64, which prefix a row continues.
        uniforms_nT: float64 in [0, 1), one number per decision.
    """
    guided = spec.guidance > 1
    # Conditional rows first, then the unconditional twin of each: they differ only in the prompt.
    slots = torch.cat([slots_n, torch.full_like(slots_n, len(prefix.hidden_DH) - 1)]) if guided else slots_n
    cache = prefix.share(slots, uniforms_nT.shape[1] - 1)
    hidden = prefix.hidden_DH[slots]
    drawn: list[Drawn] = []
    for t, uniforms in enumerate(uniforms_nT.unbind(1)):
        if t > 0:
            embedded = embed_codes(model, drawn[-1].actions_n)
            embedded = embedded.repeat(2, 1) if guided else embedded
            hidden = advance(model, cache, embedded, prefix.length + t - 1)
        logits = model.model.generation_head(hidden)
        cond, uncond = logits.chunk(2) if guided else (logits, None)
        drawn.append(draw(cond, uncond, uniforms, spec, None))
    check([step.as_asked for step in drawn], spec)
    return Decoded(
        torch.stack([step.actions_n for step in drawn], 1),
        torch.ones_like(uniforms_nT, dtype=torch.bool),
        torch.stack([step.sampled_logp_n for step in drawn], 1),
        torch.stack([step.cond_logp_n for step in drawn], 1),
    )


def decode_text(
    model: JanusForConditionalGeneration,
    prefix: Prefix,
    slots_n: Tensor,
    uniforms_nT: Tensor,
    spec: SamplingSpec,
    vocabulary: tuple[Tensor, int, int],
) -> Decoded:
    """Draws text tokens until every row has ended or T = max_new_tokens is reached; ended rows leave the batch.

    Args:
        vocabulary: banned ids (int64), the end token and the token that fills ended rows.

    Returns:
        As many decisions as the longest row took. The end token is one; a row without it is True throughout.
    """
    banned, eos, filler = vocabulary
    every = _every(slots_n.device)
    out = Decoded(
        torch.full_like(uniforms_nT, filler, dtype=torch.int64),
        torch.zeros_like(uniforms_nT, dtype=torch.bool),
        *(torch.zeros_like(uniforms_nT, dtype=torch.float32) for _ in range(2)),
    )
    cache, hidden = prefix.share(slots_n, uniforms_nT.shape[1] - 1), prefix.hidden_DH[slots_n]
    rows = torch.arange(len(slots_n), device=slots_n.device)
    alive, tokens = torch.ones_like(rows, dtype=torch.bool), rows
    as_asked: list[Tensor] = []
    for t in range(uniforms_nT.shape[1]):
        if t > 0 and t % every == 0:
            left = int(alive.sum())
            if not left:
                break
            if left <= _SHARE * len(alive):
                kept = alive.nonzero()[:, 0]
                keep_rows(cache, kept)
                rows, alive, tokens = rows[kept], alive[kept], tokens[kept]
        if t > 0:
            embedded = model.model.language_model.embed_tokens(tokens)
            hidden = advance(model, cache, embedded, prefix.length + t - 1)
        step = draw(model.lm_head(hidden), None, uniforms_nT[rows, t], spec, banned)
        as_asked.append(step.as_asked)
        tokens = step.actions_n
        out.actions_nT[rows, t] = tokens.where(alive, filler)
        out.mask_nT[rows, t] = alive
        out.sampled_logp_nT[rows, t] = step.sampled_logp_n.where(alive, 0)
        out.cond_logp_nT[rows, t] = step.cond_logp_n.where(alive, 0)
        alive = alive & (tokens != eos)
    check(as_asked, spec)
    longest = int(out.mask_nT.any(0).sum())
    return Decoded(*(part[:, :longest] for part in vars(out).values()))


def _every(device: torch.device) -> int:
    """Tokens between looks at whether rows have ended: to ask a GPU is to wait for it."""
    return 1 if device.type == "cpu" else _LOOK
