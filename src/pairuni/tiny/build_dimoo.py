"""Builds small Lumina-DiMOO models: the released one scaled down, with its own small vocabulary."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.autoencoders.vq_model import VQModel
from transformers import PreTrainedTokenizerFast

from pairuni.policies.dimoo.model import Dimoo, DimooConfig, DimooModel
from pairuni.policies.dimoo.prompts import EDIT, GENERATE, UNDERSTAND
from pairuni.streams import Stream, number, seed_torch
from pairuni.tiny.build_janus import train_bpe

# In the order of their ids, the image codes behind the last.
SPECIALS = {
    "eos_id": "<|endoftext|>",
    "newline_id": "<newline>",
    "mask_token_id": "<|mdm_mask|>",
    "padding_id": "<padding>",
    "image_id": "<IMAGE>",
    "image_end_id": "</IMAGE>",
    "uncondition_id": "<uncondition>",
    "answer_id": "<answer>",
    "answer_end_id": "</answer>",
}
ROLES = ("<system>", "</system>", "<user>", "</user>")
SYSTEMS = (UNDERSTAND, GENERATE, EDIT)
"""Each is one token in a small vocabulary, because as text they would be a third of a short prompt."""


@dataclass(frozen=True)
class DimooSize:
    """Dimensions of a small Lumina-DiMOO."""

    image: int = 48
    """Side of the square images, pixels."""
    codebook: int = 128
    """VQ entries."""
    hidden: int = 160
    layers: int = 5
    heads: int = 4
    intermediate: int = 432
    vq_channels: tuple[int, ...] = (32, 32, 32, 64)
    """Channels at each resolution, multiples of 8; an image code is 2 ** (len - 1) pixels wide."""
    vq_latent: int = 16
    vocabulary: int = 512
    """Text ids, special ones included."""
    image_steps: int = 12
    text_steps: int = 2
    text_block: int = 0
    rope_theta: float = 500.0


def build_tokenizer(corpus: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on `corpus`, with the special tokens and the system prompts last."""
    tokenizer = train_bpe(corpus, vocabulary - len(SPECIALS) - len(ROLES) - len(SYSTEMS))
    tokenizer.add_special_tokens([*SPECIALS.values(), *ROLES])
    tokenizer.add_tokens(list(SYSTEMS))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=SPECIALS["eos_id"], pad_token=SPECIALS["padding_id"], padding_side="right"
    )


def build_dimoo(size: DimooSize, corpus: Iterable[str], seed: int) -> tuple[Dimoo, PreTrainedTokenizerFast]:
    """A model with random weights, and its tokenizer."""
    tokenizer = build_tokenizer(corpus, size.vocabulary)
    ids: dict[str, Any] = {field: int(tokenizer.get_vocab()[name]) for field, name in SPECIALS.items()}
    config = DimooConfig(
        d_model=size.hidden,
        n_layers=size.layers,
        n_heads=size.heads,
        mlp_hidden_size=size.intermediate,
        embedding_size=len(tokenizer) + size.codebook,
        rope_theta=size.rope_theta,
        image_offset=len(tokenizer),
        image_size=size.image,
        image_steps=size.image_steps,
        text_steps=size.text_steps,
        text_block=size.text_block,
        **ids,
    )
    levels = len(size.vq_channels)
    with torch.random.fork_rng(devices=[]):
        seed_torch(number(seed, Stream.PRETRAIN_WEIGHTS))
        vqvae = VQModel(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=size.vq_channels,
            layers_per_block=1,
            latent_channels=size.vq_latent,
            num_vq_embeddings=size.codebook,
            vq_embed_dim=size.vq_latent,
            norm_num_groups=8,
            mid_block_add_attention=False,
            lookup_from_codebook=True,
        )
        return Dimoo(DimooModel(config), vqvae), tokenizer
