"""What ours is compared with: transformers' own `generate`, and a step as the public Janus RL trainers take it.

The trainers' loop is written here from its description (docs/performance.md says what it does and does not do): one
pair at a time, every row prefilled by itself and doubled for guidance, a cache that grows by concatenation; the
log-probs of what was sampled computed a second time; one row per answer with logits over the whole vocabulary at every
position; both branches' graphs alive until one backward. It draws from the full distribution, as ours does.
Shapes: n rows, P prompt tokens, T actions, A answer tokens, V vocabulary.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, JanusForConditionalGeneration, StaticCache

from pairuni.policies.janus.model import _CACHE

Rewards = Callable[[Tensor], Tensor]
"""[n, T] actions -> [n] rewards."""


@torch.no_grad()
def generate_codes(module: JanusForConditionalGeneration, ids_nP: Tensor, rollouts: int, guidance: float) -> Tensor:
    """[n * rollouts, T] image codes by transformers' own `generate`."""
    codes = module.model.vqmodel.config.num_patches**2
    # 5.17 fails when it makes this cache by itself; later versions make the same one.
    cache = StaticCache(config=module.config.text_config, max_cache_len=ids_nP.shape[1] + codes)
    return module.generate(
        ids_nP,
        attention_mask=torch.ones_like(ids_nP),
        generation_mode="image",
        do_sample=True,
        top_k=0,
        guidance_scale=guidance,
        num_return_sequences=rollouts,
        **({_CACHE: cache} if _CACHE == "past_key_values" else {}),
    )


@torch.no_grad()
def generate_text(
    module: JanusForConditionalGeneration, ids_nP: Tensor, pixels: Tensor, rollouts: int, tokens: int, image: int
) -> Tensor:
    """[n * rollouts, A] answer tokens by transformers' own `generate`, never the placeholder `image`."""
    whole = module.generate(
        ids_nP,
        attention_mask=torch.ones_like(ids_nP),
        pixel_values=pixels,
        do_sample=True,
        top_k=0,
        num_return_sequences=rollouts,
        suppress_tokens=[image],
        min_new_tokens=tokens,
        max_new_tokens=tokens,
    )
    return whole[:, -tokens:]


@torch.no_grad()
def loop_codes(
    module: JanusForConditionalGeneration, ids_nP: Tensor, rollouts: int, guidance: float, pad: int
) -> Tensor:
    """[n * rollouts, T] image codes by the trainers' loop."""
    model, grid = module.model, module.model.vqmodel.config.num_patches
    cond = ids_nP.repeat_interleave(rollouts, 0)
    uncond = cond.clone()
    uncond[:, 1:-1] = pad
    rows = torch.stack([cond, uncond], 1).flatten(0, 1)
    embedded = model.language_model.embed_tokens(rows)
    cache, codes = DynamicCache(), []
    for _ in range(grid**2):
        out = model.language_model(inputs_embeds=embedded, use_cache=True, **{_CACHE: cache})
        logits = model.generation_head(out.last_hidden_state[:, -1])
        mixed = logits[1::2] + guidance * (logits[0::2] - logits[1::2])
        code = torch.multinomial(torch.softmax(mixed.float(), dim=-1), 1)
        codes.append(code)
        doubled = code.repeat_interleave(2, 0)
        embedded = model.generation_aligner(model.generation_embeddings(doubled))
    return torch.cat(codes, 1)


def text_logp(module: JanusForConditionalGeneration, ids_nP: Tensor, pixels: Tensor, answers_nA: Tensor) -> Tensor:
    """[n, A], one row per answer, with logits at every position."""
    ids = torch.cat([ids_nP, answers_nA], 1)
    logits = module(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels, use_cache=False).logits[
        :, :-1
    ]
    logp = torch.log_softmax(logits.float(), dim=-1).gather(-1, ids[:, 1:, None])[..., 0]
    return logp[:, ids_nP.shape[1] - 1 :]


def row_logp(
    module: JanusForConditionalGeneration, ids_nP: Tensor, pixels: Tensor, answers_nA: Tensor, banned: Tensor
) -> Tensor:
    """[n, A], one row per answer, with logits where an answer is scored: the best that rows of their own can do.

    `banned`: ids without probability, as in our policy's distribution.
    """
    ids, tokens = torch.cat([ids_nP, answers_nA], 1), answers_nA.shape[1]
    logits = module(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=pixels,
        use_cache=False,
        logits_to_keep=tokens + 1,
    ).logits[:, :-1]
    logits = logits.float().index_fill(-1, banned, -torch.inf)
    return torch.log_softmax(logits, dim=-1).gather(-1, answers_nA[..., None])[..., 0]


def code_logp(module: JanusForConditionalGeneration, ids_nP: Tensor, codes_nT: Tensor) -> Tensor:
    """[n, T] conditional log-probs."""
    model = module.model
    drawn = model.generation_aligner(model.generation_embeddings(codes_nT[:, :-1]))
    embedded = torch.cat([model.language_model.embed_tokens(ids_nP), drawn], 1)
    hidden = model.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state[:, ids_nP.shape[1] - 1 :]
    logp = torch.log_softmax(model.generation_head(hidden).float(), dim=-1)
    return logp.gather(-1, codes_nT[..., None])[..., 0]


def step(
    module: JanusForConditionalGeneration,
    questions: Sequence[tuple[Tensor, Tensor]],
    captions: Sequence[Tensor],
    optimizer: torch.optim.Optimizer,
    rollouts: int,
    tokens: int,
    guidance: float,
    pad: int,
    rewards: Rewards,
) -> None:
    """One update from the rollouts of all pairs, pair by pair with accumulated gradients; no reference model."""
    optimizer.zero_grad()
    for (ids, pixels), caption in zip(questions, captions, strict=True):
        answers = generate_text(module, ids, pixels, rollouts, tokens, module.config.image_token_id)
        rows, images = ids.repeat_interleave(rollouts, 0), pixels.repeat_interleave(rollouts, 0)
        with torch.no_grad():
            old_text = text_logp(module, rows, images, answers)
        new_text = text_logp(module, rows, images, answers)
        codes = loop_codes(module, caption, rollouts, guidance, pad)
        drawn = caption.repeat_interleave(rollouts, 0)
        with torch.no_grad():
            old_image = code_logp(module, drawn, codes)
        new_image = code_logp(module, drawn, codes)
        module.decode_image_tokens(codes)
        loss = _loss(new_text, old_text, rewards(answers)) + _loss(new_image, old_image, rewards(codes))
        (loss / len(questions)).backward()
    torch.nn.utils.clip_grad_norm_([p for p in module.parameters() if p.grad is not None], 1.0)
    optimizer.step()


def _loss(new: Tensor, old: Tensor, rewards: Tensor) -> Tensor:
    advantage = ((rewards - rewards.mean()) / (rewards.std(unbiased=False) + 1e-6))[:, None]
    ratio = (new - old).exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean(1).mean()
