"""Simple image rewards, pixels only. Toys: good for trying the loop and as gauges of reward hacking, not as a goal.

A model trained on one of them learns garish, glaring or over-sharpened images whatever the prompt says.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pairuni.rewards.base import RewardInput
from pairuni.types import Side

_GENERATION = frozenset({Side.GENERATION})


def colourfulness(image: np.ndarray) -> float:
    """Colourfulness M3 of Hasler and Suesstrunk (2003, "Measuring colourfulness in natural images"), in [0, 1].

    sqrt(var(rg) + var(yb)) + 0.3 sqrt(mean(rg)^2 + mean(yb)^2) with rg = R - G and yb = (R + G) / 2 - B, divided by
    109, where their scale says "extremely colourful", and capped there.

    Args:
        image: uint8 [H, W, 3].
    """
    red, green, blue = np.moveaxis(image.astype(np.float64), 2, 0)
    rg, yb = red - green, 0.5 * (red + green) - blue
    spread, centre = np.hypot(rg.std(), yb.std()), np.hypot(rg.mean(), yb.mean())
    return float(min((spread + 0.3 * centre) / 109.0, 1.0))


def brightness(image: np.ndarray) -> float:
    """Mean luma (Rec. 601 weights) of a uint8 image [H, W, 3], in [0, 1]."""
    return float(_luma(image).mean())


def sharpness(image: np.ndarray) -> float:
    """Mean absolute Laplacian (four neighbours) of the luma of a uint8 image [H, W, 3], over its largest value: [0, 1].

    0 for images under 3 x 3 pixels and plain ones, 1 for a checkerboard of black and white pixels.
    """
    luma = _luma(image)
    if min(luma.shape) < 3:
        return 0.0
    around = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    return float(np.abs(around - 4 * luma[1:-1, 1:-1]).mean() / 4)


def _luma(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float64) @ np.array([0.299, 0.587, 0.114]) / 255


def _pixels(item: RewardInput) -> np.ndarray:
    assert item.image is not None  # RewardInput grants it on the generation side
    return item.image


@dataclass(frozen=True)
class ColourfulnessReward:
    name: str = "colourfulness"
    sides: frozenset[Side] = _GENERATION
    remote: bool = False

    def __call__(self, items: Sequence[RewardInput]) -> Sequence[float]:
        return [colourfulness(_pixels(item)) for item in items]


@dataclass(frozen=True)
class BrightnessReward:
    name: str = "brightness"
    sides: frozenset[Side] = _GENERATION
    remote: bool = False

    def __call__(self, items: Sequence[RewardInput]) -> Sequence[float]:
        return [brightness(_pixels(item)) for item in items]


@dataclass(frozen=True)
class SharpnessReward:
    name: str = "sharpness"
    sides: frozenset[Side] = _GENERATION
    remote: bool = False

    def __call__(self, items: Sequence[RewardInput]) -> Sequence[float]:
        return [sharpness(_pixels(item)) for item in items]
