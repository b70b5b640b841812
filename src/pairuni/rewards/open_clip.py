"""A CLIP checkpoint in open_clip's layout as a transformers CLIPModel; HPSv2 is published in this layout.

Sizes are read from the tensors, except the number of heads, which they do not tell. Every key must be there and be
used: a checkpoint that fits only in part would score at random without a word.
"""

import math
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pairuni.errors import InputError

HEADS = 16
"""Of both towers of ViT-H-14 (1280 and 1024 wide)."""
# In a block: transformers' name -> open_clip's. The query, key and value of attention are one tensor there.
_BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


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
    used: set[str] = set()
    converted = {}
    for name, shape in shapes.items():
        key, change = _source(name)
        value = change(_tensor(tensors, key, source))
        if tuple(value.shape) != shape:
            message = f"makes {name} {list(value.shape)}, but the other tensors ask for {list(shape)}"
            raise InputError(message, file=source, field=key)
        converted[name] = value.to(torch.float32).contiguous()
        used.add(key)
    left = sorted(tensors.keys() - used)
    if left:
        raise InputError("is no key of a CLIP of this size", file=source, field=left[0])
    loaded: Any = CLIPModel.from_pretrained(
        None, config=config, state_dict=converted, dtype=torch.float32, output_loading_info=True
    )
    model, report = loaded
    assert not report["missing_keys"] and not report["unexpected_keys"], report
    return model.eval()


def _config(tensors: Mapping[str, Tensor], source: str | Path, heads: int) -> Any:
    from transformers import CLIPConfig

    def size(key: str, axis: int, dimensions: int) -> int:
        tensor = _tensor(tensors, key, source)
        if tensor.ndim != dimensions:
            raise InputError(f"has {tensor.ndim} dimensions, not {dimensions}", file=source, field=key)
        return tensor.shape[axis]

    patch, places = size("visual.conv1.weight", 3, 4), size("visual.positional_embedding", 0, 2) - 1
    grid = math.isqrt(max(places, 0))
    if grid == 0 or grid * grid != places:
        message = f"has {places} places beside the class token, which is no square"
        raise InputError(message, file=source, field="visual.positional_embedding")
    vision = {
        "hidden_size": size("visual.conv1.weight", 0, 4),
        "intermediate_size": size("visual.transformer.resblocks.0.mlp.c_fc.weight", 0, 2),
        "num_hidden_layers": _layers(tensors, "visual.transformer."),
        "patch_size": patch,
        "image_size": grid * patch,
    }
    text = {
        "hidden_size": size("token_embedding.weight", 1, 2),
        "intermediate_size": size("transformer.resblocks.0.mlp.c_fc.weight", 0, 2),
        "num_hidden_layers": _layers(tensors, "transformer."),
        "vocab_size": size("token_embedding.weight", 0, 2),
        "max_position_embeddings": size("positional_embedding", 0, 2),
        # transformers takes this number, a mistake of early configs, as: read at the largest id, as open_clip does.
        "eos_token_id": 2,
    }
    embed = size("visual.proj", 1, 2)
    for tower, key in ((vision, "visual.conv1.weight"), (text, "token_embedding.weight")):
        if tower["hidden_size"] % heads:
            message = f"is {tower['hidden_size']} wide, which {heads} heads do not divide"
            raise InputError(message, file=source, field=key)
        tower |= {"num_attention_heads": heads, "hidden_act": "gelu", "projection_dim": embed}
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=embed)


def _layers(tensors: Mapping[str, Tensor], prefix: str) -> int:
    start = f"{prefix}resblocks."
    return len({key.removeprefix(start).split(".")[0] for key in _starting(tensors, start)})


def _starting(tensors: Mapping[str, Tensor], start: str) -> Iterator[str]:
    return (key for key in tensors if key.startswith(start))


def _tensor(tensors: Mapping[str, Tensor], key: str, source: str | Path) -> Tensor:
    if key not in tensors:
        raise InputError("is missing", file=source, field=key)
    return tensors[key]


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.transpose(0, -1)


_WHOLE: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "logit_scale": ("logit_scale", _same),
    "text_projection.weight": ("text_projection", _transposed),
    "visual_projection.weight": ("visual.proj", _transposed),
    "text_model.embeddings.token_embedding.weight": ("token_embedding.weight", _same),
    "text_model.embeddings.position_embedding.weight": ("positional_embedding", _same),
    "vision_model.embeddings.class_embedding": ("visual.class_embedding", _same),
    "vision_model.embeddings.position_embedding.weight": ("visual.positional_embedding", _same),
    "vision_model.embeddings.patch_embedding.weight": ("visual.conv1.weight", _same),
}
# transformers misspells the first.
_NORMS = {
    "vision_model.pre_layrnorm": "visual.ln_pre",
    "vision_model.post_layernorm": "visual.ln_post",
    "text_model.final_layer_norm": "ln_final",
}


def _source(name: str) -> tuple[str, Callable[[Tensor], Tensor]]:
    """For a tensor of CLIPModel: open_clip's key and what makes the one of the other."""
    if name in _WHOLE:
        return _WHOLE[name]
    module, _, kind = name.rpartition(".")
    if module in _NORMS:
        return f"{_NORMS[module]}.{kind}", _same
    tower, _, place = module.partition(".encoder.layers.")
    number, _, part = place.partition(".")
    block = f"{'visual.' if tower == 'vision_model' else ''}transformer.resblocks.{number}"
    if part in _BLOCK:
        return f"{block}.{_BLOCK[part]}.{kind}", _same
    third = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj").index(part)
    return f"{block}.attn.in_proj_{kind}", lambda fused: fused.tensor_split(3)[third]
