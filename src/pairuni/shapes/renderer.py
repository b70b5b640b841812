"""Draws a scene: anti-aliased by supersampling, with a little variation of size and place unless told otherwise."""

import numpy as np

from pairuni.shapes.scenes import COLOURS, GRID, Scene

BACKGROUND = (244, 244, 240)
TINTS = (BACKGROUND, (226, 236, 248), (248, 230, 222), (228, 242, 224))
"""Backgrounds that say nothing of what is in an image; the detector reads things on any of them."""
IMAGE = 48
"""Side of the images, pixels."""
_FINE = 5
"""Samples per pixel and axis."""
_RADIUS = 6.2
"""Half extent of a shape, pixels of a 48-pixel image."""


def render(
    scene: Scene,
    rng: np.random.Generator | None = None,
    image: int = IMAGE,
    background: tuple[int, int, int] = BACKGROUND,
) -> np.ndarray:
    """uint8 [image, image, 3]. With `rng`, sizes vary by 4 % and places by half a pixel."""
    canvas = np.full((image, image, 3), background, dtype=np.float64)
    scale = image / IMAGE
    axis = (np.arange(image * _FINE) + 0.5) / _FINE
    for thing in scene.things:
        jitter = np.zeros(3) if rng is None else rng.uniform(-1, 1, size=3)
        radius = _RADIUS * scale * (1 + 0.04 * jitter[0])
        x = (axis - (thing.column + 0.5) * image / GRID - 0.5 * scale * jitter[1]) / radius
        y = (axis - (thing.row + 0.5) * image / GRID - 0.5 * scale * jitter[2]) / radius
        inside = _inside(thing.shape, x[None, :], y[:, None])
        cover = inside.reshape(image, _FINE, image, _FINE).mean((1, 3))[..., None]
        canvas = canvas * (1 - cover) + np.array(COLOURS[thing.colour]) * cover
    return np.rint(canvas).astype(np.uint8)


def _inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """bool [H, W], x [1, W] and y [H, 1] in units of the radius, y down."""
    if shape == "circle":
        return x**2 + y**2 <= 1
    if shape == "square":
        return np.maximum(abs(x), abs(y)) <= 0.88
    if shape == "triangle":
        return (y <= 0.85) & (abs(x) <= (y + 1) / 1.85)
    if shape == "cross":
        return np.minimum(abs(x), abs(y)) <= 0.32 * (np.maximum(abs(x), abs(y)) <= 1)
    raise ValueError(f"unknown shape {shape!r}")
