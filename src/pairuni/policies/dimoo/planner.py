"""Lumina-DiMOO in a memory plan: its model from two config.json alone, and the rows that sampling and updates read.

A forward reads whole rows of prompt and answer; sampling takes as many rows at a time as decode.TOKENS allows, an
update those of a chunk times the groups that score them.
"""

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffusers.models.autoencoders.vq_model import VQModel
from torch import Tensor

from pairuni.errors import InputError
from pairuni.policies.activations import States
from pairuni.policies.dimoo import decode
from pairuni.policies.dimoo.load import set_fields
from pairuni.policies.dimoo.model import PIXEL_BATCH, Dimoo, DimooConfig, DimooModel, at
from pairuni.policies.dimoo.policy import VQVAE
from pairuni.policies.memory import Parts, Pass, Planner, Workload, drawing, width_of
from pairuni.policies.released import released
from pairuni.policies.scoring import compute_dtype
from pairuni.policies.source import BROKEN, brief, resolve_model
from pairuni.types import Side

BRACKETS = 2  # of an image in a prompt, and of an answer


class DimooPlanner(Planner):
    """See `memory.Planner`."""

    def __init__(self, path_or_hub_id: str, sampler_options: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Reads the configs alone.

        Raises:
            InputError: one is not there or describes no such model, or a sampler option is wrong.
        """
        source = resolve_model(path_or_hub_id)
        try:
            known = released(source)
            self.config = DimooConfig.from_pretrained(source) if known is None else DimooConfig()
            # Of a folder without this subfolder diffusers would read the other config.json.
            where: dict[str, Any] = {} if isinstance(source, Path) else {"subfolder": VQVAE}
            folder = source / VQVAE if isinstance(source, Path) else source
            self.vq: Any = VQModel.load_config(folder, **where) if known is None else known["vqvae"]
            set_fields(self.config, sampler_options)
            with torch.device("meta"):
                module = self.build(self.config.n_layers)
        except InputError:
            raise
        except (*BROKEN, TypeError) as err:
            raise InputError(f"cannot be read as a Lumina-DiMOO model: {brief(err)}", file=source) from None
        self.side, self.pixels, self.codebook = module.codes_per_side, module.image_size, module.codebook
        image_tokens = self.side * (self.side + 1) + BRACKETS  # codes, a newline per row, brackets
        super().__init__(module, module.language.blocks, ("vqvae.",), image_tokens)

    def build(self, layers: int) -> Dimoo:
        config = copy.deepcopy(self.config)
        config.n_layers = layers
        vqvae = VQModel.from_config(dict(self.vq))
        assert isinstance(vqvae, VQModel)
        return Dimoo(DimooModel(config), vqvae)

    def states(self, side: Side) -> States:
        return _states

    def kept_by_cpu(self) -> int:
        """Queries, keys, values and results of attention are fp32 there, in place of bf16."""
        return 4 * 2 * self.config.d_model

    def _read(self, side: Side, work: Workload) -> tuple[int, int, int, list[decode.Step]]:
        """Tokens of a row, its slots, ids of the slice, and the steps that fill it."""
        c = self.config
        if side is Side.UNDERSTANDING:
            slots = work.spec.max_new_tokens
            length = self.image_tokens + work.text_tokens + slots + BRACKETS
            return length, slots, c.image_offset, decode.text_steps(slots, c.text_steps, c.text_block)
        length = work.text_tokens + self.image_tokens + BRACKETS
        return length, self.side**2, self.codebook, decode.image_steps(self.side**2, c.image_steps)

    def rollout(self, side: Side, work: Workload) -> Iterator[Parts]:
        """The widest step: all rows of a part, with the states and logits of its slots; then pixels of 32 images."""
        length, slots, outputs, steps = self._read(side, work)
        guided = side is Side.GENERATION and work.spec.guidance > 1
        wanted = work.prompts * work.rollouts
        part = min(wanted, max(1, decode.TOKENS // (length * (1 + guided))))
        number = part * (slots if self.config.order == "confidence" else max(step.count for step in steps))
        drawn = {"drawn": wanted * slots * 32 + part * slots * 8 * 2 * len(steps)}
        kept = drawn | self.copies(work, outputs)
        first = number * outputs * width_of(work.bf16) if guided else 0
        yield kept | {"logits": first} | self.forward(side, part * length, work)
        yield kept | drawing(number, outputs, guided, work.bf16)
        if side is Side.UNDERSTANDING:
            image = 1, 3, self.pixels, self.pixels
            peak = self.activations.peak_of("images", lambda module: module.encode(torch.zeros(image)))
            yield drawn | {"pixels": peak}
            return
        codes = PIXEL_BATCH, slots
        peak = self.activations.peak_of("pixels", lambda module: module.decode(torch.zeros(codes).long()))
        yield drawn | {"pixels": min(wanted, PIXEL_BATCH) * peak // PIXEL_BATCH + wanted * 3 * self.pixels**2}

    def passes(self, side: Side, work: Workload) -> Iterator[Pass]:
        """A chunk's rows, each with all of its groups or with one."""
        guided = side is Side.GENERATION and work.spec.logprob_mode == "cfg" and work.spec.guidance > 1
        length, slots, outputs, steps = self._read(side, work)
        groups = {"trace": len(steps), "coupled": 2}.get(self.config.estimator, 1)
        if side is Side.GENERATION and self.config.estimator == "trace":
            groups = min(self.config.scored_image_steps or groups, groups)
        each, size = length * (1 + guided), min(work.micro_batch, work.prompts * work.rollouts)
        whole = not work.micro_tokens or each * groups <= work.micro_tokens
        together = groups if whole else 1
        size = min(size, max(1, work.micro_tokens // (each * together))) if work.micro_tokens else size
        read = -(-slots // groups) if whole else max(step.count for step in steps)
        yield Pass(size * together * (1 + guided), length, read, outputs, guided=guided)


def _states(module: Dimoo, rows: int, length: int, read: int, masked: int) -> Tensor:
    states_nLH = module.language(torch.zeros(rows, length, dtype=torch.int64))
    read_nNH = at(states_nLH, torch.zeros(rows, read, dtype=torch.int64))
    return read_nNH.to(compute_dtype(read_nNH))
