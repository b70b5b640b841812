"""Memory of a forward and its backward pass, measured without memory: a model of two layers runs on fake tensors.

Fake tensors have shapes and no numbers, so that a model's own code runs in milliseconds at any size. Each further layer
keeps what the second one keeps. What is alive after each operation is linear in a row's sizes, so that four
measurements give the peak at any size. torch.distributed._tools.mem_tracker counts a model's memory likewise, in the
phases of torch's own FSDP; here a mode of thirty lines will do.
All sizes are bytes. Shapes: M measurements, E operations of a forward and its backward pass.
"""

import weakref
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pairuni.policies.scoring import autocast, compute_dtype
from pairuni.types import Side

ROWS = 1 << 20
"""Rows of a measurement: so many that a row's share of what does not grow with them (weights' copies) is nothing."""
MEASURED = (512, 256), (1024, 512), (1536, 256), (2048, 1024)
"""Tokens of a row, beside those of an image, and those of them that a head reads: four for four unknown numbers."""

States = Callable[[Side, Any, int, int, int, int], Tensor]
"""`Planner.states`: what the last layer of a side's head reads."""


@dataclass(frozen=True)
class Pass:
    """One forward of an update over rows of equal length, unconditional ones included, and what its head reads."""

    rows: int
    length: int
    read: int
    """Tokens of a row whose states the head reads."""
    outputs: int
    """Of the head: ids or codes."""
    masked: int = 0
    """The last tokens of a row that attend by a mask."""
    images: int = 0
    """Bytes of what is kept of images beside the pass."""


class RowSizes(NamedTuple):
    """Bytes of one row."""

    kept: int
    """For the backward pass, by a model of one layer, its ends included."""
    layer: int
    """For the backward pass, by each further layer."""
    peak: int
    """Of forward and backward, in a model of two layers."""


class Activations:
    """Of one model. A measurement is made when it is first asked for."""

    def __init__(
        self, build: Callable[[], nn.Module], layers: str, frozen: tuple[str, ...], states: States, image_tokens: int
    ) -> None:
        """Takes what a planner says.

        Args:
            build: a model of two layers.
            layers: their name in it.
            frozen: how names of frozen weights begin.
            image_tokens: of an image in a row.
        """
        self._build, self._layers, self._frozen, self._states = build, layers, frozen, states
        self._fake, self._image_tokens = FakeTensorMode(), image_tokens
        self._model, self._rates = cache(self._build_model), cache(self._measure_rates)
        self._alive: dict[tuple[str, bool], list[np.ndarray]] = defaultdict(list)

    def peak_of(self, name: str, run: Callable[[Any, int], object], number: int, bf16: bool = False) -> int:
        """Peak of what `run` makes of a model and a number of inputs without gradients; measured once for a name.

        Of one input and of two, after each operation: it is linear in their number.
        """
        if (name, bf16) not in self._alive:
            for count in (1, 2):
                module = self._model()
                with self._fake, torch.no_grad(), autocast("cpu", bf16), Alive() as alive:
                    run(module, count)
                self._alive[name, bf16].append(np.array(alive.history))
        one_E, two_E = self._alive[name, bf16]
        return int(max(one_E + (number - 1) * (two_E - one_E)))

    def forward(self, side: Side, tokens: int, bf16: bool) -> int:
        """Peak of a forward without gradients over so many tokens, in rows with an image."""
        length = self._image_tokens + MEASURED[0][0]
        rows = self.peak_of(side, lambda module, rows: self._states(side, module, rows, length, 1, 0), ROWS, bf16)
        return int(tokens * rows / ROWS / length)

    def row(self, side: Side, one: Pass, bf16: bool) -> RowSizes:
        """A row's bytes, from measurements of other sizes: exact, since the same operations run at every size."""
        mask = "none" if not one.masked else "part" if one.masked < one.length else "all"
        return _row(_sizes(one) @ self._rates(side, mask, bf16))

    def measure(self, side: Side, one: Pass, bf16: bool) -> RowSizes:
        """A row's bytes, by running it."""
        return _row(self._run(side, one, bf16))

    def _run(self, side: Side, one: Pass, bf16: bool) -> np.ndarray:
        """[2 + E]: what the model and its second layer keep of a row, then what is alive after each operation."""
        module, seen = self._model(), []
        layers: Any = module.get_submodule(self._layers)
        with self._fake, autocast("cpu", bf16), Alive() as alive:
            hooks = [layer.register_forward_hook(lambda *_: seen.append(alive.now)) for layer in layers]
            out = self._states(side, module, ROWS, one.length, one.read, one.masked)
            out = out.to(compute_dtype(out))
            kept, layer = alive.now, seen[1] - seen[0]
            out.backward(torch.empty_like(out))
        for hook in hooks:
            hook.remove()
        return np.array([kept - layer, layer, *alive.history]) / ROWS

    def _measure_rates(self, side: Side, mask: str, bf16: bool) -> np.ndarray:
        """[4, 2 + E]: what a row, a token of it, one that is read and a cell of its mask add to what `_run` finds."""
        passes = []
        for beside, read in MEASURED:
            length = self._image_tokens + beside
            passes.append(Pass(ROWS, length, read, 0, {"none": 0, "part": read, "all": length}[mask]))
        sizes_M4 = np.array([_sizes(one) for one in passes])
        scale_4 = sizes_M4.max(0).clip(min=1)
        found_ME = np.array([self._run(side, one, bf16) for one in passes])
        return np.linalg.lstsq(sizes_M4 / scale_4, found_ME)[0] / scale_4[:, None]

    def _build_model(self) -> nn.Module:
        with self._fake:
            module = self._build()
            for name, parameter in module.named_parameters():
                trains = not name.startswith(self._frozen)
                parameter.requires_grad_(trains)
                parameter.grad = torch.zeros_like(parameter) if trains else None
        return module


def _sizes(one: Pass) -> np.ndarray:
    return np.array([1, one.length, one.read, one.masked * one.length], float)


def _row(found: np.ndarray) -> RowSizes:
    return RowSizes(round(found[0]), round(found[1]), round(found[2:].max()))


class Alive(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make inside it, until each is gone: now, and after each one."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.history = 0, list[int]()
        self._known: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._note((args, kwargs), counted=False)  # weights: their views take nothing
        out = func(*args, **(kwargs or {}))
        self._note(out, counted=True)
        # A convolution reorders its input and weights first, and has these copies until it is done.
        copies = args[0].nbytes + args[1].nbytes if func is torch.ops.aten.convolution.default else 0
        self.history.append(self.now + copies)
        return out

    def _note(self, values: Any, counted: bool) -> None:
        for value in tree_leaves(values):
            if isinstance(value, Tensor) and (storage := value.untyped_storage())._cdata not in self._known:
                key, size = storage._cdata, storage.nbytes() if counted else 0
                self._known[key] = weakref.ref(storage, partial(self._gone, key, size))
                self.now += size

    def _gone(self, key: int, size: int, _: object) -> None:
        del self._known[key]
        self.now -= size
