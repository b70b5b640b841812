"""Builds small Janus models: transformers' own class, a real byte-level BPE tokenizer and the real processor.

Offline: nothing is downloaded. Sizes obey the family's constraints: the VQ upsampling 2 ** (len(multipliers) - 1)
equals the vision patch, and the vision, VQ and language widths agree where the model joins them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, decoders, models, processors, trainers
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import (
    JanusConfig,
    JanusForConditionalGeneration,
    JanusProcessor,
    JanusVisionConfig,
    JanusVQVAEConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil

from pairuni.policies.janus.load import generation_config
from pairuni.streams import Stream, number, seed_torch

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
IMAGE, BOI, EOI, USER, ASSISTANT = (
    "<image_placeholder>",
    "<begin_of_image>",
    "<end_of_image>",
    "<|User|>",
    "<|Assistant|>",
)
EMBEDDING_STD, ROPE_THETA = 0.6, 30.0
"""A narrow model needs these to learn to look things up in its prompt (the letter before the right word): embeddings as
large as the layers' outputs, and rotary periods no longer than a prompt of some 200 tokens."""
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<|User|>: {% else %}<|Assistant|>: {% endif %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image_placeholder>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}"
    "{% if not loop.last or add_generation_prompt %}{{ '\\n\\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|>:{% endif %}"
)


@dataclass(frozen=True)
class JanusSize:
    """Dimensions of a small Janus. The defaults are the shipped Shapes model."""

    image: int = 48
    """Side of the square images, pixels."""
    patch: int = 8
    """Pixels per image token side, for the vision encoder and the VQ alike."""
    codebook: int = 128
    """VQ entries."""
    hidden: int = 160
    """Language model width."""
    layers: int = 5
    heads: int = 4
    intermediate: int = 432
    vision_hidden: int = 128
    vision_layers: int = 3
    vision_heads: int = 4
    vq_channels: int = 32
    """Base channels of the VQ, a multiple of 32 (its group norms)."""
    vq_multipliers: tuple[int, ...] = (1, 1, 1, 2)
    vq_blocks: int = 1
    vocabulary: int = 512

    def __post_init__(self) -> None:
        if 2 ** (len(self.vq_multipliers) - 1) != self.patch or self.image % self.patch:
            raise ValueError(f"2 ** (len(vq_multipliers) - 1) must equal patch and divide image: {self}")

    @property
    def tokens(self) -> int:
        """Tokens per image."""
        return (self.image // self.patch) ** 2


def train_bpe(corpus: Iterable[str], vocabulary: int, specials: Sequence[str] = ()) -> Tokenizer:
    """A byte-level BPE tokenizer trained on `corpus`; `specials` have the first ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(specials),
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def build_tokenizer(corpus: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with Janus' special tokens and left padding."""
    tokenizer = train_bpe(corpus, vocabulary, [PAD, BOS, EOS, IMAGE, BOI, EOI, USER, ASSISTANT])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="left",
        extra_special_tokens={"image_token": IMAGE, "boi_token": BOI, "eoi_token": EOI},
    )


def build_processor(size: JanusSize, tokenizer: PreTrainedTokenizerFast) -> JanusProcessor:
    """Janus' processor for `size`, with the hub checkpoints' 0.5 mean and std (the class default is CLIP's)."""
    images = JanusImageProcessorPil(
        size={"height": size.image, "width": size.image}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return JanusProcessor(images, tokenizer, chat_template=CHAT_TEMPLATE, num_image_tokens=size.tokens)


def build_config(size: JanusSize, tokenizer: PreTrainedTokenizerFast) -> JanusConfig:
    vision = JanusVisionConfig(
        hidden_size=size.vision_hidden,
        num_hidden_layers=size.vision_layers,
        num_attention_heads=size.vision_heads,
        image_size=size.image,
        patch_size=size.patch,
        projection_dim=size.hidden,
        num_image_tokens=size.tokens,
    )
    vq = JanusVQVAEConfig(
        num_embeddings=size.codebook,
        latent_channels=64,
        base_channels=size.vq_channels,
        channel_multiplier=list(size.vq_multipliers),
        num_res_blocks=size.vq_blocks,
        projection_dim=size.hidden,
        image_token_embed_dim=size.hidden,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        bos_token_id=_token_id(tokenizer, BOS),
        eos_token_id=_token_id(tokenizer, EOS),
        pad_token_id=_token_id(tokenizer, PAD),
    )
    # An untied head, as in Janus-Pro (the config class defaults to tied).
    return JanusConfig(
        text_config=text,
        vision_config=vision,
        vq_config=vq,
        image_token_id=_token_id(tokenizer, IMAGE),
        tie_word_embeddings=False,
    )


def _token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    number = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(number, int)  # a list only for a list of tokens
    return number


@torch.no_grad()
def widen(*parts: nn.Module) -> None:
    """Draws the weights of embeddings and linear layers at the scale of their inputs' width.

    transformers' fixed 0.02 suits widths of thousands; at 160 the layers' outputs are too small to learn from.
    """
    for layer in (layer for part in parts for layer in part.modules()):
        if isinstance(layer, nn.Embedding):
            layer.weight.normal_(std=EMBEDDING_STD)
        elif isinstance(layer, nn.Linear):
            layer.weight.normal_(std=layer.in_features**-0.5)


def build_janus(
    size: JanusSize, corpus: Iterable[str], seed: int
) -> tuple[JanusForConditionalGeneration, JanusProcessor]:
    """A random Janus in eval mode, and its processor; equal arguments give equal weights."""
    tokenizer = build_tokenizer(corpus, size.vocabulary)
    with torch.random.fork_rng(devices=[]):
        seed_torch(number(seed, Stream.PRETRAIN_WEIGHTS))
        model = JanusForConditionalGeneration(build_config(size, tokenizer))
        inner = model.model
        widen(inner.language_model, inner.aligner, inner.generation_embeddings, inner.generation_aligner)
    model.generation_config = generation_config(*(_token_id(tokenizer, token) for token in (BOS, EOS, PAD, BOI)))
    return model.eval(), build_processor(size, tokenizer)
