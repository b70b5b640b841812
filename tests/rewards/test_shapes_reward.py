"""The Shapes reward on drawn scenes: full and partial credit, unreadable regions, prompts without shapes."""

import numpy as np
import pytest

from pairuni.errors import InputError
from pairuni.rewards.base import RewardInput, score_all
from pairuni.rewards.shapes_reward import SHAPES
from pairuni.shapes.renderer import render
from pairuni.shapes.scenes import Thing, scene_of
from pairuni.types import Quadruple, Side

RED_CIRCLE, BLUE_SQUARE = Thing(0, 0, "circle", "red"), Thing(2, 2, "square", "blue")
GREEN_CROSS = Thing(0, 2, "cross", "green")


def draw(*things: Thing) -> np.ndarray:
    return render(scene_of(list(things)), np.random.default_rng(0))


def scores(prompt: str, *images: np.ndarray) -> list[float]:
    half = Quadruple("q3", None, "i.png", prompt, "q?", "a")
    return score_all(SHAPES, [RewardInput(Side.GENERATION, half, image=i) for i in images]).tolist()


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red circle and a blue square", [1, 1 / 2, 2 / 3, 0]),
        ("a picture of a red circle", [1 / 2, 1, 1 / 3, 0]),
        ("two red circles", [1 / 2, 1 / 2, 1 / 3, 0]),
        ("a circle above a square", [1, 1 / 3, 3 / 4, 0]),
        ("a circle below a square", [2 / 3, 1 / 3, 2 / 4, 0]),
    ],
)
def test_credit(prompt, expected):
    images = draw(RED_CIRCLE, BLUE_SQUARE), draw(RED_CIRCLE), draw(RED_CIRCLE, BLUE_SQUARE, GREEN_CROSS)
    assert scores(prompt, *images, np.full((48, 48, 3), 244, np.uint8)) == pytest.approx(expected)


def test_an_unreadable_region_counts_as_a_wrong_thing():
    clean, smudged = draw(RED_CIRCLE), draw(RED_CIRCLE)
    smudged[34:46, 2:46] = (140, 140, 0)  # a bar of no colour and no outline of the palette
    assert scores("a red circle", clean, smudged) == pytest.approx([1, 1 / 2])
    assert scores("a red circle and a blue square", smudged) == pytest.approx([1 / 2])


def test_nearer_attempts_score_higher():
    wanted = "a blue square"
    got = scores(wanted, draw(RED_CIRCLE), draw(Thing(1, 1, "square", "red")), draw(BLUE_SQUARE))
    assert got == pytest.approx([0, 1 / 2, 1])


def test_a_prompt_without_shapes_is_refused():
    with pytest.raises(InputError, match="'q3' names no shapes: 'a dog'"):
        scores("a dog", draw(RED_CIRCLE))
