"""The language models of the released Janus-Pro checkpoints in numbers, so that a plan needs no network.

Facts of their config.json (`text_config`) on the Hub; all else has the defaults of JanusConfig, but for the
widths into which the aligners project, which are the language model's. tests/test_configs.py holds the parameter
counts of the models that these build against the published ones.
"""

from typing import Any

from huggingface_hub import try_to_load_from_cache
from transformers import JanusConfig

_SHARED = {"model_type": "llama", "vocab_size": 102400, "max_position_embeddings": 16384}
# Hidden and intermediate width, layers, heads.
NUMBERS = {
    "deepseek-community/Janus-Pro-1B": (2048, 5632, 24, 16),
    "deepseek-community/Janus-Pro-7B": (4096, 11008, 30, 32),
}


def known_config(hub_id: str) -> JanusConfig | None:
    """The config of a released checkpoint; None for another one, and for one whose own config.json is in the cache."""
    if hub_id not in NUMBERS or isinstance(try_to_load_from_cache(hub_id, "config.json"), str):
        return None
    hidden, intermediate, layers, heads = NUMBERS[hub_id]
    text: dict[str, Any] = {"hidden_size": hidden, "intermediate_size": intermediate, **_SHARED}
    text |= {"num_hidden_layers": layers, "num_attention_heads": heads}
    vq = {"projection_dim": hidden, "image_token_embed_dim": hidden}
    config = JanusConfig(text_config=text, vision_config={"projection_dim": hidden}, vq_config=vq)
    config.tie_word_embeddings = False  # as in load.py
    return config
