"""Image rewards against loops over pixels, and at their ends."""

import numpy as np
import pytest

from pairuni.rewards import load_reward
from pairuni.rewards.base import RewardInput, score_all
from pairuni.rewards.pixel_rewards import brightness, colourfulness, sharpness
from pairuni.types import Quadruple, Side

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8)


def plain(r: int, g: int, b: int) -> np.ndarray:
    return np.full((6, 5, 3), (r, g, b), np.uint8)


def test_colourfulness_equals_the_published_formula():
    rg = [float(int(r) - int(g)) for r, g, _ in NOISE.reshape(-1, 3)]
    yb = [(int(r) + int(g)) / 2 - int(b) for r, g, b in NOISE.reshape(-1, 3)]
    spread = (np.var(rg) + np.var(yb)) ** 0.5
    centre = (np.mean(rg) ** 2 + np.mean(yb) ** 2) ** 0.5
    assert colourfulness(NOISE) == pytest.approx(min((spread + 0.3 * centre) / 109, 1))
    muted = (NOISE // 8) + 100
    assert 0 < colourfulness(muted.astype(np.uint8)) < colourfulness(NOISE)


@pytest.mark.parametrize("level", [0, 90, 255])
def test_grey_is_not_colourful(level):
    assert colourfulness(plain(level, level, level)) == 0


def test_plain_blue_has_only_the_mean_term():
    assert colourfulness(plain(0, 0, 200)) == pytest.approx(0.3 * 200 / 109)


def test_colourfulness_is_capped():
    image = np.zeros((8, 8, 3), np.uint8)
    image[:4, :, 0], image[4:, :, 2] = 255, 255
    assert colourfulness(image) == 1


def test_brightness():
    assert (brightness(plain(0, 0, 0)), brightness(plain(255, 255, 255))) == (0, pytest.approx(1))
    assert brightness(plain(255, 0, 0)) == pytest.approx(0.299)


def test_sharpness_equals_a_loop():
    luma = [[(0.299 * int(r) + 0.587 * int(g) + 0.114 * int(b)) / 255 for r, g, b in row] for row in NOISE]
    steps = [(-1, 0), (1, 0), (0, -1), (0, 1)]
    found = [
        abs(sum(luma[y + dy][x + dx] for dy, dx in steps) - 4 * luma[y][x]) for y in range(1, 8) for x in range(1, 6)
    ]
    assert sharpness(NOISE) == pytest.approx(np.mean(found) / 4)


def test_sharpness_at_its_ends():
    board = (np.indices((8, 8)).sum(0) % 2 * 255).astype(np.uint8)
    assert sharpness(np.stack([board] * 3, 2)) == pytest.approx(1)
    assert sharpness(plain(10, 200, 30)) == pytest.approx(0)
    assert sharpness(NOISE[:2]) == 0


@pytest.mark.parametrize("name", ["colourfulness", "brightness", "sharpness"])
def test_rewards_score_in_order(name):
    half = Quadruple("q", None, "i.png", "c", "q?", "a")
    images = [NOISE, plain(10, 20, 30), plain(255, 255, 255)]
    got = score_all(load_reward(name), [RewardInput(Side.GENERATION, half, image=image) for image in images])
    function = {"colourfulness": colourfulness, "brightness": brightness, "sharpness": sharpness}[name]
    np.testing.assert_array_equal(got, [function(image) for image in images])
    assert len(set(got)) > 1
