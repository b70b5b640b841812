"""Lumina-DiMOO in a memory plan: its model from two config.json alone, and the rows that sampling and updates read.

A forward reads whole rows of prompt and answer: sampling as many at a time as decode.TOKENS allows, an update those of
a chunk times the groups that score them.
"""

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.vq_model import VQModel
from torch import Tensor

from pairuni.policies.activations import Pass
from pairuni.policies.dimoo import decode
from pairuni.policies.dimoo.load import set_fields
from pairuni.policies.dimoo.model import Dimoo, DimooConfig, DimooModel, at
from pairuni.policies.dimoo.policy import VQVAE, chunk_size
from pairuni.policies.memory import Parts, Planner
from pairuni.policies.released import released
from pairuni.policies.requests import PIXEL_BATCH
from pairuni.policies.source import loading, resolve_model
from pairuni.types import Side, Workload

BRACKETS = 2  # of an image in a prompt, and of an answer


class DimooPlanner(Planner):
    """See `memory.Planner`."""

    def __init__(self, path_or_hub_id: str, sampler_options: Mapping[str, Any]) -> None:
        """Reads the configs alone. Raises InputError: one is absent or of no such model, or an option is wrong."""
        source = resolve_model(path_or_hub_id)
        with loading(path_or_hub_id, "Lumina-DiMOO"):
            known = released(source)
            c = self.config = DimooConfig.from_pretrained(source) if known is None else DimooConfig()
            # Of a folder without this subfolder diffusers would read the other config.json.
            place: Any = (source / VQVAE, None) if isinstance(source, Path) else (source, VQVAE)
            self.vq: Any = VQModel.load_config(place[0], subfolder=place[1]) if known is None else known["vqvae"]
            set_fields(c, sampler_options)
            side = c.image_size // 2 ** (len(self.vq["block_out_channels"]) - 1)
            self.image_codes, self.image_tokens = side**2, side * (side + 1) + BRACKETS  # a newline behind each row
            self.kept_by_cpu = 4 * 2 * c.d_model  # attention's queries, keys, values and results, fp32 in place of bf16
            super().__init__(c.n_layers, "language.model.transformer.blocks", ("vqvae.",))

    def build(self, layers: int) -> Dimoo:
        config = copy.deepcopy(self.config)
        config.n_layers = layers
        vqvae = VQModel.from_config(dict(self.vq))
        assert isinstance(vqvae, VQModel)
        return Dimoo(DimooModel(config), vqvae)

    def states(self, side: Side, module: Dimoo, rows: int, length: int, read: int, masked: int) -> Tensor:
        states_nLH = module.language(torch.zeros(rows, length, dtype=torch.int64))
        return at(states_nLH, torch.zeros(rows, read, dtype=torch.int64))

    def _row(self, side: Side, work: Workload) -> tuple[int, int, list[decode.Step]]:
        """Tokens of a row, ids of the slice, and the steps that fill its slots."""
        length, c = work.text_tokens + self.image_tokens + BRACKETS, self.config
        if side is Side.GENERATION:
            return length, self.vq["num_vq_embeddings"], decode.image_steps(self.image_codes, c.image_steps)
        slots = work.spec.max_new_tokens
        return length + slots, c.image_offset, decode.text_steps(slots, c.text_steps, c.text_block)

    def rollout(self, side: Side, work: Workload) -> Iterator[Parts]:
        """The widest step: all rows of a part, with the states and logits of its slots. Images come before or after."""
        length, outputs, steps = self._row(side, work)
        guided, slots = work.spec.guides(side), sum(step.count for step in steps)
        part = min(work.rows, max(1, decode.TOKENS // (length * (1 + guided))))
        number = part * (slots if self.config.order == "confidence" else max(step.count for step in steps))
        drawn = {"drawn": work.rows * slots * 32 + part * slots * 8 * 2 * len(steps)}
        kept = drawn | self.copies(work, outputs)
        first = number * outputs * work.width if guided else 0
        yield kept | {"logits": first, "activations": self.activations.forward(side, part * length, work.bf16)}
        yield kept | self.drawing(number, outputs, guided, work)
        if side is Side.UNDERSTANDING:
            yield drawn | {"image tokenizer": self.activations.peak_of("images", self._look, 1)}
        else:
            pixels = self.activations.peak_of("pixels", self._decode, min(work.rows, PIXEL_BATCH))
            yield drawn | {"pixels": pixels, "images": 3 * work.rows * self.config.image_size**2}

    def _look(self, module: Dimoo, images: int) -> Tensor:
        return module.encode(torch.zeros(images, 3, self.config.image_size, self.config.image_size))

    def _decode(self, module: Dimoo, images: int) -> Tensor:
        return module.decode(torch.zeros(images, self.image_codes, dtype=torch.int64))

    def passes(self, side: Side, work: Workload) -> Iterator[Pass]:
        """A chunk's rows, each with all of its groups or with one."""
        length, outputs, steps = self._row(side, work)
        groups = {"trace": len(steps), "coupled": 2}.get(self.config.estimator, 1)
        if side is Side.GENERATION and self.config.estimator == "trace":
            groups = min(self.config.scored_image_steps or groups, groups)
        twice, slots = 1 + work.spec.scores_guided(side), sum(step.count for step in steps)
        whole, size = chunk_size(work.micro_batch, work.micro_tokens, twice * length, groups)
        read = -(-slots // groups) if whole else max(step.count for step in steps)
        yield Pass(min(size, work.rows) * (groups if whole else 1) * twice, length, read, outputs)
