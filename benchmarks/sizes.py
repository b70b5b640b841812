"""Random Janus models of the sizes that the speed benchmarks use; Janus-Pro's own dimensions need a GPU."""

import copy
from dataclasses import dataclass, replace

import torch
from transformers import JanusConfig, JanusForConditionalGeneration

from pairuni.policies.janus.policy import JanusPolicy
from pairuni.tiny.build_janus import JanusSize, build_config, build_janus, build_processor, build_tokenizer

JANUS_PRO_TOKENS = 102_400
_CORPUS = ("a photo of two red circles left of a blue square.", "What colour is it? A. red B. blue C. green D. black")


@dataclass(frozen=True)
class Model:
    """What is built: the parts of `JanusSize`, and the rows of the text vocabulary."""

    size: JanusSize
    vocabulary: int
    codebook: int = 16_384


_SMALL_VQ = {"vq_channels": 32, "vq_multipliers": (1, 1, 1, 1, 1), "vq_blocks": 1}
_MEDIUM = JanusSize(
    image=384,
    patch=16,
    hidden=512,
    layers=8,
    heads=8,
    intermediate=1408,
    vision_hidden=512,
    vision_layers=8,
    vision_heads=8,
    **_SMALL_VQ,  # pyright: ignore
)
_PRO = {"image": 384, "patch": 16, "vision_hidden": 1024, "vision_layers": 24, "vision_heads": 16}
_PRO |= {"vq_channels": 128, "vq_multipliers": (1, 1, 2, 2, 4), "vq_blocks": 2}
SIZES = {
    "shapes": Model(JanusSize(), 512, 128),
    "medium": Model(_MEDIUM, JANUS_PRO_TOKENS),
    "1b": Model(JanusSize(hidden=2048, layers=24, heads=16, intermediate=5632, **_PRO), JANUS_PRO_TOKENS),  # pyright: ignore
    "7b": Model(JanusSize(hidden=4096, layers=30, heads=32, intermediate=11008, **_PRO), JANUS_PRO_TOKENS),  # pyright: ignore
}


def janus_config(model: Model) -> JanusConfig:
    """The configuration of `model`, whose text vocabulary is wider than the small tokenizer's."""
    tokenizer = build_tokenizer(_CORPUS, 512)
    config = build_config(replace(model.size, codebook=model.codebook), tokenizer)
    config.text_config.vocab_size = max(model.vocabulary, len(tokenizer))  # pyright: ignore
    return config


def build(name: str, device: str, precision: str, dtype: torch.dtype = torch.float32) -> JanusPolicy:
    """A policy with random weights of transformers' usual scale, drawn on `device`."""
    model = SIZES[name]
    tokenizer = build_tokenizer(_CORPUS, 512)
    if name == "shapes":
        module, processor = build_janus(model.size, _CORPUS, 0)
        return JanusPolicy(module.to(device), processor, precision)  # pyright: ignore
    torch.manual_seed(0)
    with torch.device(device):
        module = JanusForConditionalGeneration(janus_config(model)).to(dtype)
    small, processor = build_janus(JanusSize(), _CORPUS, 0)  # its generation settings name the special tokens
    module.generation_config = copy.deepcopy(small.generation_config)
    processor = build_processor(model.size, tokenizer)
    return JanusPolicy(module.eval(), processor, precision)  # pyright: ignore
