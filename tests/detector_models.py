"""Small random models of the GenEval detector, as folders that it loads."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPConfig,
    CLIPModel,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    PreTrainedTokenizerFast,
    SwinConfig,
)

from pairuni.rewards.object_detector import CLASSES, COLOURS


def write_detector(folder: Path) -> Path:
    """`folder`/mask2former and `folder`/clip."""
    torch.manual_seed(0)
    swin = SwinConfig(
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        window_size=4,
        image_size=64,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    width = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 32}
    size = {
        "encoder_layers": 1,
        "decoder_layers": 2,
        "num_attention_heads": 2,
        "dim_feedforward": 32,
        "num_queries": 12,
    }
    config = Mask2FormerConfig(backbone_config=swin.to_dict(), num_labels=80, **width, **size)
    model = Mask2FormerForUniversalSegmentation(config)
    with torch.no_grad():
        model.class_predictor.weight.normal_(0, 3)  # some queries are sure of a class
    model.save_pretrained(folder / "mask2former")
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = {
        word: n for n, word in enumerate(["<pad>", "<end>", "a", "photo", "of", "object", "-", "colored", *COLOURS])
    }
    words |= {
        word: len(words) + n for n, word in enumerate({w for name in CLASSES for w in name.split()} - words.keys())
    }
    text = tower | {"vocab_size": len(words), "eos_token_id": 1, "pad_token_id": 0, "max_position_embeddings": 32}
    vision = tower | {"image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).save_pretrained(folder / "clip")
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>")
    fast.save_pretrained(folder / "clip")
    return folder
