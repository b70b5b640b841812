"""Images drawn with a cache, for evaluation alone: what is drawn has other probabilities than the model gives it.

As the released sampler's cache does it: the first WARM of the steps and every EVERY-th of the others compute all
tokens. Between them only what was just filled is computed anew, and of the open slots under `random` those that are
filled next, under `confidence` the share `cached_share` of all slots whose likeliest id is least likely. Every other
token keeps its keys, values and state.
Shapes: n rows, A tokens of the answer part, N slots, S open slots, F slots filled by the last step, H hidden width, V
ids of the slice.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pairuni.policies.dimoo.model import DimooModel, Kept, at, laid_out

WARM, EVERY = 0.3, 5


def computes_all(step: int, steps: int) -> bool:
    """Whether a step, counted from 0, computes all tokens: the first ones, and every EVERY-th behind them."""
    return step == 0 or step + 1 <= WARM * steps or (step + 1) % EVERY == 0


class CachedStates:
    """States at the slots behind one set of prompts, kept from step to step."""

    def __init__(self, language: DimooModel, prompts: Sequence[Tensor], slots_N: Tensor) -> None:
        self.language, self.prompts, self.slots_N = language, prompts, slots_N
        self.kept = [Kept() for _ in language.blocks]
        self.states_nNH = torch.empty(0)

    def compute(self, answers_nA: Tensor, slots_nP: Tensor | None) -> None:
        """Anew at these slots alone, all tokens where none are given."""
        ids_nL, starts_n1, attended_nL = laid_out(self.prompts, answers_nA)
        if slots_nP is None:
            states = self.language(ids_nL, attended_nL, self.kept)
            self.states_nNH = at(states, starts_n1 + self.slots_N)
            return
        states = self.language(ids_nL, attended_nL, self.kept, starts_n1 + self.slots_N[slots_nP])
        places = slots_nP[..., None].expand(-1, -1, states.shape[-1])
        self.states_nNH = self.states_nNH.scatter(1, places, states)


class CachedLogits:
    """Logits of the steps of one fill, in their order."""

    def __init__(self, contexts: Sequence[CachedStates], steps: int, ids: slice, share: float | None) -> None:
        """Takes the states behind the prompts, and behind the unconditional ones where there is guidance.

        Args:
            share: of the slots, computed anew where the order is one of confidence; None where it is not.
        """
        self.contexts, self.steps, self.ids, self.share = contexts, steps, ids, share

    def __call__(
        self, step: int, answers_nA: Tensor, open_nS: Tensor, filled_nF: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """[n * S, V] of the prompts, and of the unconditional ones."""
        slots_nP = None if computes_all(step, self.steps) else self._stale(open_nS, filled_nF)
        for context in self.contexts:
            context.compute(answers_nA, slots_nP)
        both = [self._logits(context, open_nS).flatten(0, 1) for context in self.contexts]
        return both[0], both[1] if len(both) > 1 else None

    def _stale(self, open_nS: Tensor, filled_nF: Tensor) -> Tensor:
        if self.share is None:
            return torch.cat([filled_nF, open_nS], 1)
        likeliest_nS = self._logits(self.contexts[0], open_nS).amax(-1)
        slots = self.contexts[0].states_nNH.shape[1]
        count = min(open_nS.shape[1], math.ceil(self.share * slots))
        least = likeliest_nS.topk(count, dim=1, largest=False).indices
        return torch.cat([filled_nF, open_nS.gather(1, least)], 1)

    def _logits(self, context: CachedStates, open_nS: Tensor) -> Tensor:
        return context.language.logits(at(context.states_nNH, open_nS), self.ids)
