"""The table, the loader and the check on what a reward returns."""

import sys

import numpy as np
import pytest
import torch

from pairuni.config import RewardConfig, RewardOptions
from pairuni.errors import InputError
from pairuni.rewards import OPTIONS, REWARDS, load_reward, side_reward
from pairuni.rewards.base import FunctionReward, RewardInput, score_all
from pairuni.types import Quadruple, Side

HALF = Quadruple("q7", None, "images/7.png", "a red circle", "What colour? A. red B. blue", "A")
IMAGE = np.zeros((4, 4, 3), np.uint8)
IMAGES = [RewardInput(Side.GENERATION, HALF, image=IMAGE + i) for i in range(3)]


@pytest.mark.parametrize("name", sorted(REWARDS))
def test_every_row_of_the_table_loads_under_its_name(name):
    options = RewardOptions(url="http://localhost:1") if name == "http" else None
    reward = load_reward(name, options=options)
    assert reward.name == name and reward.sides and reward.remote == (name == "http")
    for side in Side:
        if side in reward.sides:
            assert load_reward(name, side, options) == reward
        else:
            with pytest.raises(InputError, match=f"rewards.{side}: .*scores the"):
                load_reward(name, side, options)


def test_options_go_to_the_reward_that_they_are_of_and_only_where_it_takes_them():
    assert OPTIONS.keys() <= REWARDS.keys()
    assert {name for names in OPTIONS.values() for name in names} == vars(RewardOptions()).keys()
    config = RewardConfig(generation="hps", options={"hps": RewardOptions(batch=7)})
    assert vars(side_reward(config, Side.GENERATION))["options"].batch == 7
    assert side_reward(config, Side.UNDERSTANDING).name == "choice"
    with pytest.raises(InputError, match=r"rewards.options: has options of hsp, which no side uses"):
        RewardConfig(generation="hps", options={"hsp": RewardOptions()})
    with pytest.raises(InputError, match=r"rewards.options.batch: must be positive, not -1"):
        RewardConfig(generation="hps", options={"hps": RewardOptions(batch=-1)})
    for spec, hint in (
        ("shapes", "has no options"),
        ("math:hypot", "has no options"),
        ("hps", "options are weights, "),
    ):
        with pytest.raises(InputError, match=f"rewards.options.{spec}.timeout: .*{hint}"):
            load_reward(spec, Side.GENERATION, RewardOptions(timeout=3))


def test_a_users_function(tmp_path, monkeypatch):
    code = "def redness(items):\n    return [i.image[..., 0].mean() for i in items]\nLIMIT = 3\nclass Kind: ...\n"
    (tmp_path / "my_rewards.py").write_text(code)
    (tmp_path / "broken_rewards.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_rewards", raising=False)  # the docs have one of that name
    monkeypatch.setattr("sys.path", [p for p in sys.path if p])
    reward = load_reward("my_rewards:redness", Side.GENERATION)
    assert reward.name == "my_rewards:redness"
    np.testing.assert_array_equal(score_all(reward, IMAGES), [0, 1, 2])
    for spec, message in (
        ("my_rewards:blueness", "has no 'blueness'"),
        ("my_rewards:LIMIT", "must be a function"),
        ("my_rewards:Kind", "must be a function"),
        ("no_such_module:f", "no module 'no_such_module'"),
        ("my_rewards.inner:f", "no module 'my_rewards.inner'"),
        (":f", "no module"),
        (".my_rewards:f", "no module"),
        ("my_rewards:", "has no ''"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            load_reward(spec, Side.GENERATION)
        assert caught.value.field == "rewards.generation"
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        load_reward("broken_rewards:f")


def test_unknown_names_get_a_hint():
    with pytest.raises(InputError, match="did you mean 'colourfulness'"):
        load_reward("colorfulness", Side.GENERATION)
    with pytest.raises(InputError, match="brightness, choice"):
        load_reward("beauty", Side.GENERATION)


@pytest.mark.parametrize(
    "returned", [[0, 1, 2], (0.0, 1.0, 2.0), np.arange(3), torch.arange(3.0), [np.float32(0), True, 2], range(3)]
)
def test_numbers_in_any_common_form(returned):
    got = score_all(FunctionReward("f", lambda items: returned), IMAGES)
    assert got.dtype == np.float64
    np.testing.assert_array_equal(got, [0, 1, 2])


def test_nothing_to_score():
    assert score_all(FunctionReward("f", lambda items: []), []).shape == (0,)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([1.0, 2.0], "2 numbers for 3 items"),
        ([], "0 numbers for 3 items"),
        (1.0, "shape \\(\\) for 3 items"),
        (np.zeros((3, 1)), "shape \\(3, 1\\)"),
        (None, "not NoneType"),
        ([1.0, None, 2.0], "not list"),
        (["1", "2", "3"], "not list"),
        ([[1], [1, 2], 3], "not list"),
        ({"q7": 1.0}, "not dict"),
        (torch.zeros(3, requires_grad=True), "not Tensor"),
        ([0.0, float("nan"), 1.0], "returned nan for 'q7' \\(generation\\)"),
        ([0.0, 1.0, float("inf")], "returned inf for 'q7'"),
    ],
)
def test_whatever_else_it_returns_stops_the_run(returned, message):
    with pytest.raises(InputError, match=message) as caught:
        score_all(FunctionReward("mine:f", lambda items: returned), IMAGES)
    assert caught.value.field == "reward mine:f"


def test_only_a_remote_reward_may_miss_a_score():
    remote = FunctionReward("f", lambda items: [1.0, float("nan"), 0.0], remote=True)
    np.testing.assert_array_equal(score_all(remote, IMAGES), [1, np.nan, 0])
    endless = FunctionReward("f", lambda items: [1.0, float("inf"), 0.0], remote=True)
    with pytest.raises(InputError, match="inf"):
        score_all(endless, IMAGES)


def test_an_exception_is_never_a_score():
    def fails(items):
        raise ZeroDivisionError("by the reward")

    with pytest.raises(ZeroDivisionError, match="by the reward"):
        score_all(FunctionReward("f", fails), IMAGES)


@pytest.mark.parametrize(
    "given",
    [
        {"side": Side.GENERATION},
        {"side": Side.GENERATION, "text": "B"},
        {"side": Side.UNDERSTANDING, "image": IMAGE},
        {"side": Side.UNDERSTANDING, "text": "B", "image": IMAGE},
        {"side": Side.GENERATION, "image": IMAGE.astype(float)},
        {"side": Side.GENERATION, "image": IMAGE[..., 0]},
        {"side": Side.GENERATION, "image": IMAGE[:0]},
    ],
)
def test_inputs_hold_the_output_of_their_side(given):
    with pytest.raises(ValueError):
        RewardInput(quadruple=HALF, **given)
