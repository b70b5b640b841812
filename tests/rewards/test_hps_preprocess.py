"""HPSv2's image preparation against one written in float64 NumPy."""

import numpy as np
import pytest
import torch
from PIL import Image

from pairuni.rewards.hps import preprocess

MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])
# (height, width)
SHAPES = [(384, 384), (100, 640), (512, 200), (5, 3), (100, 224), (224, 100), (1, 37), (900, 1301), (224, 224)]


def cubic(x):
    """Keys' kernel with a = -0.5."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def weights(before, after):
    """[after, before]: the kernel is as wide as the step where the image shrinks; weights at the border add up to 1."""
    step = before / after
    wide = max(step, 1)
    centres = (np.arange(after) + 0.5) * step
    matrix = cubic((np.arange(before) + 0.5 - centres[:, None]) / wide)
    return matrix / matrix.sum(axis=1, keepdims=True)


def reference(image, side=224):
    height, width = image.shape[:2]
    longer = max(height, width)
    new = [max(1, round(n * side / longer)) for n in (height, width)]
    rows, columns = weights(height, new[0]), weights(width, new[1])
    small = np.einsum("ah,bw,hwc->abc", rows, columns, image / 255.0, optimize=True)
    canvas = np.zeros((side, side, 3))
    top, left = (side - new[0]) // 2, (side - new[1]) // 2
    canvas[top : top + new[0], left : left + new[1]] = small
    return ((canvas - MEAN) / STD).transpose(2, 0, 1)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_it_is_the_reference(shape):
    image = np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3), dtype=np.uint8)
    got = preprocess(image)
    assert got.dtype == torch.float32 and got.shape == (3, 224, 224)
    np.testing.assert_allclose(got.numpy(), reference(image), atol=1e-4)
    np.testing.assert_array_equal(got.numpy(), preprocess(Image.fromarray(image)).numpy())


def test_the_whole_image_is_kept_and_what_is_around_it_is_black():
    got = preprocess(np.full((100, 224, 3), 255, np.uint8)).numpy()
    black, white = -MEAN / STD, (1 - MEAN) / STD
    np.testing.assert_allclose(got[:, :62], np.broadcast_to(black[:, None, None], (3, 62, 224)), atol=1e-6)
    np.testing.assert_allclose(got[:, 62:162], np.broadcast_to(white[:, None, None], (3, 100, 224)), atol=1e-6)
    np.testing.assert_allclose(got[:, 162:], np.broadcast_to(black[:, None, None], (3, 62, 224)), atol=1e-6)


def test_a_size_whose_rounding_depends_on_the_order():
    # 1280 x 180: 180 * 224 / 1280 is 31.5, which rounds to 32, and 180 * (224 / 1280) a little less, which is HPSv2's.
    got = preprocess(np.full((180, 1280, 3), 255, np.uint8))
    assert int((got[0, :, 112] > 0).sum()) == 31


def test_other_pictures():
    rgba = Image.new("RGBA", (30, 20), (255, 0, 0, 0))
    grey = Image.new("L", (30, 20), 128)
    red = np.zeros((20, 30, 3), np.uint8)
    red[..., 0] = 255
    assert torch.equal(preprocess(rgba), preprocess(red))
    assert torch.equal(preprocess(grey), preprocess(np.full((20, 30, 3), 128, np.uint8)))
    for wrong in (np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), red[:0]):
        with pytest.raises(ValueError, match="expected a uint8 image"):
            preprocess(wrong)
