"""Which forwards score a rollout, what each of them sees, and which slots have a term in the gradient.

- trace (TraceRL): a slot from what was filled before its step. Exact where the order does not depend on the weights.
- mean_field (diffu-GRPO): all slots from the prompt alone, of which some tokens are masked. Exact for slots that do not
  depend on one another, and for a single step with nothing of the prompt masked.
- random_mask (UniGRPO): a random share of the slots from the others. Exact as log-probs given the others.
- coupled (DiffuCoder): two complementary sets of slots, each from the other, so that each slot is scored once.

A mask depends on the row's seed alone, so that old, new and reference model see the same.

Where an answer ends. What is scored is the answer a: the slots up to its first end id, the end included, or all where
there is none. Reward and advantage A(a) depend on nothing else; what was drawn behind the end is integrated out. With
x_i a slot's id and s_i its step, the draw of all slots has the gradient

    E[A(a) sum_i grad log p(x_i | x_j with s_j < s_i)] = grad E[A(a)].

A slot j behind the end has the term A(a) grad log p(x_j | ...). Be L the last step that filled a slot of the answer.

- s_j >= L: no slot of the answer saw x_j. That j lies behind the end and has s_j >= L, and A(a), are then told by the
  slots before j that were filled no later than in step s_j. Given these, x_j has the distribution that is scored, since
  slots of one step are drawn independently, and E[grad log p(x_j | ...) | these] = 0. The term is noise: it has no
  place in the mask. Blocks after the end's are all of this kind.
- s_j < L: a slot of the answer was drawn from what x_j was. grad log p(a) is the mean, over such x_j given a, of the
  gradient of log p(x_j | ...) plus the answer's own terms. Without it the gradient is biased: the term stays.

The last step's slots of the answer saw all of the second kind, so that no chain of them is left out. Denominators count
the answer's slots alone: any function of a may weigh its sum, but the number of slots behind the end is no part of it.
With order `confidence` log-probs are not those of the draw anyway, and the rule is the same. The other estimators take
a slot's log-prob for its factor of p(a) by itself, so that none needs what lies behind the end (`random_mask` and
`coupled` may see it): in the cases in which they are exact those terms have expectation 0.

What stands for a sum. A rollout's sum is one over all slots of its image or answer. Where some of them are scored, each
weighs one over its probability of being scored: a slot of `scored` steps out of S weighs S / scored; of an answer's m
slots, of which `random_mask` drew k, each weighs m / k (given k, a slot is among them with probability k / m). Then the
sum has the right expectation whatever it is divided by, as long as that does not depend on what is scored.
Shapes: n rows, N slots, M forwards (a row and a group), P tokens of a prompt.
"""

from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from pairuni.policies.dimoo.decode import scored_steps
from pairuni.policies.dimoo.model import Estimator
from pairuni.policies.sampling import row_uniforms
from pairuni.streams import Stream, beside

ESTIMATORS = get_args(Estimator)
COUPLED = 0.1, 0.9
"""Between which the share of a coupled pair's first set is drawn."""


@dataclass(frozen=True)
class Scoring:
    """Of n rows."""

    groups_nN: Tensor
    """int64: the forward that scores each slot."""
    mask_nN: Tensor
    """bool: the slots that are scored."""
    weight_nN: Tensor
    """fp32: the factor of each of these in its row's sum."""


def scoring(estimator: Estimator, steps_nN: Tensor, lengths_n: Tensor, scored: int, seeds_n: np.ndarray) -> Scoring:
    """Which slots are scored, by which forward, and how much each counts.

    Args:
        steps_nN: in which step each slot was filled.
        lengths_n: slots of each row's answer, with its end; N for images.
        scored: steps that a trace scores (0: all).
    """
    slots = steps_nN.shape[1]
    answer_nN = torch.arange(slots) < lengths_n[:, None]
    ones_nN = torch.ones(steps_nN.shape)
    if estimator == "trace":
        last_n1 = steps_nN.masked_fill(~answer_nN, -1).amax(1, keepdim=True)
        mask_nN, steps = answer_nN | (steps_nN < last_n1), int(steps_nN.max()) + 1
        if not 0 < scored < steps:
            return Scoring(steps_nN, mask_nN, ones_nN)
        chosen_nN = scored_steps(steps, scored, _uniforms(seeds_n, 1)[:, 0]).gather(1, steps_nN)
        return Scoring(steps_nN, mask_nN & chosen_nN, ones_nN * (steps / scored))
    if estimator == "mean_field":
        return Scoring(torch.zeros_like(steps_nN), answer_nN, ones_nN)
    share_n1, uniforms_nN = _uniforms(seeds_n, 1 + slots).split([1, slots], 1)
    if estimator == "coupled":
        low, high = COUPLED
        return Scoring((uniforms_nN >= low + (high - low) * share_n1).long(), answer_nN, ones_nN)
    least_n1 = uniforms_nN.masked_fill(~answer_nN, 1).amin(1, keepdim=True)
    masked_nN = uniforms_nN <= torch.maximum(share_n1, least_n1)
    mask_nN = masked_nN & answer_nN
    return Scoring(masked_nN.long() - 1, mask_nN, ones_nN * (lengths_n / mask_nN.sum(1))[:, None])


def seen(estimator: Estimator, groups_MN: Tensor, group_M: Tensor) -> Tensor:
    """bool [M, N]: the slots that a forward sees."""
    groups = group_M[:, None]
    return groups_MN < groups if estimator == "trace" else groups_MN != groups


def masked_prompt(ids_P: Tensor, share: float, mask_id: int, seed: int) -> Tensor:
    """int64 [P]: about this share of the tokens masked, the same for the same seed."""
    uniforms_P = _uniforms(np.array([seed], np.uint64), len(ids_P))[0]
    return ids_P.masked_fill(uniforms_P < share, mask_id)


def _uniforms(seeds_n: np.ndarray, count: int) -> Tensor:
    return row_uniforms(beside(seeds_n, Stream.SCORING), count)
