"""Simple image rewards that see pixels only: for trying the training loop and for measuring reward hacking.

They are no training goal: a model that maximises one of them draws garish, glaring or over-sharpened images whatever
the prompt says.
"""

import numpy as np

from pairuni.rewards.base import ItemReward
from pairuni.types import Side


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


BRIGHTNESS = ItemReward("brightness", lambda item: brightness(item.pixels), frozenset({Side.GENERATION}))
COLOURFULNESS = ItemReward("colourfulness", lambda item: colourfulness(item.pixels), frozenset({Side.GENERATION}))
SHARPNESS = ItemReward("sharpness", lambda item: sharpness(item.pixels), frozenset({Side.GENERATION}))
