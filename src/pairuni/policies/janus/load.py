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
    """Loads a Janus checkpoint in transformers' form.

    Args:
        device: "auto" (CUDA where there is one), "cpu", "cuda", ...
        precision: "auto" (bf16 on CUDA, fp32 elsewhere), "fp32" or "bf16".
        cuda_graphs: whether sampling on CUDA replays recorded steps.
        sampler_options: of other families; there are none here.

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
        _check_complete(module, processor, info, source)
        policy = JanusPolicy(module, processor, found.precision, cuda_graphs)
    _set_generation_config(policy)
    nn.Module.to(module, found.device)
    return policy


def _check_complete(
    module: JanusForConditionalGeneration, processor: JanusProcessor, info: dict[str, Any], source: str | Path
) -> None:
    """transformers fills absent weights with random numbers and a warning; here that is an error."""
    refuse_broken(module.named_parameters(), info["missing_keys"], source)
    vision = module.model.vision_model
    patches = vision.embeddings.num_patches
    counts = {
        "num_image_tokens": processor.num_image_tokens,
        "vision_config.num_image_tokens": vision.config.num_image_tokens,
    }
    for name, count in counts.items():
        if count != patches:
            raise InputError(f"is {count}, but the vision encoder gives {patches} tokens", file=source, field=name)


def _set_generation_config(policy: JanusPolicy) -> None:
    """transformers' own image generation reads BOI and guidance from here, and saves only a config set explicitly."""
    given = policy.module.generation_config
    known = {} if given is None else given.to_diff_dict()
    if "boi_token_id" in (known.get("generation_kwargs") or {}):
        return
    prompts = policy.prompts
    policy.module.generation_config = GenerationConfig(
        bos_token_id=prompts.bos,
        eos_token_id=prompts.eos,
        pad_token_id=prompts.pad,
        guidance_scale=5.0,
        generation_kwargs={"boi_token_id": prompts.boi},
    )
