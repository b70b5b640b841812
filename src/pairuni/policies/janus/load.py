"""From a checkpoint (folder or hub id) to a Janus policy, with one clear message for whatever is wrong with it.

Master weights are fp32 whatever the file holds; `precision` is that of the forward passes. No training settings here.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, JanusConfig, JanusForConditionalGeneration, JanusProcessor

from pairuni.errors import InputError
from pairuni.files import read_json
from pairuni.policies.janus.policy import JanusPolicy
from pairuni.policies.source import loading, open_checkpoint, refuse_broken

# transformers passes over some of these when they are cut off, or reports them without a line.
_JSON = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "processor_config.json",
    "preprocessor_config.json",
)


def refuse_sampler_options(sampler_options: Mapping[str, Any]) -> None:
    """Raises InputError: there are some."""
    for name in sampler_options:
        raise InputError("is no sampler option of a Janus model, which has none", field=f"model.sampler_options.{name}")


def load_janus(
    path_or_hub_id: str | Path,
    *,
    device: str = "auto",
    precision: str = "auto",
    cuda_graphs: bool = True,
    sampler_options: Mapping[str, Any] = MappingProxyType({}),
) -> JanusPolicy:
    """Loads a Janus checkpoint in transformers' form, as `load_policy` says. Such a model has no sampler options.

    Raises:
        InputError: a file is missing, broken, incomplete or of another model; an unknown device or precision.
    """
    refuse_sampler_options(sampler_options)
    found = open_checkpoint(path_or_hub_id, "janus", device, precision)
    source = found.source
    with loading(source, "Janus"):
        for name in _JSON if isinstance(source, Path) else ():
            if (path := Path(source) / name).exists():
                read_json(path)
        # Janus has its own lm_head, but the config class defaults to tied: a later tie_weights() would destroy it.
        config = JanusConfig.from_pretrained(source)
        config.tie_word_embeddings = False
        loaded = JanusForConditionalGeneration.from_pretrained(
            source, config=config, dtype=torch.float32, attn_implementation="sdpa", output_loading_info=True
        )
        assert isinstance(loaded, tuple)
        module, info = loaded
        processor = JanusProcessor.from_pretrained(source)
        refuse_broken(module.named_parameters(), info["missing_keys"], source)
        vision = module.model.vision_model
        counts = {
            "num_image_tokens": processor.num_image_tokens,
            "vision_config.num_image_tokens": vision.config.num_image_tokens,
        }
        for name, count in counts.items():
            if count != (made := vision.embeddings.num_patches):
                raise InputError(f"is {count}, but the vision encoder gives {made} tokens", file=source, field=name)
        policy = JanusPolicy(module, processor, found.precision, cuda_graphs)
    given = {} if module.generation_config is None else module.generation_config.to_diff_dict()
    if "boi_token_id" not in (given.get("generation_kwargs") or {}):
        p = policy.prompts
        module.generation_config = generation_config(p.bos, p.eos, p.pad, p.boi)
    nn.Module.to(module, found.device)
    return policy


def generation_config(bos: int, eos: int, pad: int, boi: int) -> GenerationConfig:
    """transformers' own image generation reads BOI and guidance from it, and saves only a config set explicitly."""
    kwargs = {"boi_token_id": boi}
    return GenerationConfig(
        bos_token_id=bos, eos_token_id=eos, pad_token_id=pad, guidance_scale=5.0, generation_kwargs=kwargs
    )
