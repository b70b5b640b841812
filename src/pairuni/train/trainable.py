"""Chooses what trains: all but the frozen modules, the parameters that the config names, or LoRA adapters."""

from collections import defaultdict
from collections.abc import Iterable
from fnmatch import fnmatchcase

import torch

from pairuni.config import ModelConfig
from pairuni.errors import InputError
from pairuni.policies import load_policy
from pairuni.policies.base import Policy
from pairuni.policies.lora import add_lora, narrow_frozen
from pairuni.policies.memory import Planner
from pairuni.policies.source import pick_device


def choose_trained(policy: Policy, config: ModelConfig) -> None:
    """Freezes parameters that do not train and adds adapters, drawn from torch's global generator.

    Raises:
        InputError: a name in model.trainable or model.lora.layers fits nothing that can be trained.
    """
    parameters = dict(policy.trainable())
    chosen = _chosen(config.trainable, parameters, "model.trainable")
    if config.lora.rank:
        layers = _adapted(config, policy.lora_targets())
        add_lora(policy.module, layers, config.lora.rank, config.lora.alpha or 2 * config.lora.rank)
    if config.lora.rank or config.trainable:
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in chosen)


def load_trainable(config: ModelConfig, source: str, device: str) -> Policy:
    """Loads the model of `source`, chooses what trains, adds adapters, then moves it to the device.

    Under bf16 frozen linear weights beside adapters are narrowed on the CPU: a small GPU never holds them whole.

    Raises:
        InputError: as `load_policy` and `choose_trained`.
    """
    options = {"precision": config.precision, "cuda_graphs": config.cuda_graphs}
    place = pick_device(device)
    if config.lora.rank and config.precision == "auto":
        options["precision"] = "bf16" if place.type == "cuda" else "fp32"
    policy: Policy = load_policy(
        source, device="cpu" if config.lora.rank else device, sampler_options=config.sampler_options, **options
    )
    choose_trained(policy, config)
    if config.lora.rank:
        if policy.precision == "bf16":
            narrow_frozen(policy.module)
        policy.module.to(place)
    if config.gradient_checkpointing:
        policy.checkpoint_activations()
    return policy


def share_frozen_modules(policy: Policy, other: Policy) -> None:
    """Replaces frozen modules of `policy` by those of `other` where both hold the same weights (up to narrowing).

    There is then one copy of them, and what one policy's tower made of an image serves both.
    """
    for own, theirs in zip(policy.frozen_modules(), other.frozen_modules(), strict=True):
        before, there = own.state_dict(), theirs.state_dict()
        same = (torch.equal(before[name].to(value.dtype), value) for name, value in there.items())
        if before.keys() == there.keys() and all(same):
            (name,) = (name for name, part in policy.module.named_modules() if part is own)
            policy.module.set_submodule(name, theirs)


def count_trained(planner: Planner, config: ModelConfig) -> tuple[int, int]:
    """Counts the parameters that train under `choose_trained`, adapters included, and those of the adapters alone.

    Raises:
        InputError: as `choose_trained`.
    """
    chosen = _chosen(config.trainable, planner.sizes, "model.trainable")
    base = sum(planner.sizes[name] for name in chosen)
    if not config.lora.rank:
        return base or planner.trained, 0
    layers = _adapted(config, planner.lora_targets)
    adapters = sum(config.lora.rank * planner.lora_targets[name] for name in layers)
    return base + adapters, adapters


def trained_summary(policy: Policy) -> str:
    """One line per part of the model: trained and total parameters."""
    total: dict[str, int] = defaultdict(int)
    trained: dict[str, int] = defaultdict(int)
    for name, parameter in policy.module.named_parameters():
        part = "adapters" if ".lora_" in name else ".".join(name.removeprefix("model.").split(".")[:1])
        total[part] += parameter.numel()
        trained[part] += parameter.numel() * parameter.requires_grad
    width = max(map(len, total))
    lines = [f"  {part:<{width}}  {_millions(trained[part])} of {_millions(total[part])}" for part in total]
    all_of_them = sum(trained.values()), sum(total.values())
    share = all_of_them[0] / all_of_them[1]
    head = f"trained: {_millions(all_of_them[0])} of {_millions(all_of_them[1])} million parameters ({share:.2%})"
    return "\n".join([head, *lines])


def _adapted(config: ModelConfig, adaptable: Iterable[str]) -> list[str]:
    """The names of `adaptable` that get an adapter, in their order."""
    names, ends = list(adaptable), config.lora.layers
    patterns = [name if name.startswith("*") else f"*.{name}" for name in ends]
    chosen = _chosen(patterns, names, "model.lora.layers") if ends else set(names)
    return [name for name in names if name in chosen]


def _chosen(patterns: Iterable[str], names: Iterable[str], field: str) -> set[str]:
    """The names that start with one of the patterns or match it."""
    names, chosen = list(names), set[str]()
    for pattern in patterns:
        found = {n for n in names if n == pattern or n.startswith(f"{pattern}.") or fnmatchcase(n, pattern)}
        if not found:
            example = f", which are named like {names[0]}" if names else ""
            raise InputError(f"{pattern!r} fits none of the parameters that can be trained{example}", field=field)
        chosen |= found
    return chosen


def _millions(number: int) -> str:
    return f"{number / 1e6:,.2f}"
