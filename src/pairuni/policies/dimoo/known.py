"""The released Lumina-DiMOO in numbers, so that a plan needs no network: facts of its two config.json on the Hub.

The transformer's are DimooConfig's defaults; those of its image tokenizer (vqvae/) stand here.
"""

from typing import Any

from huggingface_hub import try_to_load_from_cache

RELEASED = "Alpha-VLLM/Lumina-DiMOO"
VQ: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 5,
    "up_block_types": ("UpDecoderBlock2D",) * 5,
    "block_out_channels": (128, 256, 256, 512, 768),
    "layers_per_block": 2,
    "latent_channels": 64,
    "num_vq_embeddings": 8192,
    "mid_block_add_attention": False,
    "lookup_from_codebook": True,
}


def is_known(hub_id: object) -> bool:
    """Whether it is the released model, and its own config.json is not in the cache."""
    return hub_id == RELEASED and not isinstance(try_to_load_from_cache(RELEASED, "config.json"), str)
