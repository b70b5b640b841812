"""From a checkpoint (folder or hub id) to a Lumina-DiMOO policy, with one clear message for whatever is wrong with it.

Master weights are fp32 whatever the file holds. The transformer and its tokenizer lie in the folder, the image
tokenizer in `vqvae/` below it.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffusers.models.autoencoders.vq_model import VQModel
from huggingface_hub import snapshot_download
from safetensors import safe_open
from transformers import PreTrainedTokenizerFast

from pairuni.errors import InputError
from pairuni.files import read_json
from pairuni.policies.dimoo.model import Dimoo, DimooConfig, DimooModel
from pairuni.policies.dimoo.policy import VQVAE, DimooPolicy
from pairuni.policies.source import loading, open_checkpoint, refuse_broken

# What the released model has, and this one is written for: a checkpoint that says otherwise would be read wrongly.
FIXED = {
    "activation_type": "silu",
    "block_type": "llama",
    "layer_norm_type": "rms",
    "rope": True,
    "alibi": False,
    "weight_tying": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "attention_layer_norm": False,
    "scale_logits": False,
    "multi_query_attention": False,
}

SAMPLER_OPTIONS = (
    "image_steps",
    "scored_image_steps",
    "text_steps",
    "text_block",
    "order",
    "estimator",
    "masked_prompt",
    "cached_share",
)
"""How rollouts are drawn and scored: what `model.sampler_options` may say otherwise than the checkpoint."""


def load_dimoo(
    path_or_hub_id: str | Path,
    *,
    device: str = "auto",
    precision: str = "auto",
    cuda_graphs: bool = True,
    sampler_options: Mapping[str, Any] = MappingProxyType({}),
) -> DimooPolicy:
    """Loads a Lumina-DiMOO checkpoint, as `load_policy` says.

    Args:
        cuda_graphs: of no use here: a step is one large forward.
        sampler_options: other values for those of the config's fields that SAMPLER_OPTIONS names.

    Raises:
        InputError: a file is missing, broken, incomplete or of another model; an unknown device or precision.
    """
    found = open_checkpoint(path_or_hub_id, DimooConfig.model_type, device, precision)
    source = found.source
    with loading(source, "Lumina-DiMOO"):
        folder = source if isinstance(source, Path) else Path(snapshot_download(source))
        config = DimooConfig.from_pretrained(folder)
        set_fields(config, sampler_options)
        config.embedding_size = _rows(folder, "model.transformer.wte.weight") or config.embedding_size
        _check(config, source)
        loaded = DimooModel.from_pretrained(folder, config=config, dtype=torch.float32, output_loading_info=True)
        assert isinstance(loaded, tuple)
        language, info = loaded
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        module = Dimoo(language, VQModel.from_pretrained(folder, subfolder=VQVAE, torch_dtype=torch.float32))
        refuse_broken(module.named_parameters(), info["missing_keys"], source)
        policy = DimooPolicy(module.eval(), tokenizer, found.precision)
    module.to(found.device)
    return policy


def set_fields(config: DimooConfig, sampler_options: Mapping[str, Any]) -> None:
    """Raises InputError: a name that is not in SAMPLER_OPTIONS, or a value that it cannot have."""
    for name, value in sampler_options.items():
        if name not in SAMPLER_OPTIONS:
            raise InputError(f"is none of {', '.join(SAMPLER_OPTIONS)}", field=f"model.sampler_options.{name}")
        setattr(config, name, value)
        if name in config.problems():
            raise InputError(config.problems()[name], field=f"model.sampler_options.{name}")


def _rows(folder: Path, name: str) -> int:
    """Of a weight, as the file has it, 0 where there is none: config.json may give the vocabulary before padding."""
    index = folder / "model.safetensors.index.json"
    file = read_json(index)["weight_map"].get(name) if index.is_file() else "model.safetensors"
    if file is None or not (folder / file).is_file():
        return 0
    with safe_open(folder / file, "pt") as weights:
        return int(weights.get_slice(name).get_shape()[0]) if name in weights.keys() else 0  # noqa: SIM118


def _check(config: DimooConfig, source: str | Path) -> None:
    """Raises InputError: the config describes a model that this code would compute wrongly."""
    said = config.to_dict()
    for name, value in FIXED.items():
        if said.get(name) not in (value, None):
            raise InputError(f"is {said[name]!r}; only {value!r} is supported", file=source, field=name)
    heads = said.get("n_kv_heads") or config.n_heads
    if heads != config.n_heads:
        raise InputError(f"is {heads}; only n_heads ({config.n_heads}) is supported", file=source, field="n_kv_heads")
    if config.image_offset >= config.embedding_size:
        message = f"is {config.image_offset}, but there are {config.embedding_size} ids"
        raise InputError(message, file=source, field="image_offset")
    for name, problem in config.problems().items():
        raise InputError(problem, file=source, field=name)
