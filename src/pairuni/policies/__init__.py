"""Model families behind one contract (base.py); `load_policy` picks the family from the checkpoint's config."""

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pairuni.policies.base import Policy
    from pairuni.policies.memory import Planner

# model_type of a checkpoint's config.json -> "module:function"; a family is one folder and one row here.
FAMILIES = {"janus": "pairuni.policies.janus.load:load_janus", "llada": "pairuni.policies.dimoo.load:load_dimoo"}
# The same -> what says how much memory training takes.
PLANNERS = {
    "janus": "pairuni.policies.janus.planner:JanusPlanner",
    "llada": "pairuni.policies.dimoo.planner:DimooPlanner",
}


def load_policy(
    path_or_hub_id: str,
    *,
    device: str = "auto",
    precision: str = "auto",
    cuda_graphs: bool = True,
    sampler_options: Mapping[str, Any] = MappingProxyType({}),
) -> "Policy":
    """Loads a checkpoint as a policy.

    Args:
        path_or_hub_id: a folder in `save_pretrained` form, a hub id, or what ships: `shapes-janus`, `shapes-dimoo`.
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1", ...
        precision: of the forward passes: "auto" (bf16 on GPU, fp32 on CPU), "fp32" or "bf16". Weights stay fp32.
        cuda_graphs: whether sampling on CUDA replays recorded steps.
        sampler_options: of the family: how it draws and scores, where not as the checkpoint says.

    Raises:
        InputError: no such checkpoint, or a family that is not supported.
    """
    load = _of_family(FAMILIES, path_or_hub_id)
    return load(
        path_or_hub_id, device=device, precision=precision, cuda_graphs=cuda_graphs, sampler_options=sampler_options
    )


def load_planner(path_or_hub_id: str, sampler_options: Mapping[str, Any] = MappingProxyType({})) -> "Planner":
    """Estimates the memory of training a checkpoint from its config alone; `sampler_options` as in `load_policy`.

    Raises:
        InputError: no such checkpoint, a family that is not supported, or a broken config.
    """
    return _of_family(PLANNERS, path_or_hub_id)(path_or_hub_id, sampler_options)


def _of_family(table: dict[str, str], path_or_hub_id: str) -> Any:
    from pairuni.policies.released import CONFIGS
    from pairuni.policies.source import model_type

    offline = table is PLANNERS and path_or_hub_id in CONFIGS
    kind = CONFIGS[path_or_hub_id][0] if offline else model_type(path_or_hub_id)
    if kind not in table:
        from pairuni.errors import InputError

        raise InputError(f"model type {kind!r} is not one of {', '.join(table)}", file=path_or_hub_id)
    return of_family(table[kind], path_or_hub_id)


def of_family(entry: str, source: str) -> Any:
    """The function that "module:function" names. Raises InputError, naming `source`: it needs a package of an extra."""
    module, name = entry.split(":")
    try:
        return vars(import_module(module))[name]
    except ModuleNotFoundError as err:
        if (err.name or "").split(".")[0] != "diffusers":
            raise
        from pairuni.errors import InputError

        message = 'needs diffusers for its images: pip install "pairuni[diffusion]"'
        raise InputError(message, file=source) from None
