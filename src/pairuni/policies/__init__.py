"""Model families behind one contract (base.py). `load_policy` picks the family from the checkpoint's config."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pairuni.policies.base import Policy

# model_type of a checkpoint's config.json -> "module:function"; a family is one folder and one row here.
FAMILIES = {"janus": "pairuni.policies.janus.load:load_janus"}


def load_policy(path_or_hub_id: str, *, device: str = "auto", precision: str = "auto") -> "Policy":
    """Loads a checkpoint as a policy.

    Args:
        path_or_hub_id: a local folder in `save_pretrained` form, a hub id, or `shapes-janus` for the shipped model.
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1", ...
        precision: of the forward passes: "auto" (bf16 on GPU, fp32 on CPU), "fp32" or "bf16". Weights stay fp32.

    Raises:
        InputError: no such checkpoint, or a family that is not supported.
    """
    from pairuni.policies.janus.load import model_type

    kind = model_type(path_or_hub_id)
    if kind not in FAMILIES:
        from pairuni.errors import InputError

        raise InputError(f"model type {kind!r} is not one of {', '.join(FAMILIES)}", file=path_or_hub_id)
    module, function = FAMILIES[kind].split(":")
    return vars(import_module(module))[function](path_or_hub_id, device=device, precision=precision)
