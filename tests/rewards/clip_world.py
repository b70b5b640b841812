"""A tiny CLIP in open_clip's layout with a tokenizer, and the same forward pass written out in plain torch."""

from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTokenizer

HEADS = 16
START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = ["r e", "re d</w>", "c i", "d o", "do g</w>"]


def make_tokenizer() -> CLIPTokenizer:
    """As CLIP's vocabulary is laid out: bytes, bytes at a word's end, merged pairs, start, end."""
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *(merge.replace(" ", "") for merge in MERGES)]
    vocabulary = {token: n for n, token in enumerate([*tokens, START, END])}
    return CLIPTokenizer(vocab=vocabulary, merges=[tuple(merge.split()) for merge in MERGES])


VOCABULARY = len(make_tokenizer())


def make_tensors(side: int = 224, patch: int = 56, seed: int = 0) -> dict[str, Tensor]:
    """Random weights of two layers per tower, the two towers of different width, with the keys of an open_clip CLIP."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * (0.6 if len(shape) < 2 else 1.5 * shape[-1] ** -0.5)

    vision, text, embed = 64, 32, 24
    tensors = {
        "positional_embedding": draw(77, text),
        "text_projection": draw(text, embed),
        "logit_scale": torch.tensor(4.6),
        "token_embedding.weight": draw(VOCABULARY, text),
        "visual.class_embedding": draw(vision),
        "visual.positional_embedding": draw((side // patch) ** 2 + 1, vision),
        "visual.proj": draw(vision, embed),
        "visual.conv1.weight": draw(vision, 3, patch, patch) / patch,
    }
    norms = {"ln_final": text, "visual.ln_pre": vision, "visual.ln_post": vision}
    for prefix, width in (("visual.transformer", vision), ("transformer", text)):
        for layer in range(2):
            block = f"{prefix}.resblocks.{layer}"
            norms |= {f"{block}.ln_1": width, f"{block}.ln_2": width}
            tensors[f"{block}.attn.in_proj_weight"] = draw(3 * width, width)
            tensors[f"{block}.attn.in_proj_bias"] = draw(3 * width)
            for name, rows, columns in (
                ("attn.out_proj", width, width),
                ("mlp.c_fc", 3 * width, width),
                ("mlp.c_proj", width, 3 * width),
            ):
                tensors[f"{block}.{name}.weight"], tensors[f"{block}.{name}.bias"] = draw(rows, columns), draw(rows)
    for name, width in norms.items():
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = 1 + draw(width), draw(width)
    return tensors


def save_hps(folder: Path, tensors: dict[str, Tensor], name: str = "HPS_v2.1_compressed.pt") -> Path:
    """The checkpoint as HPSv2 publishes it, with a tokenizer in tokenizer/ beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"epoch": 1, "name": "x", "state_dict": tensors}, folder / name)
    make_tokenizer().save_pretrained(folder / "tokenizer")
    return folder / name


def image_features(tensors: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """[n, 3, S, S] -> [n, embed], from the layout's own definition."""
    kernel = tensors["visual.conv1.weight"]
    patches = functional.conv2d(pixels, kernel, stride=kernel.shape[-1]).flatten(2).transpose(1, 2)
    start = tensors["visual.class_embedding"].expand(len(pixels), 1, -1)
    x = torch.cat([start, patches], dim=1) + tensors["visual.positional_embedding"]
    x = _blocks(tensors, "visual.transformer", _norm(tensors, "visual.ln_pre", x), causal=False)
    return _norm(tensors, "visual.ln_post", x[:, 0]) @ tensors["visual.proj"]


def text_features(tensors: dict[str, Tensor], ids: Tensor) -> Tensor:
    """int64 [n, 77] -> [n, embed], read at the largest id."""
    x = tensors["token_embedding.weight"][ids] + tensors["positional_embedding"]
    x = _norm(tensors, "ln_final", _blocks(tensors, "transformer", x, causal=True))
    return x[torch.arange(len(ids)), ids.argmax(dim=1)] @ tensors["text_projection"]


def _norm(tensors: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    scaled = centred / torch.sqrt(centred.square().mean(dim=-1, keepdim=True) + 1e-5)
    return scaled * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]


def _linear(tensors: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]


def _blocks(tensors: dict[str, Tensor], prefix: str, x: Tensor, causal: bool) -> Tensor:
    for layer in range(2):
        block = f"{prefix}.resblocks.{layer}"
        y = _norm(tensors, f"{block}.ln_1", x)
        fused = y @ tensors[f"{block}.attn.in_proj_weight"].T + tensors[f"{block}.attn.in_proj_bias"]
        n, length, width = y.shape
        query, key, value = (part.view(n, length, HEADS, -1).transpose(1, 2) for part in fused.split(width, dim=-1))
        logits = query @ key.transpose(2, 3) / (width // HEADS) ** 0.5
        if causal:
            logits = logits + torch.full((length, length), float("-inf")).triu(1)
        mixed = (logits.softmax(dim=-1) @ value).transpose(1, 2).reshape(n, length, width)
        x = x + _linear(tensors, f"{block}.attn.out_proj", mixed)
        y = _linear(tensors, f"{block}.mlp.c_fc", _norm(tensors, f"{block}.ln_2", x))
        x = x + _linear(tensors, f"{block}.mlp.c_proj", 0.5 * y * (1 + torch.erf(y / 2**0.5)))
    return x
