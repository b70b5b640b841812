"""Seeds, logits -> log-probs, and the draw itself. No model and no modality here.

An action's distribution is softmax(z / temperature) over the allowed vocabulary, with z = u + s * (c - u) under
classifier-free guidance s; mixing and log-softmax are fp32 whatever the forward ran in. `draw` and scoring.py both go
through `guide` and `temper_`, so that they cannot disagree. Scoring never truncates: rollouts drawn with top_k or top_p
show up as a gap between recorded and scored log-probs.
Shapes: n rows or actions, T actions of a row, V vocabulary.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pairuni.errors import DivergedError
from pairuni.streams import Stream, content_key, keyed
from pairuni.types import SamplingSpec, Side


def counter_seed(run: int, step: int, pair: str | int, side: Side, rollout: int) -> int:
    """A uint64 that depends on these five alone: not on ranks, on the batch, or on what was drawn before.

    Pair 1 and pair "1" differ.
    """
    key = json.dumps([run, step, pair, str(side), rollout])
    return content_key(Stream.ROLLOUTS, key.encode())


def row_uniforms(seeds: np.ndarray, count: int) -> Tensor:
    """float64 [n, count] in [0, 1): row i is the stream of Philox keyed by seeds[i], one number per action.

    A longer `count` extends the rows and changes nothing before.
    """
    rows = [keyed(int(seed)).random(count) for seed in seeds]
    return torch.from_numpy(np.stack(rows))


@dataclass(frozen=True)
class Drawn:
    """One action per row."""

    actions_n: Tensor
    sampled_logp_n: Tensor
    """fp32, of the distribution drawn from; under top_k or top_p the truncated one, renormalised."""
    cond_logp_n: Tensor
    """fp32, of the conditional distribution, limited to the same tokens."""
    finite: Tensor
    """bool [], on the device: the logits are numbers, and none is infinite. `check` looks at it."""
    as_asked: Tensor
    """bool [], on the device: truncation left the support that the spec says. `check` looks at it."""


def guide(cond_nV: Tensor, uncond_nV: Tensor | None, guidance: float) -> Tensor:
    """fp32 u + guidance * (c - u); the conditional logits where there are no others.

    In fp32 because mixing bf16 logits multiplies their rounding by the guidance.
    """
    if uncond_nV is None:
        return cond_nV.float()
    uncond_nV = uncond_nV.float()
    return uncond_nV + guidance * (cond_nV.float() - uncond_nV)


def log_distribution(logits_nV: Tensor, spec: SamplingSpec, banned: Tensor | None) -> Tensor:
    """fp32 [n, V] log-probs at the spec's temperature, -inf at the banned ids (int64 [m])."""
    changes = spec.temperature not in (0, 1) or banned is not None
    return torch.log_softmax(temper_(logits_nV.to(torch.float32, copy=changes), spec, banned), dim=-1)


def temper_(logits_nV: Tensor, spec: SamplingSpec, banned: Tensor | None) -> Tensor:
    """Logits at the spec's temperature, -inf at the banned ids: in place.

    Greedy decoding (temperature 0) is reported at temperature 1: its own log-probs are all 0.
    """
    if spec.temperature not in (0, 1):
        logits_nV /= spec.temperature
    return logits_nV if banned is None else logits_nV.index_fill_(-1, banned, -torch.inf)


def draw(
    cond_nV: Tensor, uncond_nV: Tensor | None, uniforms_n: Tensor, spec: SamplingSpec, banned: Tensor | None
) -> Drawn:
    """Draws one action per row by inverting the cumulative distribution at the row's uniform number.

    Args:
        uniforms_n: float64 in [0, 1).
        banned: int64 ids that are never drawn.
    """
    cond = log_distribution(guide(cond_nV, None, 1.0), spec, banned)
    guided = cond if uncond_nV is None else log_distribution(guide(cond_nV, uncond_nV, spec.guidance), spec, banned)
    sampled = truncate(guided, spec)
    actions = (sampled.argmax(-1) if spec.temperature == 0 else _invert(sampled, uniforms_n))[:, None]
    if sampled is not guided:
        cond = torch.log_softmax(cond.masked_fill(sampled == -torch.inf, -torch.inf), dim=-1)
    logp = sampled.gather(-1, actions)[:, 0], cond.gather(-1, actions)[:, 0]
    allowed = sampled.shape[-1] - (0 if banned is None else len(banned))
    finite = (_support(guided) == allowed).all()
    asked = torch.ones_like(finite) if sampled is guided else _as_asked(_support(sampled), spec, allowed)
    return Drawn(actions[:, 0], *logp, finite, asked)


def check(finite: Sequence[Tensor], as_asked: Sequence[Tensor], spec: SamplingSpec, side: Side) -> None:
    """Looks at all that was drawn. It waits for the device: once per call.

    Raises:
        DivergedError: a logit was not finite.
        AssertionError: an action was not drawn as the spec says.
    """
    if not bool(torch.stack(list(finite)).all()):
        problem = "the model's logits are not finite: its weights have diverged, or are damaged"
        raise DivergedError(f"{side}: {problem}")
    assert bool(torch.stack(list(as_asked)).all()), f"actions were drawn from other tokens than {spec} says"


def truncate(logp_nV: Tensor, spec: SamplingSpec) -> Tensor:
    """Keeps the top_k most likely tokens, of those the smallest set with probability top_p, and renormalises."""
    kept = logp_nV
    if 0 < spec.top_k < logp_nV.shape[-1]:
        values, tokens = kept.topk(spec.top_k, dim=-1)
        kept = torch.full_like(kept, -torch.inf).scatter(-1, tokens, values)
    if spec.top_p < 1:
        values, tokens = torch.log_softmax(kept, dim=-1).sort(dim=-1, descending=True, stable=True)
        before = values.double().exp().cumsum(-1) - values.double().exp()
        # The first token stays whatever rounding does to the sum before it.
        dropped = (before >= spec.top_p).scatter(-1, tokens.new_zeros(len(tokens), 1), False)
        kept = kept.masked_fill(torch.zeros_like(dropped).scatter(-1, tokens, dropped), -torch.inf)
    return logp_nV if kept is logp_nV else torch.log_softmax(kept, dim=-1)


def _invert(logp_nV: Tensor, uniforms_n: Tensor) -> Tensor:
    # fp64: at a vocabulary of 100,000 an fp32 running sum is wrong by more than a rare token's probability.
    total_nV = logp_nV.exp().cumsum(-1, dtype=torch.float64)
    target_n1 = uniforms_n[:, None] * total_nV[:, -1:]
    # right=True: the first token whose sum exceeds the target, which is never one of probability 0.
    return torch.searchsorted(total_nV, target_n1, right=True)[:, 0].clamp(max=logp_nV.shape[-1] - 1)


def _support(logp_nV: Tensor) -> Tensor:
    return (logp_nV > -torch.inf).sum(-1)  # not a number counts as missing


def _as_asked(support_n: Tensor, spec: SamplingSpec, allowed: int) -> Tensor:
    if spec.top_k == 0 and spec.top_p == 1:
        return (support_n == allowed).all()
    return ((support_n > 0) & (support_n <= (spec.top_k or allowed))).all()


def seeds_for(run: int, step: int, pairs: Sequence[str], side: Side, rollouts: int) -> np.ndarray:
    """uint64 [B, R] counter seeds of R rollouts for each of B pair ids."""
    return np.array([[counter_seed(run, step, p, side, r) for r in range(rollouts)] for p in pairs], dtype=np.uint64)
