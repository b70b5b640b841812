"""Rewards: what scores an answer or an image. One table; a user's own is a dotted path `module:function`.

Each name stands for a "module:Class" that is imported on use, so that one reward's libraries burden no other.
"""

import os
import sys
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from pairuni.errors import InputError
from pairuni.records import Side
from pairuni.rewards.base import FunctionReward, Reward

REWARDS: dict[str, str] = {
    "choice": "pairuni.rewards.choice:ChoiceReward",
    "shapes": "pairuni.rewards.shapes:ShapesReward",
    "brightness": "pairuni.rewards.images:BrightnessReward",
    "colourfulness": "pairuni.rewards.images:ColourfulnessReward",
    "sharpness": "pairuni.rewards.images:SharpnessReward",
}


def load_reward(spec: str, side: Side | None = None) -> Reward:
    """The reward named `spec`: a name of REWARDS, or `module:function` of the user's own.

    The function takes a list of `RewardInput` and returns one number for each; its module is looked for where Python
    does and in the current folder. Score with `base.score_all`, which checks what comes back.

    Args:
        spec: as in the config.
        side: the side it is to score, where that is to be checked.

    Raises:
        InputError: no such name, module or function, not callable, or a reward of the other side. An exception inside
            the user's module is passed on as it is.
    """
    field = "rewards" if side is None else f"rewards.{side}"
    if ":" in spec:
        return FunctionReward(spec, _import(spec, field))
    if spec not in REWARDS:
        near = get_close_matches(spec, REWARDS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(REWARDS))}, or module:function"
        raise InputError(f"no reward is called {spec!r}; {hint}", field=field)
    module, _, name = REWARDS[spec].partition(":")
    reward: Reward = vars(import_module(module))[name]()
    if side is not None and side not in reward.sides:
        raise InputError(f"{spec!r} scores the {' and '.join(sorted(reward.sides))} side", field=field)
    return reward


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
