"""Keys and values of rows that continue shared prompts, and one token's attention over them.

A prompt's keys and values exist once, however many rollouts continue it; a row owns only those of what it drew. On a
GPU with Triton one kernel per layer rotates, appends and attends (kernel.py), with its length in a tensor, so that a
step can be captured as a CUDA graph. Elsewhere attention over a prompt is one product for all of its rows, and a short
prompt is copied to them.
Shapes: n rows, D prefixes, P prompt tokens, C tokens of room, t of them filled, A query heads, K key heads, W width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

try:
    from pairuni.policies.janus import kernel
except ImportError:  # a build of torch without Triton
    kernel = None

# Tokens of a prompt up to which plain torch copies it to its rows: two products cost more than reading it again.
SHORT = 128


@dataclass(frozen=True)
class Prefix:
    """D prompts of equal length after their forward."""

    hidden_DH: Tensor
    """State at the last token: it predicts the first action."""
    keys: Sequence[Tensor]
    """Per layer [D, K, P, W], rotated, in the dtype of the values: what attention would round them to."""
    values: Sequence[Tensor]
    length: int


@dataclass(frozen=True)
class _PrefixSpan:
    """Neighbouring prefixes with about as many rows each: one product for all of them."""

    prefixes: slice
    rows_GR: Tensor
    """int64: the rows of each prefix, the first again where it has fewer than others."""


class SharedCache:
    """All layers' keys and values of n rows; row i continues prefix slots_n[i]."""

    def __init__(self, prefix: Prefix, slots_n: Tensor, room: int) -> None:
        """Args: slots_n: int64. room: tokens that a row may add."""
        self._fused = _fusable(prefix.keys[0])
        self._copied = not self._fused and prefix.length <= SHORT
        # Tokens in the rows' own buffers, where no kernel counts them.
        self._filled = prefix.length if self._copied else 0
        self._keys, self._values = (
            [_buffer(prompts, slots_n, self._filled, room) for prompts in part] for part in (prefix.keys, prefix.values)
        )
        self._prefix_keys, self._prefix_values = ([], []) if self._copied else (list(prefix.keys), list(prefix.values))
        self._slots_n = slots_n
        self.position_11 = torch.full((1, 1), prefix.length, device=slots_n.device)
        """Of the next token, counted from BOS."""
        self._filled_1 = torch.zeros(1, dtype=torch.int64, device=slots_n.device)
        self._regroup()

    @property
    def in_tensors(self) -> bool:
        """Whether a step depends on tensors alone, so that it may be recorded once and replayed."""
        return self._fused

    def attend(
        self, layer: int, token: tuple[Tensor, Tensor, Tensor], turn: tuple[Tensor, Tensor], scale: float
    ) -> Tensor:
        """[n, A, W]: one more token of each row, over its prompt, what it added before, and itself.

        Args:
            token: query [n, A, W], key and value [n, K, W], not yet rotated.
            turn: cosines and sines [W] of the token's position.
            scale: of the scores.
        """
        keys, values = self._keys[layer], self._values[layer]
        if self._fused:
            assert kernel is not None
            prefix = self._prefix_keys[layer], self._prefix_values[layer]
            return kernel.attend(token, turn, prefix, (keys, values), self._slots_n, self._filled_1, scale)
        query, key = rotate(torch.cat(token[:2], 1), *turn).split([token[0].shape[1], token[1].shape[1]], 1)
        keys[:, :, self._filled], values[:, :, self._filled] = key, token[2]
        stop = self._filled + 1
        keys, values = keys[:, :, :stop], values[:, :, :stop]
        if self._copied:
            query, grouped = query[:, :, None].to(keys.dtype), query.shape[1] != keys.shape[1]
            mixed = nn.functional.scaled_dot_product_attention(query, keys, values, scale=scale, enable_gqa=grouped)
            return mixed[:, :, 0]
        return self._mix(layer, query.unflatten(1, (keys.shape[1], -1)) * scale, keys, values).to(values.dtype)

    def grow(self) -> None:
        """After the last layer: the token counts as filled."""
        self.position_11 += 1
        self._filled_1 += 1
        self._filled += 1

    def keep(self, rows: Tensor) -> None:
        """Drops all rows but these (int64), layer after layer: one is there twice at a time."""
        for held in (self._keys, self._values):
            for layer in range(len(held)):
                held[layer] = held[layer][rows]
        self._slots_n = self._slots_n[rows]
        self._regroup()

    def tensors(self) -> list[Tensor]:
        """All keys and values held."""
        return [*self._prefix_keys, *self._prefix_values, *self._keys, *self._values]

    def _regroup(self) -> None:
        if self._fused or self._copied:
            return
        slots, device = self._slots_n.tolist(), self._slots_n.device
        members = [[row for row, own in enumerate(slots) if own == slot] for slot in range(len(self._prefix_keys[0]))]
        self._groups: list[_PrefixSpan] = []
        places, start = {}, 0
        for span in _spans([len(rows) for rows in members]):
            if not members[span.start]:
                continue  # prompts whose rows have all ended
            most = max(len(rows) for rows in members[span])
            filled = [rows + rows[:1] * (most - len(rows)) for rows in members[span]]
            self._groups.append(_PrefixSpan(span, torch.tensor(filled, device=device)))
            for rows in members[span]:
                places |= {row: start + r for r, row in enumerate(rows)}
                start += most
        self._places_n = torch.tensor([places[row] for row in range(len(slots))], device=device)

    def _mix(self, layer: int, query_nKGW: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """[n, A, W]: softmax over the prompt's and the row's own tokens together, the G query heads of a key head.

        In fp32 throughout, as fused attention has it: autocast's bf16 scores would be coarser.
        """
        with torch.autocast(query_nKGW.device.type, enabled=False):
            query, prompt = query_nKGW.float(), self._prefix_keys[layer].shape[2]
            shared = self._over_prompts(query, self._prefix_keys[layer].transpose(-1, -2))
            shares = torch.cat([shared, query @ keys.float().transpose(-1, -2)], -1).softmax(-1)
            mixed = self._over_prompts(shares[..., :prompt], self._prefix_values[layer])
            return (mixed + shares[..., prompt:] @ values.float()).flatten(1, 2)

    def _over_prompts(self, x_nKGI: Tensor, prompts_DKIJ: Tensor) -> Tensor:
        """[n, K, G, J]: each row times the matrix of its own prompt, which is read once for all of its rows."""
        parts = []
        for group in self._groups:
            rows = x_nKGI[group.rows_GR].transpose(1, 2).flatten(2, 3)  # [prompts, K, rows * G, I]
            product = rows @ prompts_DKIJ[group.prefixes].float()
            parts.append(product.unflatten(2, (-1, x_nKGI.shape[2])).transpose(1, 2).flatten(0, 1))
        return torch.cat(parts)[self._places_n]


def _buffer(prompts_DKPW: Tensor, slots_n: Tensor, copied: int, room: int) -> Tensor:
    """[n, K, copied + room, W], beginning with the first `copied` tokens of each row's prompt."""
    _, heads, _, width = prompts_DKPW.shape
    buffer = prompts_DKPW.new_empty(len(slots_n), heads, copied + room, width)
    buffer[:, :, :copied] = prompts_DKPW[slots_n, :, :copied]
    return buffer


def _fusable(keys: Tensor) -> bool:
    width = keys.shape[-1]
    fits = keys.is_cuda and width >= 16 and width & (width - 1) == 0
    return kernel is not None and fits and torch.cuda.get_device_capability(keys.device) >= (8, 0)  # bf16


def rotate(x: Tensor, cos_W: Tensor, sin_W: Tensor) -> Tensor:
    """Rotary position embedding of [..., W]: the halves of W are the parts of W / 2 complex numbers."""
    first, second = x.chunk(2, -1)
    return x * cos_W + torch.cat([-second, first], -1) * sin_W


def _spans(counts: Sequence[int]) -> list[slice]:
    """Runs of neighbours whose counts differ by at most a factor of two, so that little of a product is wasted.

    Counts of 0 are in runs of their own.
    """
    starts = [0]
    for n in range(1, len(counts)):
        run = counts[starts[-1] : n + 1]
        if max(run) > 2 * min(run):
            starts.append(n)
    return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], len(counts)], strict=True)]
