"""Rewards score answers and images: one table of names; a user's own reward is named `module:function`.

A name of the table stands for "module:member" and is imported on use, so that a run loads only the libraries of its own
rewards. The member is the reward, or, where the reward takes options (`OPTIONS`), what makes it from them.
"""

import os
import sys
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from pairuni.config import RewardConfig, RewardOptions
from pairuni.errors import InputError
from pairuni.rewards.base import FunctionReward, Reward
from pairuni.rewards.combined import Combined, Part
from pairuni.types import Side

REWARDS: dict[str, str] = {
    "choice": "pairuni.rewards.choice:CHOICE",
    "open": "pairuni.rewards.open_answer:OPEN",
    "vqa": "pairuni.rewards.open_answer:VQA",
    "format": "pairuni.rewards.open_answer:FORMAT",
    "shapes": "pairuni.rewards.shapes_reward:SHAPES",
    "shapes_exact": "pairuni.rewards.shapes_reward:SHAPES_EXACT",
    "brightness": "pairuni.rewards.pixel_rewards:BRIGHTNESS",
    "colourfulness": "pairuni.rewards.pixel_rewards:COLOURFULNESS",
    "sharpness": "pairuni.rewards.pixel_rewards:SHARPNESS",
    "hps": "pairuni.rewards.hps:hps_v21",
    "hps_v20": "pairuni.rewards.hps:hps_v20",
    "clip_score": "pairuni.rewards.clip_scores:clip_score",
    "pick_score": "pairuni.rewards.clip_scores:pick_score",
    "geneval": "pairuni.rewards.objects:GenEvalReward",
    "geneval_partial": "pairuni.rewards.objects:geneval_partial",
    "http": "pairuni.rewards.remote:HttpReward",
}
_CLIP = ("weights", "tokenizer", "device", "batch")
_OBJECTS = ("weights", "colours", "device")
OPTIONS: dict[str, tuple[str, ...]] = {
    "hps": _CLIP,
    "hps_v20": _CLIP,
    "clip_score": _CLIP,
    "pick_score": _CLIP,
    "geneval": _OBJECTS,
    "geneval_partial": _OBJECTS,
    "http": ("url", "batch", "timeout", "retries"),
}
"""The `RewardOptions` that a reward takes; a reward that is not listed takes none."""


def side_reward(config: RewardConfig, side: Side) -> Reward:
    """The reward that `config` names for `side`, with its options, or a `combined.Combined` of several.

    Raises InputError as `load_reward` does.
    """
    trained = {name: load_reward(name, side, config.options.get(name)) for name in config.names(side)}
    # A held-out reward of the other side is no mistake: one list serves both.
    held_out = {name: load_reward(name, None, config.options.get(name)) for name in config.names("held_out")}
    held_out = {name: reward for name, reward in held_out.items() if side in reward.sides}
    if len(trained) == 1 and not held_out:
        return next(iter(trained.values()))
    parts = [Part(reward, config.weights.get(name, 1.0)) for name, reward in trained.items()]
    return Combined(tuple(parts), tuple(held_out.values()), config.normalise == "group")


def load_reward(spec: str, side: Side | None = None, options: RewardOptions | None = None) -> Reward:
    """The reward named `spec`: a name of REWARDS, or `module:function` of the user's own.

    The function takes a list of `RewardInput` and returns one number for each; its module is looked for where Python
    does and in the current folder. Score with `base.score_all`, which checks what comes back.

    Args:
        spec: as in the config.
        side: the side it is to score, where that is to be checked.
        options: of this reward alone; it must take each one that is not None.

    Raises:
        InputError: no such name, module or function, not callable, a reward of the other side, or an option that is
            wrong or not taken. An exception inside the user's module is passed on as it is.
    """
    field = "rewards" if side is None else f"rewards.{side}"
    options = options or RewardOptions()
    if ":" in spec:
        _check_options(spec, options)
        return FunctionReward(spec, _import(spec, field))
    if spec not in REWARDS:
        near = get_close_matches(spec, REWARDS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(REWARDS))}, or module:function"
        raise InputError(f"no reward is called {spec!r}; {hint}", field=field)
    _check_options(spec, options)
    module, _, name = REWARDS[spec].partition(":")
    member: Any = vars(import_module(module))[name]
    reward: Reward = member(options) if spec in OPTIONS else member
    if side is not None and side not in reward.sides:
        raise InputError(f"{spec!r} scores the {' and '.join(sorted(reward.sides))} side", field=field)
    return reward


def _check_options(spec: str, options: RewardOptions) -> None:
    field = f"rewards.options.{spec}"
    taken = OPTIONS.get(spec, ())
    refused = [name for name, value in vars(options).items() if value is not None and name not in taken]
    if refused:
        hint = f"its options are {', '.join(taken)}" if taken else "it has no options"
        raise InputError(f"{spec!r} does not take it; {hint}", field=f"{field}.{refused[0]}")


def _import(spec: str, field: str) -> Callable[..., Any]:
    module_name, _, name = spec.partition(":")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())  # the installed `pairuni` command, unlike `python -m`, does not look there
    try:
        module = import_module(module_name)
    except (ModuleNotFoundError, ValueError, TypeError) as err:
        missing = err.name if isinstance(err, ModuleNotFoundError) else module_name
        if missing is None or not f"{module_name}.".startswith(f"{missing}."):
            raise  # something that the user's module itself imports
        raise InputError(f"{spec!r}: no module {missing!r} (looked in {os.getcwd()} too)", field=field) from None
    function = vars(module).get(name)
    if function is None:
        raise InputError(f"{spec!r}: {module_name} has no {name!r}", field=field)
    if not callable(function) or isinstance(function, type):
        raise InputError(f"{spec!r} must be a function of a list of RewardInput", field=field)
    return function
