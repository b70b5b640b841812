"""LoRA adapters (peft) on a policy's own module: put in place, switched off for a reference, merged for saving.

The adapted layers stay where they were, so that a family's sampling and scoring need not know of them. There is no
dropout: it would part what is scored from what was sampled. Which layers are adapted is the family's default or the
config's choice.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor, nn

from pairuni.policies.base import Scorer
from pairuni.types import Chunk, Rollouts

_ADAPTER = "default"
_BASE = "base_layer"


def add_lora(module: nn.Module, layers: Sequence[str], rank: int, alpha: float) -> None:
    """Freezes `module` and puts an adapter beside each linear layer that is named. The output stays the same at first.

    The first factor is drawn from torch's global generator, the second is zero.

    Args:
        layers: full names within `module`.
        rank: of the product that is added to a weight.
        alpha: the product is scaled by alpha / rank.
    """
    module.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(layers), lora_dropout=0.0)  # pyright: ignore
    inject_adapter_in_model(config, module, _ADAPTER)


def has_lora(module: nn.Module) -> bool:
    return any(isinstance(part, LoraLayer) for part in module.modules())


def narrow_frozen(module: nn.Module) -> None:
    """Keeps frozen weights of linear layers in bf16: autocast rounds them to it anyway, each time they are used."""
    for part in module.modules():
        if type(part) is nn.Linear and not part.weight.requires_grad:
            part.weight.data = part.weight.data.bfloat16()


@contextmanager
def without_lora(module: nn.Module) -> Iterator[None]:
    """The model that the adapters began with. No gradients inside."""
    layers = [part for part in module.modules() if isinstance(part, LoraLayer)]
    try:
        for layer in layers:
            layer._disable_adapters = True  # `enable_adapters(False)` would also freeze them
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def merged(module: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """fp32 weights under the names of the model without adapters, with these added in.

    Args:
        weights: `module`'s own, whole.
    """
    plain: dict[str, Tensor] = {}
    for name, value in weights.items():
        layer, _, rest = name.rpartition(f".{_BASE}.")
        if ".lora_" in name:
            continue
        if not layer:
            plain[name] = value.float() if value.is_floating_point() else value
            continue
        value = value.float()
        if rest == "weight":
            first, second = (weights[f"{layer}.lora_{side}.{_ADAPTER}.weight"].float() for side in "AB")
            adapted = module.get_submodule(layer)
            assert isinstance(adapted, LoraLayer), f"{layer} has no adapter"
            scaling: float = adapted.scaling[_ADAPTER]
            value = value + scaling * (second @ first)
        plain[f"{layer}.{rest}"] = value
    return plain


def save_adapters(module: nn.Module, weights: Mapping[str, Tensor], base: str, folder: Path) -> None:
    """Writes the adapters alone, as peft reads them (`PeftModel.from_pretrained(base, folder)`).

    Args:
        weights: `module`'s own, whole.
        base: where the model that they belong to came from.
    """
    folder.mkdir()
    config: LoraConfig = module.peft_config[_ADAPTER]  # pyright: ignore
    settings: dict[str, Any] = config.to_dict() | {"base_model_name_or_path": base}
    LoraConfig(**settings).save_pretrained(str(folder))
    names = {name: f"base_model.model.{name.replace(f'.{_ADAPTER}.', '.')}" for name in weights if ".lora_" in name}
    tensors = {to: weights[name].contiguous() for name, to in names.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


class WithoutLora:
    """The reference of a policy with adapters: the same weights without them, as the run began."""

    def __init__(self, policy: Scorer, module: nn.Module) -> None:
        self._policy, self._module = policy, module

    def chunks(self, rollouts: Rollouts, budget: int, tokens: int = 0) -> list[Chunk]:
        """See `base.Scorer`."""
        return self._policy.chunks(rollouts, budget, tokens)

    def logprobs(self, rollouts: Rollouts, chunk: Chunk) -> Tensor:
        """See `base.Scorer`."""
        with without_lora(self._module), torch.no_grad():
            return self._policy.logprobs(rollouts, chunk)
