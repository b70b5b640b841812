"""Loads a CLIP checkpoint in open_clip's layout, in which HPSv2 is published, into transformers' CLIPModel.

transformers has no loader for this layout. Sizes are read from the tensors, except the number of heads, which they do
not tell. Every key must be there and be used: a checkpoint that fits only in part would score at random without a word.
"""

import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pairuni.errors import InputError

HEADS = 16
"""Attention heads of both towers of ViT-H-14 (1280 and 1024 wide)."""
_KEYS = {
    "vision_model.encoder.layers.": "visual.transformer.resblocks.",
    "text_model.encoder.layers.": "transformer.resblocks.",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
    "self_attn.q_proj.": "attn.in_proj_",
    "self_attn.k_proj.": "attn.in_proj_",
    "self_attn.v_proj.": "attn.in_proj_",
    "text_model.embeddings.token_embedding": "token_embedding",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm": "ln_final",
    "text_projection.weight": "text_projection",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.embeddings.patch_embedding": "visual.conv1",
    "vision_model.pre_layrnorm": "visual.ln_pre",  # transformers' spelling
    "vision_model.post_layernorm": "visual.ln_post",
    "visual_projection.weight": "visual.proj",
}
"""Part of a name in transformers -> in open_clip, where query, key and value of attention are one tensor."""


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a torch file (in its `state_dict`, where it has one).

    Raises:
        InputError: the file is absent or broken, or holds anything but tensors by name. Code in it is not run.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError("is not a file of tensors alone; it is not loaded", file=path) from None
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, SafetensorError) as err:
        raise InputError(f"cannot be read ({' '.join(str(err).split())[:200]})", file=path) from None
    if isinstance(loaded, Mapping) and "state_dict" in loaded:
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise InputError("holds no tensors by name", file=path)
    return {str(name): value for name, value in loaded.items()}


def build_clip(tensors: Mapping[str, Tensor], source: str | Path, heads: int = HEADS) -> Any:
    """transformers' CLIPModel (fp32, CPU, GELU, read at the largest token id) with these weights.

    Args:
        tensors: in open_clip's layout.
        source: where they come from, for messages.
        heads: attention heads of both towers.

    Raises:
        InputError: a key is missing, left over or of another shape; the message names the first.
    """
    from transformers import CLIPModel  # here, since it takes seconds

    config = _config(tensors, source, heads)
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in CLIPModel(config).state_dict().items()}
    used, converted = set(), {}
    for name, shape in shapes.items():
        key = name
        for ours, theirs in _KEYS.items():
            key = key.replace(ours, theirs)
        value = _tensor(tensors, key, source)
        if ".attn.in_proj_" in key:
            value = value.tensor_split(3)["qkv".index(name.partition("self_attn.")[2][0])]
        elif name.endswith("_projection.weight"):
            value = value.transpose(0, -1)
        if tuple(value.shape) != shape:
            message = f"makes {name} {list(value.shape)}, but the other tensors ask for {list(shape)}"
            raise InputError(message, file=source, field=key)
        converted[name] = value.to(torch.float32).contiguous()
        used.add(key)
    if left := sorted(tensors.keys() - used):
        raise InputError("is no key of a CLIP of this size", file=source, field=left[0])
    return CLIPModel.from_pretrained(None, config=config, state_dict=converted, dtype=torch.float32).eval()


def _config(tensors: Mapping[str, Tensor], source: str | Path, heads: int) -> Any:
    from transformers import CLIPConfig

    def size(key: str, axis: int, dimensions: int) -> int:
        tensor = _tensor(tensors, key, source)
        if tensor.ndim != dimensions:
            raise InputError(f"has {tensor.ndim} dimensions, not {dimensions}", file=source, field=key)
        return tensor.shape[axis]

    def tower(prefix: str, key: str, axis: int, dimensions: int) -> dict[str, Any]:
        """The options that both towers have; `key` and `axis` name the tensor that tells the width."""
        width, blocks = size(key, axis, dimensions), f"{prefix}transformer.resblocks."
        if width % heads:
            raise InputError(f"is {width} wide, which {heads} heads do not divide", file=source, field=key)
        return {
            "hidden_size": width,
            "intermediate_size": size(f"{blocks}0.mlp.c_fc.weight", 0, 2),
            "num_hidden_layers": len({k.removeprefix(blocks).split(".")[0] for k in tensors if k.startswith(blocks)}),
            "num_attention_heads": heads,
            "hidden_act": "gelu",
            "projection_dim": size("visual.proj", 1, 2),
        }

    patch, places = size("visual.conv1.weight", 3, 4), size("visual.positional_embedding", 0, 2) - 1
    grid = math.isqrt(max(places, 0))
    if grid == 0 or grid * grid != places:
        message = f"has {places} places beside the class token, which is no square"
        raise InputError(message, file=source, field="visual.positional_embedding")
    vision = tower("visual.", "visual.conv1.weight", 0, 4) | {"patch_size": patch, "image_size": grid * patch}
    text = tower("", "token_embedding.weight", 1, 2) | {
        "vocab_size": size("token_embedding.weight", 0, 2),
        "max_position_embeddings": size("positional_embedding", 0, 2),
        # transformers takes this number, a mistake of early configs, as: read at the largest id, as open_clip does.
        "eos_token_id": 2,
    }
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=vision["projection_dim"])


def _tensor(tensors: Mapping[str, Tensor], key: str, source: str | Path) -> Tensor:
    if key not in tensors:
        raise InputError("is missing", file=source, field=key)
    return tensors[key]
