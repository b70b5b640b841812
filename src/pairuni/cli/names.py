"""Names in a config that stand for code or for a model: looked up before a command begins, not hours into it."""

from pathlib import Path

from pairuni.config import EvaluateConfig, TrainConfig
from pairuni.errors import InputError
from pairuni.eval import check_benchmarks
from pairuni.rewards import side_reward
from pairuni.types import Side


def check_names(config: TrainConfig | EvaluateConfig) -> None:
    """Raises InputError for an unknown benchmark, or an unknown reward of a side that is trained."""
    check_benchmarks(config.eval if isinstance(config, TrainConfig) else config)
    if isinstance(config, TrainConfig):
        for side in Side:
            if config.sides in ("both", side):
                side_reward(config.rewards, side)


def check_model(config: TrainConfig | EvaluateConfig) -> None:
    """Raises InputError for a local model that is not there or of no known family; hub ids are not looked up."""
    from pairuni.policies import FAMILIES
    from pairuni.policies.source import model_type, resolve_model

    name, field = (config.model.path, "model.path") if isinstance(config, TrainConfig) else (config.model, "model")
    try:
        if isinstance(resolve_model(name), Path):
            kind = model_type(name)
            if kind not in FAMILIES:
                raise InputError(f"model type {kind!r} is not one of {', '.join(FAMILIES)}", file=name)
    except InputError as err:
        raise InputError(str(err), field=field) from None
