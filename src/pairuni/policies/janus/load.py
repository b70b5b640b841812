"""From a checkpoint (folder or hub id) to a Janus policy, with one clear message for whatever is wrong with it.

Master weights are fp32 whatever the file holds; `precision` is that of the forward passes. No training settings here.
"""

from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import GenerationConfig, JanusConfig, JanusForConditionalGeneration, JanusProcessor, PreTrainedConfig
from transformers.utils.logging import disable_progress_bar

from pairuni.errors import InputError
from pairuni.files import read_json
from pairuni.policies.janus.policy import JanusPolicy

SHIPPED = {"shapes-janus": "pretrain/checkpoints/shapes-janus"}
# What transformers, safetensors and tokenizers raise for files that are absent, cut off or of another model.
BROKEN = (OSError, ValueError, KeyError, RuntimeError, AttributeError, SafetensorError, StrictDataclassError)
# transformers passes over some of these when they are cut off, or reports them without a line.
_JSON = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "processor_config.json",
    "preprocessor_config.json",
)


def model_type(path_or_hub_id: str | Path) -> str:
    """The `model_type` of a checkpoint's config.json.

    Raises:
        InputError: no such folder, nothing of that name on the Hub, or a config.json that is missing or broken.
    """
    source = resolve_model(path_or_hub_id)
    if isinstance(source, Path):
        config = read_json(source / "config.json")
    else:
        try:
            config, _ = PreTrainedConfig.get_config_dict(source)
        except (OSError, ValueError) as err:
            message = f"is neither a folder nor a model that could be fetched from the Hub ({brief(err)})"
            raise InputError(message, file=source) from None
    if not isinstance(config.get("model_type"), str):
        raise InputError("is missing or not a string", file=f"{source}/config.json", field="model_type")
    return config["model_type"]


def load_janus(
    path_or_hub_id: str | Path, *, device: str = "auto", precision: str = "auto", cuda_graphs: bool = True
) -> JanusPolicy:
    """Loads a Janus checkpoint in transformers' form.

    Args:
        device: "auto" (CUDA where there is one), "cpu", "cuda", ...
        precision: "auto" (bf16 on CUDA, fp32 elsewhere), "fp32" or "bf16".
        cuda_graphs: whether sampling on CUDA replays recorded steps.

    Raises:
        InputError: a file is missing, broken, incomplete or of another model; an unknown device or precision.
    """
    source = resolve_model(path_or_hub_id)
    place = pick_device(device)
    if precision not in ("auto", "fp32", "bf16"):
        raise InputError(f"must be auto, fp32 or bf16, not {precision!r}", field="precision")
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
    bf16 = precision == "bf16" or (precision == "auto" and place.type == "cuda")
    try:
        policy = JanusPolicy(module, processor, "bf16" if bf16 else "fp32", cuda_graphs)
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
    absent = sorted(info["missing_keys"])
    if absent:
        raise InputError(f"{len(absent)} weights are missing, e.g. {absent[0]}", file=source)
    # A sum takes no memory; only where it is not finite is each number looked at.
    doubted = [(name, p) for name, p in module.named_parameters() if not bool(p.detach().sum().isfinite())]
    broken = [name for name, parameter in doubted if not bool(parameter.isfinite().all())]
    if broken:
        raise InputError(f"{len(broken)} weights hold NaN or infinity, e.g. {broken[0]}", file=source)
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


def resolve_model(path_or_hub_id: str | Path) -> str | Path:
    """A folder that exists, or a hub id."""
    name = str(path_or_hub_id)
    if name in SHIPPED:
        # Not imported as a package: pretrain is a higher layer, only its files are needed.
        folder = Path(str(files("pairuni"))) / SHIPPED[name]
        if not folder.is_dir():
            raise InputError(f"this installation lacks the shipped model ({folder})", file=name)
        return folder
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise InputError("is a file; a model is a folder in save_pretrained form", file=path)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise InputError("no such folder", file=path)
    return name


def pick_device(name: str) -> torch.device:
    """The device of a name, "auto" being CUDA where there is one. Raises InputError: no such device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as err:
        raise InputError(f"{name!r} is no device ({brief(err)})", field="device") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"{name!r}: this machine has {torch.cuda.device_count()} CUDA devices", field="device")
    return device


def brief(err: BaseException) -> str:
    """The libraries' messages run over many lines; the first ones say what is wrong."""
    return " ".join(str(err).split())[:300] or type(err).__name__
