"""Memory of a forward and its backward pass, measured without memory: a model of two layers runs on fake tensors.

Fake tensors have shapes and no numbers, so that a model's own code runs in milliseconds at any size. What the second
layer keeps each further one keeps too. torch counts a model's memory likewise in
torch.distributed._tools.mem_tracker, whose phases are those of its own FSDP; here a mode of thirty lines will do.
All sizes are bytes. Shapes: M measurements.
"""

import weakref
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pairuni.policies.scoring import autocast

ROWS = 1 << 20
"""Rows of a measurement: so many that a row's share of what does not grow with them (weights' copies) is nothing."""
MEASURED = (512, 256), (1024, 512), (1536, 256), (2048, 1024)
"""Tokens of a row, beside those of an image, and those of them that a head reads: four for four unknown numbers."""

States = Callable[[Any, int, int, int, int], Tensor]
"""What a head reads of a forward: of a model, so many rows, tokens of a row, tokens that are read, masked tokens."""


class RowSizes(NamedTuple):
    """Bytes of one row."""

    kept: int
    """For the backward pass, by a model of one layer, its ends included."""
    layer: int
    """For the backward pass, by each further layer."""
    peak: int
    """Of forward and backward, in a model of two layers."""


class Activations:
    """Of one model, whose measurements are made when they are first asked for."""

    def __init__(self, build: Callable[[], nn.Module], layers: str, frozen: tuple[str, ...]) -> None:
        """Args: build: a model of two layers. layers: their name in it. frozen: how names of frozen weights begin."""
        self._build, self._layers, self._frozen = build, layers, frozen
        self._fake = FakeTensorMode()
        self._model, self._rates = cache(self._build_model), cache(self._measure_rates)
        self._peaks: dict[tuple[str, bool], int] = {}

    def peak_of(self, name: str, run: Callable[[Any], object], bf16: bool = False) -> int:
        """Peak of what `run` makes of a model without gradients; measured once for a name."""
        if (name, bf16) not in self._peaks:
            module = self._model()
            with self._fake, torch.no_grad(), autocast("cpu", bf16), Alive() as alive:
                run(module)
            self._peaks[name, bf16] = alive.peak
        return self._peaks[name, bf16]

    def token(self, states: States, image: int, bf16: bool) -> float:
        """Peak of a forward without gradients, per token of rows with an image of so many tokens."""
        length = image + MEASURED[0][0]
        return self.peak_of(repr(states), lambda module: states(module, ROWS, length, 1, 0), bf16) / ROWS / length

    def row(self, states: States, image: int, length: int, read: int, masked: int, bf16: bool) -> RowSizes:
        """A row's bytes: linear in its tokens, in those that are read, and in the cells of its mask."""
        mask = "none" if not masked else "part" if masked < length else "all"
        sizes = np.array([1, length, read, masked * length])
        return RowSizes(*(round(value) for value in sizes @ self._rates(states, image, mask, bf16)))

    def measure(self, states: States, length: int, read: int, masked: int, bf16: bool) -> RowSizes:
        """A row's bytes by running it."""
        module, seen = self._model(), []
        layers: Any = module.get_submodule(self._layers)
        with self._fake, autocast("cpu", bf16), Alive() as alive:
            hooks = [layer.register_forward_hook(lambda *_: seen.append(alive.now)) for layer in layers]
            out = states(module, ROWS, length, read, masked)
            kept, layer = alive.now, seen[1] - seen[0]
            out.backward(torch.empty_like(out))
        for hook in hooks:
            hook.remove()
        return RowSizes((kept - layer) // ROWS, layer // ROWS, alive.peak // ROWS)

    def _measure_rates(self, states: States, image: int, mask: str, bf16: bool) -> np.ndarray:
        """[4, 3]: what a row, a token of it, one that is read and a cell of its mask add to each of `RowSizes`."""
        sizes, rows = [], []
        for beside, read in MEASURED:
            length = image + beside
            masked = {"none": 0, "part": read, "all": length}[mask]
            sizes.append((1, length, read, masked * length))
            rows.append(self.measure(states, length, read, masked, bf16))
        sizes_M4 = np.array(sizes, float)
        scale_4 = sizes_M4.max(0).clip(min=1)
        return np.linalg.lstsq(sizes_M4 / scale_4, np.array(rows, float))[0] / scale_4[:, None]

    def _build_model(self) -> nn.Module:
        with self._fake:
            module = self._build()
            for name, parameter in module.named_parameters():
                trains = not name.startswith(self._frozen)
                parameter.requires_grad_(trains)
                parameter.grad = torch.zeros_like(parameter) if trains else None
        return module


class Alive(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make inside it, until each is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for made in tree_leaves(out):
            if isinstance(made, Tensor) and (storage := made.untyped_storage())._cdata not in self._known:
                key, size = storage._cdata, storage.nbytes()
                self._known[key] = weakref.ref(storage, partial(self._gone, key, size))
                self.now += size
        self.peak = max(self.peak, self.now)
        return out

    def _gone(self, key: int, size: int, _: object) -> None:
        del self._known[key]
        self.now -= size
