"""Which forwards score a rollout, and what each of them sees.

- trace (TraceRL): a slot from what was filled before its step. Exact where the order does not depend on the weights.
- mean_field (diffu-GRPO): all slots from the prompt alone, of which some tokens are masked. Exact for slots that do not
  depend on one another, and for a single step with nothing of the prompt masked.
- random_mask (UniGRPO): a random share of the slots from the others. Exact as log-probs given the others.
- coupled (DiffuCoder): two complementary sets of slots, each from the other, so that each slot is scored once.

A mask depends on the row's seed alone, so that old, new and reference model see the same.
Shapes: n rows, N slots, M forwards (a row and a group), P tokens of a prompt.
"""

from typing import get_args

import numpy as np
import torch
from torch import Tensor

from pairuni.policies.dimoo.decode import scored_steps
from pairuni.policies.dimoo.model import Estimator
from pairuni.policies.sampling import row_uniforms

ESTIMATORS = get_args(Estimator)
COUPLED = 0.1, 0.9
"""Between which the share of a coupled pair's first set is drawn."""
_STREAM = np.uint64(0x6D61736B)
"""Numbers that no draw of a rollout uses."""


def scoring_groups(estimator: Estimator, steps_nN: Tensor, scored: int, seeds_n: np.ndarray) -> tuple[Tensor, Tensor]:
    """Groups int64 [n, N], one forward each, and bool [n, N]: which slots are decisions.

    Args:
        steps_nN: in which step each slot was filled.
        scored: steps that a trace scores (0: all).
    """
    slots = steps_nN.shape[1]
    everything = torch.ones_like(steps_nN, dtype=torch.bool)
    if estimator == "trace":
        steps = int(steps_nN.max()) + 1
        if not scored:
            return steps_nN, everything
        return steps_nN, scored_steps(steps, scored, _uniforms(seeds_n, 1)[:, 0]).gather(1, steps_nN)
    if estimator == "mean_field":
        return torch.zeros_like(steps_nN), everything
    share_n1, uniforms_nN = _uniforms(seeds_n, 1 + slots).split([1, slots], 1)
    if estimator == "coupled":
        low, high = COUPLED
        return (uniforms_nN >= low + (high - low) * share_n1).long(), everything
    masked_nN = uniforms_nN <= torch.maximum(share_n1, uniforms_nN.min(1, keepdim=True).values)
    return masked_nN.long() - 1, masked_nN


def seen(estimator: Estimator, groups_MN: Tensor, group_M: Tensor) -> Tensor:
    """bool [M, N]: the slots that a forward sees."""
    groups = group_M[:, None]
    return groups_MN < groups if estimator == "trace" else groups_MN != groups


def masked_prompt(ids_P: Tensor, share: float, mask_id: int, seed: int) -> Tensor:
    """int64 [P]: about this share of the tokens masked, the same for the same seed."""
    uniforms_P = _uniforms(np.array([seed], np.uint64), len(ids_P))[0]
    return ids_P.masked_fill(uniforms_P < share, mask_id)


def _uniforms(seeds_n: np.ndarray, count: int) -> Tensor:
    return row_uniforms(seeds_n ^ _STREAM, count)
