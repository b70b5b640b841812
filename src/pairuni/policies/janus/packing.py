"""Answers of one question behind one shared prompt: its image and text are read once, not once per answer.

A pack is one row [prompt | answer | answer | ...]. An answer's tokens see the prompt and what comes before them in
their own answer, at the positions that they have alone, so their states are those of a row of their own.
Shapes: k rows (answers), N scored actions, Q packs, L tokens of the longest pack, P tokens of a prompt.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby

import torch
from torch import Tensor

from pairuni.types import Workload

_PROMPT, _PADDING = 0, -1  # segments; answers count from 1


@dataclass(frozen=True)
class Packed:
    """Q rows for one forward, on the CPU."""

    owners: tuple[int, ...]
    """The prompt of each pack."""
    ids_QL: Tensor
    """int64, padded on the right."""
    positions_QL: Tensor
    segments_QL: Tensor
    """0 in the prompt, 1, 2, ... in its answers, -1 in padding."""
    places_N: Tensor
    """Where in the flattened [Q, L] the state stands that predicts each action, row after row."""

    def mask(self, device: torch.device) -> Tensor | None:
        """bool [Q, 1, A, L]: what the last A tokens of each row (third) see; those before see all that precede them.

        A is what follows the shortest prompt; None where plain causal order says it all.
        """
        if self.segments_QL.max() <= 1 and not (self.segments_QL == _PADDING).any():
            return None
        start = int((self.segments_QL == _PROMPT).sum(-1).min())
        seen = self.segments_QL.to(device)
        same = (seen[:, start:, None] == seen[:, None, :]) | (seen[:, None, :] == _PROMPT)
        causal = torch.ones(same.shape[-2:], dtype=torch.bool, device=device).tril(start)
        return (same & causal)[:, None]


def pack(
    prompts: Sequence[Tensor], owners: Sequence[int], answers: Sequence[Tensor], width: int, padding: int
) -> Packed:
    """Packs answers, those of one prompt together as far as that saves work.

    Args:
        prompts: int64 [P] ids of each prompt.
        owners: the prompt of each answer; equal ones stand together.
        answers: int64 ids of each; all but the last are read, every one is predicted.
        width: of the model, which sets from what length on attention costs more than a second copy of the prompt.
        padding: an id.
    """
    rows: list[tuple[int, list[int]]] = []
    for owner, group in groupby(range(len(owners)), key=lambda row: owners[row]):
        members = list(group)
        size = _size(len(prompts[owner]), max(len(answers[row]) for row in members), len(members), width)
        rows += [(owner, members[start : start + size]) for start in range(0, len(members), size)]
    lengths = [len(prompts[owner]) + sum(len(answers[row]) - 1 for row in members) for owner, members in rows]
    shape = len(rows), max(lengths)
    ids_QL = torch.full(shape, padding)
    positions_QL = torch.zeros(shape, dtype=torch.int64)
    segments_QL = torch.full(shape, _PADDING)
    places: dict[int, Tensor] = {}
    for q, (owner, members) in enumerate(rows):
        end = len(prompts[owner])
        ids_QL[q, :end], segments_QL[q, :end] = prompts[owner], _PROMPT
        positions_QL[q, :end] = torch.arange(end)
        last = q * shape[1] + end - 1  # of the prompt: its state predicts the first action of every answer
        for n, row in enumerate(members, 1):
            read = answers[row][:-1]
            stop = end + len(read)
            ids_QL[q, end:stop], segments_QL[q, end:stop] = read, n
            positions_QL[q, end:stop] = len(prompts[owner]) + torch.arange(len(read))
            places[row] = torch.cat([torch.tensor([last]), q * shape[1] + torch.arange(end, stop)])[: len(answers[row])]
            end = stop
    places_N = torch.cat([places[row] for row in range(len(answers))])
    return Packed(tuple(owner for owner, _ in rows), ids_QL, positions_QL, segments_QL, places_N)


@cache
def pack_shape(prompt: int, answer: int, number: int, width: int) -> tuple[int, int]:
    """Packs, and tokens of the longest, that `pack` makes of `number` answers of equal length behind one prompt."""
    size = _size(prompt, answer, number, width)
    return -(-number // size), prompt + size * (answer - 1)


def _size(prompt: int, answer: int, number: int, width: int) -> int:
    """Answers per pack with the least work: a layer's products cost 6 * width per token, attention its length."""

    def work(size: int) -> float:
        length = prompt + size * (answer - 1)
        return -(-number // size) * length * (6 * width + length)

    return min(range(1, number + 1), key=lambda size: (work(size), size))


def split_rows(costs: Sequence[tuple[int, int, int]], budget: int, tokens: int) -> Iterator[list[int]]:
    """Consecutive rows within both budgets."""
    part: list[int] = []
    used = 0
    for row, (owner, shared, own) in enumerate(costs):
        more = own + (0 if part and costs[part[-1]][0] == owner else shared)
        if part and (len(part) == budget or (tokens and used + more > tokens)):
            yield part
            part, used, more = [], 0, shared + own
        part.append(row)
        used += more
    yield part


def answer_chunks(work: Workload, prompt: int) -> set[tuple[int, ...]]:
    """Answers of each prompt in the chunks that a call is split into.

    Under micro_tokens a chunk may begin anywhere, since real answers differ in length, and be a little smaller:
    packing saves most for some numbers of answers, so that fewer can take more.
    """
    per, found = work.rollouts, set[tuple[int, ...]]()
    costs = [(row // per, prompt, work.spec.max_new_tokens) for row in range(work.rows)]
    for start in range(per) if work.micro_tokens else range(0, work.rows, work.micro_batch):
        rows = costs[start : start + work.micro_batch]
        most = len(next(split_rows(rows, work.micro_batch, work.micro_tokens)))
        for size in range(max(1, most - per), most + 1) if work.micro_tokens else [most]:
            first = min(size, per - start % per)
            whole, rest = divmod(size - first, per)
            found.add((first, *[per] * whole, *[rest] * (rest > 0)))
    return found
