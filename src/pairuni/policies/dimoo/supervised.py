"""The supervised loss of both sides: some slots are masked, and those are named from the rest.

As the released training does it: a row's share of masked slots is cos(pi / 2 * u) with u uniform in [0, 1), a short
text is masked altogether, the loss is the plain mean over all that is masked and over the whole vocabulary.
Shapes: n rows, P tokens of a prompt, N slots, M masked slots of all rows.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pairuni.policies.dimoo.model import DimooModel, states_at
from pairuni.policies.dimoo.prompts import Layout
from pairuni.policies.scoring import action_logp
from pairuni.types import SamplingSpec

SHORT = 5
"""Tokens of a text that is masked altogether."""


def draw_masks(lengths_n: Sequence[int], slots: int, rng: np.random.Generator, short: int = SHORT) -> Tensor:
    """bool [n, N]: masked slots, at least one of each row and all of a row with no more than `short` tokens.

    Args:
        lengths_n: tokens of each row, what ends and pads it not counted.
    """
    masks = torch.zeros(len(lengths_n), slots, dtype=torch.bool)
    for n, length in enumerate(lengths_n):
        share = math.cos(math.pi / 2 * rng.random())
        count = slots if length <= short else max(1, math.floor(slots * share))
        masks[n, torch.from_numpy(rng.permutation(slots)[:count])] = True
    return masks


def draw_blocks(lengths_n: Sequence[int], slots: int, block: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """bool [n, N] twice: what is masked, and what of it is learnt: a row as a sampler by blocks meets it.

    One block is under way: it has as many masked slots as chance will have it, at random places, and these are learnt.
    Blocks in front of it are filled, those behind it are not. In nine of ten rows it holds some of the row's tokens.

    Args:
        lengths_n: tokens of each row, with what ends it.
    """
    masked_nN = torch.zeros(len(lengths_n), slots, dtype=torch.bool)
    learnt_nN = masked_nN.clone()
    for n, length in enumerate(lengths_n):
        own, all_of = -(-length // block), -(-slots // block)
        behind = own < all_of and rng.random() < 0.1
        start = block * int(rng.integers(own, all_of) if behind else rng.integers(own))
        stop = min(start + block, slots)
        open_ = start + torch.from_numpy(rng.permutation(stop - start)[: int(rng.integers(stop - start)) + 1])
        learnt_nN[n, open_] = True
        masked_nN[n, stop:] = True
    return masked_nN | learnt_nN, learnt_nN


def supervised_loss(
    language: DimooModel,
    prompts: Sequence[Tensor],
    layout: Layout,
    targets_nN: Tensor,
    masks_nN: Tensor,
    weights_nN: Tensor | None = None,
) -> Tensor:
    """Mean cross-entropy of the masked slots, a number with a gradient.

    Args:
        prompts: n times int64 [P], of any lengths.
        layout: of the answer part.
        targets_nN: int64 ids of the vocabulary.
        masks_nN: bool, from `draw_masks`.
        weights_nN: of a weighted mean; None, as in the released training: all alike.
    """
    device = language.head.weight.device
    answers_nA = layout.ids_A.repeat(len(prompts), 1)
    answers_nA[:, layout.slots_N] = torch.where(masks_nN, layout.ids_A[layout.slots_N], targets_nN)
    places_nN = layout.slots_N.to(device).expand(len(prompts), -1)
    states_nNH = states_at(language, prompts, answers_nA.to(device), places_nN)
    states, targets = states_nNH[masks_nN.to(device)], targets_nN[masks_nN].to(device)
    logp = action_logp(language.head.weight, None, states, None, targets, SamplingSpec(), None)
    weights = torch.ones_like(logp) if weights_nN is None else weights_nN[masks_nN].to(device)
    return -(weights * logp).sum() / weights.sum()
