"""A Janus model in numbers, from its config.json alone: widths, counts, the parameters by name. No weights are loaded.

What they mean for memory is memory.py.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import JanusConfig, JanusForConditionalGeneration

from pairuni.errors import InputError
from pairuni.policies.janus.known import known_config
from pairuni.policies.janus.policy import LANGUAGE
from pairuni.policies.source import BROKEN, brief, resolve_model

_UNBUILDABLE = (*BROKEN, TypeError, ZeroDivisionError)


@dataclass(frozen=True)
class Dims:
    """A Janus model in numbers."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    attention: int
    """Width of all query heads together."""
    keys: int
    """Width of all key heads together, and of all value heads."""
    vocabulary: int
    codes: int
    image_codes: int
    """Codes of an image that is drawn."""
    image_tokens: int
    """Tokens of an image that is looked at."""
    pixels: int
    """Side of an image."""
    vision_hidden: int
    vision_intermediate: int
    decoder: int
    """Values of the largest feature map of the pixel decoder, per image."""
    parameters: int
    trained: int
    largest: int
    """Parameters of the largest trained matrix."""
    linear: int
    """Parameters of the language model's linear layers: those that autocast copies."""
    text_head: int
    code_head: int
    vision_linear: int
    """Parameters of the vision encoder's linear layers."""
    matrices: int
    """Parameters of all linear layers, towers included."""
    layer: int
    """Parameters of one layer of the language model."""
    sizes: dict[str, int]
    """Numbers in each parameter that can be trained, by its name."""
    adaptable: dict[str, int]
    """Inputs and outputs together of each layer that can get an adapter, by its name."""


def load_config(path_or_hub_id: str) -> JanusConfig:
    """The config of a Janus checkpoint, from its config.json alone; of a released one without asking the Hub.

    Raises:
        InputError: it is not one, or describes no model that can be built.
    """
    source = resolve_model(path_or_hub_id)
    known = known_config(source) if isinstance(source, str) else None
    if known is not None:
        return known
    try:
        config = JanusConfig.from_pretrained(source)
        config.tie_word_embeddings = False  # as in load.py
        return config
    except _UNBUILDABLE as err:
        raise InputError(f"cannot be read as a Janus config: {brief(err)}", file=source) from None


def dims(config: JanusConfig) -> Dims:
    """Numbers of the model that a config describes. Parameters are counted on a model without memory.

    Raises:
        InputError: no model can be built from the config.
    """
    try:
        with torch.device("meta"):
            module = JanusForConditionalGeneration(config)
    except _UNBUILDABLE as err:
        raise InputError(f"describes no Janus model: {brief(err)}", file="config.json") from None
    inner = module.model
    parts: tuple[Any, Any, Any] = config.text_config, config.vision_config, config.vq_config
    text, vision, vq = parts
    frozen = {id(p) for tower in (inner.vision_model, inner.vqmodel) for p in tower.parameters()}
    sizes = {name: p.numel() for name, p in module.named_parameters() if id(p) not in frozen}
    linear = {name: part for name, part in module.named_modules() if type(part) is nn.Linear}
    adaptable = {n: p.in_features + p.out_features for n, p in linear.items() if n.startswith(LANGUAGE)}
    side = vq.num_patches * 2 ** (len(vq.channel_multiplier) - 1)
    return Dims(
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        layers=text.num_hidden_layers,
        heads=text.num_attention_heads,
        attention=text.num_attention_heads * text.head_dim,
        keys=text.num_key_value_heads * text.head_dim,
        vocabulary=text.vocab_size,
        codes=vq.num_embeddings,
        image_codes=vq.num_patches**2,
        image_tokens=inner.vision_model.embeddings.num_patches,
        pixels=side,
        vision_hidden=vision.hidden_size,
        vision_intermediate=int(vision.hidden_size * vision.mlp_ratio),
        decoder=_largest_map(vq.base_channels, list(vq.channel_multiplier), side),
        parameters=_count(module),
        trained=sum(sizes.values()),
        largest=max(sizes.values()),
        linear=sum(_count(part) for part in inner.language_model.modules() if isinstance(part, nn.Linear)),
        text_head=_count(module.lm_head),
        code_head=_count(inner.generation_head),
        vision_linear=sum(_count(part) for part in inner.vision_model.modules() if isinstance(part, nn.Linear)),
        matrices=sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Linear)),
        layer=_count(inner.language_model.layers[0]),
        sizes=sizes,
        adaptable=adaptable,
    )


def _largest_map(base: int, multipliers: list[int], side: int) -> int:
    """Upsampling comes before a level narrows its channels, so a map may be as wide as the level before."""
    wide = [*multipliers, multipliers[-1]]
    levels = range(len(multipliers))
    return max((side // 2**i) ** 2 * base * max(wide[i], wide[i + 1]) for i in levels)


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
