"""Several rewards as one: sums, normalisation within groups, rewards that are only watched; statistics of images."""

import numpy as np
import pytest

from pairuni.config import RewardConfig
from pairuni.errors import InputError
from pairuni.rewards import side_reward
from pairuni.rewards.base import RewardInput, score_all
from pairuni.rewards.combined import held_out_names, normalised, raw_scores, total
from pairuni.rewards.statistics import group_statistics, looks
from pairuni.types import Quadruple, Side


def items(number: int) -> list[RewardInput]:
    rng = np.random.default_rng(0)
    quadruple = Quadruple("x", None, "x.png", "p", "q", "a")
    shapes = [(rng.random((16, 16, 3)) * 255 * n / number).astype(np.uint8) for n in range(1, number + 1)]
    return [RewardInput(Side.GENERATION, quadruple, image=image) for image in shapes]


def test_one_reward_stays_itself():
    reward = side_reward(RewardConfig(generation="brightness"), Side.GENERATION)
    assert reward.name == "brightness" and held_out_names(reward) == frozenset()
    assert list(raw_scores(reward, items(3))) == ["brightness"] and raw_scores(reward, [])["brightness"].shape == (0,)


@pytest.mark.parametrize("normalise", ["none", "group"])
def test_the_total_is_the_weighted_sum(normalise):
    config = RewardConfig(
        generation="brightness, sharpness", weights={"sharpness": 3.0}, held_out="colourfulness", normalise=normalise
    )
    reward = side_reward(config, Side.GENERATION)
    raw = {name: scores.reshape(2, 3) for name, scores in raw_scores(reward, items(6)).items()}
    assert set(raw) == {"brightness", "sharpness", "colourfulness"} and held_out_names(reward) == {"colourfulness"}
    parts = [raw["brightness"], raw["sharpness"]]
    if normalise == "group":
        parts = [(p - p.mean(axis=1, keepdims=True)) / p.std(axis=1, keepdims=True) for p in parts]
    np.testing.assert_allclose(total(reward, raw), parts[0] + 3 * parts[1], rtol=1e-9)
    plain = score_all(reward, items(6)).reshape(2, 3)
    np.testing.assert_allclose(plain, raw["brightness"] + 3 * raw["sharpness"])
    assert reward.name == "brightness+sharpness" and not reward.remote


def test_normalisation_of_equal_and_missing_scores():
    raw = np.array([[2.0, 2.0, 2.0], [1.0, np.nan, 3.0], [np.nan, np.nan, np.nan]])
    found = normalised(raw)
    np.testing.assert_array_equal(found[0], 0.0)
    np.testing.assert_allclose(found[1], [-1.0, np.nan, 1.0])
    assert np.isnan(found[2]).all()


@pytest.mark.parametrize("size", [1e308, 1e160, 1e12, 1.0, 1e-5])
def test_normalisation_of_scores_of_any_size(size):
    found = normalised(np.array([[1.5 * size, -1.5 * size, 1.5 * size, -1.5 * size], [1.0, 0.0, 0.0, 0.0]]))
    np.testing.assert_allclose(found[0], [1, -1, 1, -1], rtol=1e-12)
    np.testing.assert_allclose(found[1], np.array([3, -1, -1, -1]) / 3**0.5, rtol=1e-12)
    np.testing.assert_array_equal(normalised(np.full((1, 3), 0.1 * size)), 0.0)  # the mean of three is rounded


def test_a_held_out_reward_of_the_other_side_does_not_count_here():
    config = RewardConfig(held_out="format, sharpness")
    assert held_out_names(side_reward(config, Side.UNDERSTANDING)) == {"format"}
    assert held_out_names(side_reward(config, Side.GENERATION)) == {"sharpness"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"generation": ""}, r"rewards\.generation: names no reward"),
        ({"generation": "hps, hps"}, r"rewards\.generation: names a reward twice"),
        ({"weights": {"hps": 1.0}}, r"rewards\.weights: has weights of hps"),
        ({"weights": {"shapes": 0.0}}, r"rewards\.weights\.shapes: must be positive"),
        ({"held_out": "shapes"}, r"rewards\.held_out: shapes is trained"),
    ],
)
def test_refuses(fields, message):
    with pytest.raises(InputError, match=message):
        RewardConfig(**fields)
    with pytest.raises(InputError, match="no reward is called"):
        side_reward(RewardConfig(generation="shapes, nothing"), Side.GENERATION)


def test_statistics_of_images():
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    half = np.zeros((8, 8, 3), np.uint8)
    half[:, 4:] = 255
    noise = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    groups = [group_statistics(looks(np.stack(group))) for group in ([red, red], [half, half], noise)]
    found = {name: [group[name] for group in groups] for name in groups[0]}
    np.testing.assert_allclose(found["saturation"][:2], [1.0, 0.0])
    np.testing.assert_allclose(found["edges"][:2], [0.0, 1 / 7])
    np.testing.assert_allclose(
        found["colours"], [1.0, 2.0, np.mean([len({tuple(p // 16) for p in i.reshape(-1, 3)}) for i in noise])]
    )
    np.testing.assert_allclose(found["duplicates"], [1.0, 1.0, 0.0])
    assert group_statistics(looks(noise[:1]))["duplicates"] == 0.0
    with pytest.raises(ValueError, match="uint8 images"):
        looks(noise.astype(float))
