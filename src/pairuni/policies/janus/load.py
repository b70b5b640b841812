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
from transformers.utils.logging import disable_progress_bar

from pairuni.errors import InputError
from pairuni.files import read_json
from pairuni.policies.janus.policy import JanusPolicy
from pairuni.policies.source import BROKEN, brief, model_type, pick_device, pick_precision, refuse_broken, resolve_model

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
    source = resolve_model(path_or_hub_id)
    place = pick_device(device)
    width = pick_precision(precision, place)
    kind = model_type(path_or_hub_id)
    if kind != "janus":
        raise InputError(f"is {kind!r}, not a Janus model in transformers' form", file=source, field="model_type")
    if isinstance(source, Path):
        for path in (source / name for name in _JSON):
            if path.exists():
                read_json(path)
    try:
        module, info = _load_module(source)
        processor = JanusProcessor.from_pretrained(source)
    except BROKEN as err:
        raise InputError(f"cannot be loaded as a Janus model: {brief(err)}", file=source) from err
    _check_complete(module, processor, info, source)
    try:
        policy = JanusPolicy(module, processor, width, cuda_graphs)
    except InputError as err:
        raise InputError(err.message, file=source, field=err.field) from None
    _set_generation_config(policy)
    nn.Module.to(module, place)
    return policy


def _load_module(source: str | Path) -> tuple[JanusForConditionalGeneration, dict[str, Any]]:
    # transformers' bars for reading and writing shards would break into ours; JanusPolicy.save is silent with it.
    disable_progress_bar()
    # Janus has its own lm_head, but the config class defaults to tied: a later tie_weights() would destroy it.
    config = JanusConfig.from_pretrained(source)
    config.tie_word_embeddings = False
    loaded = JanusForConditionalGeneration.from_pretrained(
        source, config=config, dtype=torch.float32, attn_implementation="sdpa", output_loading_info=True
    )
    assert isinstance(loaded, tuple)
    return loaded


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
