"""Released checkpoints in numbers, so that a plan needs no network: facts of their config.json on the Hub.

All that is not said here has the defaults of the config classes. tests/test_configs.py holds the parameter counts of
the models that these build against the published ones.
"""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import try_to_load_from_cache


def _janus_pro(hidden: int, intermediate: int, layers: int, heads: int) -> dict[str, Any]:
    text = {"model_type": "llama", "vocab_size": 102400, "max_position_embeddings": 16384, "hidden_size": hidden}
    text |= {"intermediate_size": intermediate, "num_hidden_layers": layers, "num_attention_heads": heads}
    # The widths into which the aligners project are the language model's.
    vq = {"projection_dim": hidden, "image_token_embed_dim": hidden}
    return {"text_config": text, "vision_config": {"projection_dim": hidden}, "vq_config": vq}


_LUMINA_VQ = {
    "down_block_types": ("DownEncoderBlock2D",) * 5,
    "up_block_types": ("UpDecoderBlock2D",) * 5,
    "block_out_channels": (128, 256, 256, 512, 768),
    "layers_per_block": 2,
    "latent_channels": 64,
    "num_vq_embeddings": 8192,
    "mid_block_add_attention": False,
    "lookup_from_codebook": True,
}
CONFIGS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "deepseek-community/Janus-Pro-1B": ("janus", _janus_pro(2048, 5632, 24, 16)),
    "deepseek-community/Janus-Pro-7B": ("janus", _janus_pro(4096, 11008, 30, 32)),
    "Alpha-VLLM/Lumina-DiMOO": ("llada", {"vqvae": _LUMINA_VQ}),  # the transformer's are DimooConfig's defaults
}
"""Hub id -> model_type and config."""


def released(hub_id: object) -> Mapping[str, Any] | None:
    """The config of a released checkpoint; None for another one, and for one whose own config.json is in the cache."""
    if hub_id not in CONFIGS or isinstance(try_to_load_from_cache(str(hub_id), "config.json"), str):
        return None
    return CONFIGS[str(hub_id)][1]
