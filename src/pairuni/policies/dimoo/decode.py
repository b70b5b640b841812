"""Filling slots in a fixed number of steps: images all over, as MaskGIT does, texts block after block.

In each step the model sees what is filled so far and draws some of the slots that are left. Which ones: under `random`
an order that depends on the prompt alone, so that a step's log-probs are exactly those of its draw; under `confidence`
the likeliest of draws for all slots, so that what is filled is likelier than the log-prob that is recorded for it says.
Shapes: n rows, A tokens of the answer part, N slots, S slots of a step, H hidden width, V ids of the slice.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pairuni.policies.dimoo.cache import CachedLogits, CachedStates
from pairuni.policies.dimoo.model import DimooModel, states_at
from pairuni.policies.dimoo.prompts import Layout
from pairuni.policies.sampling import check, draw, row_uniforms
from pairuni.streams import Stream, content_key, keyed
from pairuni.types import SamplingSpec, Side

# Tokens of a forward while sampling, prompts and unconditional rows included.
TOKENS = 1 << 16


@dataclass(frozen=True)
class Step:
    """One forward."""

    block: slice
    """The slots that may be filled."""
    count: int
    """How many of them are."""


def image_steps(slots: int, steps: int) -> list[Step]:
    """The cosine schedule of MaskGIT: `slots * cos(pi / 2 * t)` are left after a share t of the steps, at least one.

    Fewer steps where there are fewer slots than steps.
    """
    left = [max(1, math.floor(slots * math.cos(math.pi / 2 * (s + 1) / steps))) for s in range(steps - 1)] + [0]
    before, plan = slots, []
    for after in left:
        if after < before:
            plan.append(Step(slice(0, slots), before - after))
            before = after
    return plan


def text_steps(slots: int, steps: int, block: int) -> list[Step]:
    """Blocks of `block` slots (0: one of all), each filled in `steps` steps of equal size, larger ones first."""
    plan = []
    for start in range(0, slots, block or slots):
        stop = min(slots, start + (block or slots))
        parts = np.array_split(np.arange(start, stop), min(steps, stop - start))
        plan += [Step(slice(start, stop), len(part)) for part in parts]
    return plan


def random_order(ids_P: Tensor, plan: Sequence[Step]) -> Tensor:
    """int64 [N]: slots in the order in which they are filled, a permutation of each block that the prompt decides.

    Not of the row's seed: rollouts of a group then differ in what was drawn alone.
    """
    rng = keyed(content_key(Stream.FILL_ORDER, ids_P.numpy().tobytes()))
    blocks = {(step.block.start, step.block.stop): None for step in plan}
    return torch.from_numpy(np.concatenate([start + rng.permutation(stop - start) for start, stop in blocks]))


def scored_steps(steps: int, scored: int, uniforms_n: Tensor) -> Tensor:
    """bool [n, steps]: which steps of each row are scored, `scored` of them (0: all) at equal distances.

    Systematic sampling, by one uniform number per row: every step is in with probability scored / steps, so that a sum
    over what is scored is a share scored / steps of the sum over all, in expectation.
    """
    chosen_nS = torch.ones(len(uniforms_n), steps, dtype=torch.bool)
    if not 0 < scored < steps:
        return chosen_nS
    places = ((uniforms_n[:, None] + torch.arange(scored)) * (steps / scored)).long().clamp(max=steps - 1)
    return torch.zeros_like(chosen_nS).scatter(1, places, True)


@dataclass(frozen=True)
class Task:
    """What is filled, and from which ids."""

    layout: Layout
    plan: Sequence[Step]
    ids: slice
    """Of the vocabulary: actions count from its beginning."""
    banned: Tensor | None
    order: str
    cached_share: float = 0.0
    """Above 0: later steps compute some slots alone (cache.py)."""


@dataclass(frozen=True)
class Filled:
    """n rows, on the CPU."""

    actions_nN: Tensor
    sampled_logp_nN: Tensor
    cond_logp_nN: Tensor
    steps_nN: Tensor
    """int64: the step that filled each slot."""


def fill(
    language: DimooModel, contexts: Sequence[Sequence[Tensor]], task: Task, spec: SamplingSpec, seeds_n: np.ndarray
) -> Filled:
    """Fills the slots of n rows.

    Args:
        contexts: the prompt of each row; under guidance also the unconditional prompt of each.
        seeds_n: uint64 counter seeds.
    """
    longest = max(len(row) for row in contexts[0]) + len(task.layout.ids_A)
    size = max(1, TOKENS // (longest * len(contexts)))
    parts = []
    for start in range(0, len(seeds_n), size):
        some = slice(start, start + size)
        parts.append(_fill(language, [rows[some] for rows in contexts], task, spec, seeds_n[some]))
    return Filled(*(torch.cat([vars(part)[name] for part in parts]) for name in Filled.__dataclass_fields__))


def _fill(
    language: DimooModel, contexts: Sequence[Sequence[Tensor]], task: Task, spec: SamplingSpec, seeds_n: np.ndarray
) -> Filled:
    device, (n, slots) = language.head.weight.device, (len(seeds_n), len(task.layout.slots_N))
    answers_nA = task.layout.ids_A.to(device).repeat(n, 1)
    places_N, banned = task.layout.slots_N.to(device), None if task.banned is None else task.banned.to(device)
    confident = task.order == "confidence"
    # Under `random` a slot is drawn once; else in every step, and a second number is for the choice among them.
    uniforms = row_uniforms(seeds_n, slots * (2 * len(task.plan) if confident else 1)).to(device)
    orders = {id(row): random_order(row, task.plan) for row in contexts[0]}  # rollouts share their prompt's tensor
    order_nN = torch.stack([orders[id(row)] for row in contexts[0]]).to(device)
    actions, steps = torch.full((n, slots), -1, device=device), torch.full((n, slots), -1, device=device)
    sampled, cond = torch.zeros(n, slots, device=device), torch.zeros(n, slots, device=device)
    done, finite, as_asked, filled = 0, [], [], order_nN[:, :0]
    cached = None
    if task.cached_share:
        states = [CachedStates(language, rows, places_N) for rows in contexts]
        cached = CachedLogits(states, len(task.plan), task.ids, task.cached_share if confident else None)
    for s, step in enumerate(task.plan):
        if confident:
            block = torch.zeros(slots, dtype=torch.bool, device=device)
            block[step.block] = True
            open_nS = ((steps < 0) & block).nonzero()[:, 1].view(n, -1)
            numbers = uniforms[:, 2 * s * slots : (2 * s + 1) * slots]
        else:
            open_nS, numbers = order_nN[:, done : done + step.count], uniforms
        if cached is None:
            states = [states_at(language, rows, answers_nA, places_N[open_nS]) for rows in contexts]
            both = [language.logits(states_nSH, task.ids).flatten(0, 1) for states_nSH in states]
            logits = both[0], both[1] if len(both) > 1 else None
        else:
            logits = cached(s, answers_nA, open_nS, filled)
        drawn = draw(*logits, numbers.gather(1, open_nS).flatten(), spec, banned)
        finite.append(drawn.finite)
        as_asked.append(drawn.as_asked)
        kept = torch.arange(open_nS.shape[1], device=device).expand(n, -1)
        if confident:
            luck = uniforms[:, (2 * s + 1) * slots : (2 * s + 2) * slots].gather(1, open_nS)
            kept = _likeliest(drawn.sampled_logp_n.view_as(open_nS), luck, spec.temperature, step.count)
        filled = open_nS.gather(1, kept)
        for target, source in ((actions, drawn.actions_n), (sampled, drawn.sampled_logp_n), (cond, drawn.cond_logp_n)):
            target.scatter_(1, filled, source.view_as(open_nS).gather(1, kept))
        steps.scatter_(1, filled, s)
        answers_nA.scatter_(1, places_N[filled], actions.gather(1, filled) + task.ids.start)
        done += step.count
    check(finite, as_asked, spec, Side.GENERATION if task.banned is None else Side.UNDERSTANDING)
    return Filled(actions.cpu(), sampled.cpu(), cond.cpu(), steps.cpu())


def _likeliest(logp_nS: Tensor, uniforms_nS: Tensor, temperature: float, count: int) -> Tensor:
    """[n, count]: those whose log-prob with Gumbel noise times the temperature is largest, as MaskGIT chooses."""
    noise = -torch.log(-torch.log(uniforms_nS.clamp(min=1e-300)))
    return (logp_nS + temperature * noise).topk(count, dim=1).indices
