"""Peak memory of a Lumina-DiMOO training step, estimated from its two config files and a workload's numbers.

What is counted and what is not is as for Janus (policies/janus/memory.py). A forward reads whole rows of prompt and
answer; sampling takes as many rows at a time as decode.TOKENS allows, an update those of a chunk times the groups that
score them. Widths: H hidden, I intermediate, V ids, L tokens of a row; sizes are bytes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffusers.models.autoencoders.vq_model import VQModel
from torch import nn

from pairuni.errors import InputError
from pairuni.policies.dimoo import decode
from pairuni.policies.dimoo.known import VQ, is_known
from pairuni.policies.dimoo.load import set_fields
from pairuni.policies.dimoo.model import PIXEL_BATCH, Dimoo, DimooConfig, DimooModel
from pairuni.policies.dimoo.policy import VQVAE, DimooPolicy, adaptable_layers
from pairuni.policies.memory import Parts, Stages, Workload, made_up, stages_of, width_of
from pairuni.policies.scoring import LOGITS
from pairuni.policies.source import BROKEN, brief, resolve_model
from pairuni.types import Prompt, Side

# Feature maps of the largest size that the pixel decoder has at a time: a block's input, its result, two in hand.
DECODER_MAPS = 4
# An image's brackets in a prompt, those of an answer.
BRACKETS = 2


@dataclass(frozen=True)
class Dims:
    """A model in numbers."""

    config: DimooConfig
    side: int
    """Codes of a row of an image."""
    codebook: int
    pixels: int
    decoder: int
    """Values of the largest feature map of the pixel decoder, per image."""
    parameters: int
    trained: int
    largest: int
    matrices: int
    layers: int
    layer: int
    linear: int
    """Of the linear layers of the blocks: those that autocast copies, besides the head."""
    sizes: dict[str, int]
    adaptable: dict[str, int]

    @property
    def image(self) -> int:
        """Tokens of an image: codes, a newline per row, brackets."""
        return self.side * (self.side + 1) + BRACKETS


def dims(config: DimooConfig, vq: Mapping[str, Any]) -> Dims:
    """Numbers of the model that the two configs describe. Parameters are counted on a model without memory.

    Raises:
        InputError: no model can be built from them.
    """
    try:
        with torch.device("meta"):
            language, vqvae = DimooModel(config), VQModel.from_config(dict(vq))
        assert isinstance(vqvae, VQModel)
        module = Dimoo(language, vqvae)
    except (*BROKEN, TypeError) as err:
        raise InputError(f"describes no Lumina-DiMOO model: {brief(err)}", file="config.json") from None
    sizes = {f"language.{name}": p.numel() for name, p in language.named_parameters()}
    parts = dict(module.named_modules())
    adaptable: dict[str, int] = {name: sum(parts[name].weight.shape) for name in adaptable_layers(module)}  # pyright: ignore
    linear = [part.weight.numel() for part in module.modules() if isinstance(part, nn.Linear)]
    channels, size = list(vqvae.config["block_out_channels"]), module.image_size
    # Upsampling comes before a level narrows its channels, so a map may be as wide as the level before.
    wide = [*channels, channels[-1]]
    return Dims(
        config=config,
        side=module.codes_per_side,
        codebook=module.codebook,
        pixels=size,
        decoder=max((size // 2**i) ** 2 * max(wide[i], wide[i + 1]) for i in range(len(channels))),
        parameters=sum(p.numel() for p in module.parameters()),
        trained=sum(sizes.values()),
        largest=max(sizes.values()),
        matrices=sum(linear),
        layers=config.n_layers,
        layer=sum(p.numel() for p in language.blocks[0].parameters()),
        linear=sum(part.weight.numel() for part in language.blocks.modules() if isinstance(part, nn.Linear)),
        sizes=sizes,
        adaptable=adaptable,
    )


def estimate(d: Dims, work: Workload) -> Stages:
    """See `memory.Planner`: per stage, what is alive at its peak."""
    rollout = {side: partial(_rollout, d, work, side) for side in Side}
    update = {side: partial(_update, d, work, side) for side in Side}
    return stages_of(d, work, rollout, update)


@dataclass(frozen=True)
class _Rows:
    """What a side's forwards read."""

    length: int
    slots: int
    outputs: int
    """Ids of the slice."""
    plan: list[decode.Step]
    guided: bool


def _rows(d: Dims, work: Workload, side: Side, guided: bool) -> _Rows:
    c = d.config
    if side is Side.UNDERSTANDING:
        slots = work.spec.max_new_tokens
        length = d.image + work.text_tokens + slots + BRACKETS
        return _Rows(length, slots, c.image_offset, decode.text_steps(slots, c.text_steps, c.text_block), False)
    slots = d.side**2
    length = work.text_tokens + d.image + BRACKETS
    return _Rows(length, slots, d.codebook, decode.image_steps(slots, c.image_steps), guided)


def working_bytes(d: Dims, bf16: bool) -> int:
    """What a layer has in hand of one token without a backward: states and their norms, the MLP's three."""
    return 24 * d.config.d_model + width_of(bf16) * 3 * d.config.mlp_hidden_size


def kept_bytes(d: Dims, bf16: bool) -> int:
    """What one layer keeps of one token for its backward pass.

    Of two norms the input and the result, and the state between them; turned queries and keys, values, the result of
    attention and what its linear layer reads; the gate, its activation, the other product and both's. Autocast copies
    what linear layers read.
    """
    c, width = d.config, width_of(bf16)
    copies = 2 * 2 * c.d_model if bf16 else 0
    return 20 * c.d_model + copies + width * (5 * c.d_model + 4 * c.mlp_hidden_size) + 4 * c.n_heads


def _copies(d: Dims, work: Workload, outputs: int) -> Parts:
    """Autocast's copies of the weights that a call has used, which live until it returns."""
    head = outputs * d.config.d_model
    return {"bf16 weights": 2 * (work.adapters or d.linear + head)} if work.bf16 else {}


def _rollout(d: Dims, work: Workload, side: Side) -> Iterator[Parts]:
    """The widest step: all rows of a part, with the states and the logits of its slots; then pixels of 32 images."""
    rows = _rows(d, work, side, work.spec.guidance > 1)
    wanted = work.prompts * work.rollouts
    part = min(wanted, max(1, decode.TOKENS // (rows.length * (1 + rows.guided))))
    tokens, copies = part * rows.length, _copies(d, work, rows.outputs)
    drawn = rows.slots if d.config.order == "confidence" else max(step.count for step in rows.plan)
    kept = {"drawn": wanted * rows.slots * 32 + part * rows.slots * 8 * (2 * len(rows.plan))}
    width, number = width_of(work.bf16), part * drawn * rows.outputs
    first = number * width if rows.guided else 0
    yield (
        copies | kept | {"activations": tokens * (working_bytes(d, work.bf16) + 8 * d.config.d_model), "logits": first}
    )
    # Logits, fp32 log-probs of one or two distributions, and the fp64 sum that is drawn from with what it sums.
    yield copies | kept | {"logits": number * ((width + 4) * (1 + rows.guided) + 16)}
    if side is Side.GENERATION:
        batch = min(wanted, PIXEL_BATCH)
        yield kept | {"pixels": batch * (DECODER_MAPS * 4 * d.decoder + 24 * d.pixels**2) + wanted * 3 * d.pixels**2}
    else:
        yield kept | {"pixels": DECODER_MAPS * 4 * d.decoder + 24 * d.pixels**2}


def _update(d: Dims, work: Workload, side: Side) -> Iterator[Parts]:
    """Forwards of a chunk's rows and groups, with all activations alive; backward through head and last layer."""
    rows = _rows(d, work, side, work.spec.logprob_mode == "cfg" and work.spec.guidance > 1)
    groups = _groups(d, rows, side)
    each = rows.length * (1 + rows.guided)
    wanted = min(work.micro_batch, work.prompts * work.rollouts)
    whole = not work.micro_tokens or each * groups <= work.micro_tokens
    together = groups if whole else 1
    size = min(wanted, max(1, work.micro_tokens // (each * together))) if work.micro_tokens else wanted
    tokens, c, bf16 = size * together * each, d.config, work.bf16
    actions = size * (rows.slots if whole else max(step.count for step in rows.plan))
    gradient = 6 if bf16 else 4  # autocast's gradients are bf16 before they are added up
    depth, layer = (1 if work.checkpointing else c.n_layers), tokens * kept_bytes(d, bf16)
    inputs = tokens * 4 * c.d_model * c.n_layers if work.checkpointing else 0
    copies = _copies(d, work, rows.outputs)
    ends = tokens * 16 * c.d_model + actions * (1 + rows.guided) * c.d_model * 8
    logits = min(actions, max(1, LOGITS // rows.outputs)) * rows.outputs
    trains = not work.adapters  # frozen weights have no gradient
    per_logit = (26 if rows.guided else 12) if bf16 else (16 if rows.guided else 4)
    yield copies | {
        "activations": ends + inputs + (0 if work.checkpointing else layer * depth),
        "logits": logits * per_logit,
        "a weight's gradient": trains * c.embedding_size * c.d_model * 4,
    }
    yield copies | {
        "activations": ends + inputs + layer * depth + tokens * 8 * c.d_model,
        "a weight's gradient": trains * c.d_model * c.mlp_hidden_size * gradient,
    }
    yield {"a weight's gradient": trains * c.embedding_size * c.d_model * 4}


def _groups(d: Dims, rows: _Rows, side: Side) -> int:
    """Forwards that score a row."""
    c = d.config
    if c.estimator != "trace":
        return 2 if c.estimator == "coupled" else 1
    steps = len(rows.plan)
    return min(c.scored_image_steps or steps, steps) if side is Side.GENERATION else steps


class DimooPlanner:
    """See `memory.Planner`."""

    def __init__(self, path_or_hub_id: str, sampler_options: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Reads the configs alone.

        Raises:
            InputError: one is not there or describes no such model, or a setting is wrong.
        """
        source = resolve_model(path_or_hub_id)
        try:
            known = is_known(source)
            config = DimooConfig() if known else DimooConfig.from_pretrained(source)
            # Of a folder without this subfolder diffusers would read the other config.json.
            local = isinstance(source, Path)
            if known:
                vq: Any = VQModel(**VQ).config
            else:
                vq = VQModel.load_config(source / VQVAE) if local else VQModel.load_config(source, subfolder=VQVAE)
        except BROKEN as err:
            raise InputError(f"cannot be read as a Lumina-DiMOO model: {brief(err)}", file=source) from None
        assert isinstance(vq, Mapping)
        set_fields(config, sampler_options)
        try:
            self.dims = dims(config, vq)
        except InputError as err:
            raise InputError(err.message, file=path_or_hub_id) from None
        self.parameters, self.trained = self.dims.parameters, self.dims.trained
        self.sizes, self.adaptable = self.dims.sizes, self.dims.adaptable

    def estimate(self, work: Workload) -> Stages:
        return estimate(self.dims, work)

    def prompts(self, policy: DimooPolicy, side: Side, work: Workload) -> list[Prompt]:
        seen = self.dims.image if side is Side.UNDERSTANDING else 0

        def tokens(prompt: Prompt) -> int:
            return len(policy.prompts.encode(side, [prompt]).ids[0]) - seen

        return made_up(side, work, policy.image_size, tokens)
