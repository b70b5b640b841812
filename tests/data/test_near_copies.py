"""Near copies on made cases: what is one picture, and what only looks alike to a hash or to features."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from data_files import write_lines
from pairuni.config import PairConfig
from pairuni.data.cleaning import PerceptualHash, cosine_of_bits, near_copies, proposed
from pairuni.data.colour_hog import ColourHog
from pairuni.data.images import load_image
from pairuni.data.pairing import run_pair
from pairuni.data.same_picture import same_picture, thumbnail
from pairuni.shapes.held_out import held_out_questions

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def resized(share: float) -> Change:
    def change(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        size = round(image.shape[1] * share), round(image.shape[0] * share)
        return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))

    return change


def encoded(quality: int) -> Change:
    def change(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=quality)
        return np.asarray(Image.open(buffer))

    return change


def cropped(share: float) -> Change:
    """So much of each side is cut, at one end or at both."""

    def change(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width = image.shape[:2]
        cut_y, cut_x = round(height * share), round(width * share)
        top, left = int(rng.integers(cut_y + 1)), int(rng.integers(cut_x + 1))
        return image[top : height - cut_y + top, left : width - cut_x + left]

    return change


def brighter(gain: float, offset: float = 0) -> Change:
    return lambda image, rng: np.clip(image.astype(float) * gain + offset, 0, 255).astype(np.uint8)


CHANGES: dict[str, tuple[Change, float]] = {
    "half": (resized(0.5), 0.95),
    "twice": (resized(2), 0.95),
    "quality 30": (encoded(30), 0.95),
    "quality 95": (encoded(95), 0.95),
    "5 % cut": (cropped(0.05), 0.8),
    "10 % cut": (cropped(0.10), 0.8),
    "15 % cut": (cropped(0.15), 0.8),
    "darker": (brighter(0.75), 0.95),
    "brighter": (brighter(1.25), 0.95),
    "raised": (brighter(1, 25), 0.95),
}


def written(text: str, size: tuple[int, int], at: tuple[int, int], points: int) -> np.ndarray:
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).text(at, text, fill="black", font=ImageFont.load_default(points))
    return np.asarray(image)


def sums(rng: np.random.Generator) -> list[np.ndarray]:
    texts = {f"{rng.integers(1, 10)} {rng.choice(list('+-x'))} {rng.integers(1, 10)} = ?" for _ in range(40)}
    return [written(text, (256, 128), (40, 40), 40) for text in sorted({"7 - 2 = ?", "9 x 8 = ?"} | texts)]


def pages(rng: np.random.Generator) -> list[np.ndarray]:
    words = ["the", "of", "and", "to", "in", "is", "that", "for", "it", "was", "with", "not", "this", "have", "from"]
    lines = ["\n".join(" ".join(rng.choice(words, 8)) for _ in range(14)) for _ in range(20)]
    return [written(text, (400, 300), (15, 10), 14) for text in lines]


def charts(rng: np.random.Generator) -> list[np.ndarray]:
    images = []
    for _ in range(30):
        image = Image.new("RGB", (320, 240), "white")
        draw = ImageDraw.Draw(image)
        draw.line([(40, 10), (40, 200), (310, 200)], fill="black")
        for place, height in enumerate(rng.integers(10, 180, 6).tolist()):
            draw.rectangle((55 + place * 42, 200 - height, 85 + place * 42, 199), fill=(70, 110, 180))
        images.append(np.asarray(image))
    return images


def flat_colours() -> list[np.ndarray]:
    colours = [(255, 0, 0), (0, 0, 255), (0, 255, 0), (255, 255, 0), (128, 0, 0), (0, 0, 0), (255, 255, 255)]
    return [np.full((64, 64, 3), colour, np.uint8) for colour in [*colours, (128, 128, 128), (200, 120, 40)]]


def textures(rng: np.random.Generator) -> list[np.ndarray]:
    """Stand-ins for photographs: smooth random fields of several sizes with a few hard-edged things."""
    images = []
    for _ in range(12):
        layers = [rng.uniform(0, 255, (n, n, 3)).astype(np.uint8) for n in (3, 8, 24)]
        big = [np.asarray(Image.fromarray(a).resize((320, 240), Image.Resampling.BICUBIC), float) for a in layers]
        image = Image.fromarray((0.5 * big[0] + 0.3 * big[1] + 0.2 * big[2]).astype(np.uint8))
        draw = ImageDraw.Draw(image)
        for _ in range(5):
            x, y, size = rng.integers(0, 260), rng.integers(0, 180), rng.integers(20, 60)
            draw.ellipse((int(x), int(y), int(x + size), int(y + size)), fill=tuple(rng.integers(0, 256, 3).tolist()))
        images.append(np.asarray(image))
    return images


def copies(images: list[np.ndarray]) -> dict[int, int]:
    """As run_pair finds them."""
    rows = ColourHog().features(images), PerceptualHash().features(images)
    config = PairConfig(quadruples="q.jsonl", output="out")
    seen = [thumbnail(image) for image in images]
    pairs = proposed(rows, rows, config.dedup_cosine, cosine_of_bits(config.dedup_bits))
    found = near_copies(pairs, lambda i, j: same_picture(seen[i], seen[j]))
    return {later: earlier for later, (earlier, _) in found.items()}


def check(originals: list[np.ndarray], rng: np.random.Generator) -> tuple[int, int]:
    """Each change of all originals, recall by change. Returns how many copies were called so, and how many wrongly."""
    called = wrong = 0
    number = len(originals)
    for name, (change, least) in CHANGES.items():
        found = copies(originals + [change(image, rng) for image in originals])
        right = sum(found.get(number + n) == n for n in range(number))
        assert right >= least * number, f"{name}: {right} of {number}"
        called, wrong = called + len(found), wrong + len(found) - right
    return called, wrong


def test_changed_pictures_are_found():
    rng = np.random.default_rng(0)
    called, wrong = check(textures(rng), rng)
    assert wrong <= 0.01 * called


@pytest.mark.parametrize("change", ["half", "quality 30", "darker", "brighter", "raised", "5 % cut"])
def test_changed_charts_are_found(change):
    """Brightened, their white is clipped, and the edges of their bars change in their own way."""
    rng = np.random.default_rng(3)
    originals = charts(rng)[:12]
    changed = [CHANGES[change][0](image, rng) for image in originals]
    found = sum(same_picture(thumbnail(a), thumbnail(b)) for a, b in zip(originals, changed, strict=True))
    assert found >= CHANGES[change][1] * len(originals)


def test_changed_photographs_are_found(coco):
    rng = np.random.default_rng(1)
    called, wrong = check([load_image(path) for path in sorted((coco / "images").iterdir())[:30]], rng)
    assert wrong <= 0.01 * called


@pytest.mark.parametrize("kind", [sums, pages, charts])
def test_pictures_that_only_look_alike_stay(kind):
    """Their features are alike at 0.95 and more, and many of their hashes agree."""
    assert copies(kind(np.random.default_rng(2))) == {}


def test_flat_colours_stay():
    images = flat_colours()
    assert copies(images) == {}
    red, dark = thumbnail(images[0]), thumbnail(images[4])
    assert not same_picture(red, dark), "a darker red is another colour where there is nothing else to see"
    assert same_picture(red, thumbnail(encoded(50)(images[0], np.random.default_rng(0))))


def test_views_of_one_scene_stay(coco):
    """Two thirds of a photograph each, from the left and from the right: half of it is on both."""
    for path in sorted((coco / "images").iterdir())[:25]:
        image = load_image(path)
        left, right = image[:, : int(image.shape[1] * 0.66)], image[:, int(image.shape[1] * 0.34) :]
        assert not same_picture(thumbnail(left), thumbnail(right)), path.name


def test_shapes_stay_unless_their_scenes_are_one():
    """300 test images: the few that go show what another shows, a pixel aside."""
    questions = held_out_questions(300)
    found = copies([q.image for q in questions])
    assert len(found) <= 4
    for later, earlier in found.items():
        apart = np.abs(questions[later].image.astype(int) - questions[earlier].image).max(axis=2) > 30
        assert apart.sum() <= 40, (later, earlier)


def test_pair_leaves_out_what_a_reference_shows(tmp_path):
    """References go through the same decision: a copy that was cut goes, another sum stays."""
    images = [*textures(np.random.default_rng(3))[:6], *sums(np.random.default_rng(3))[:4]]
    (tmp_path / "images").mkdir()
    rows = []
    for n, image in enumerate(images[:-1]):
        Image.fromarray(image).save(tmp_path / "images" / f"{n}.png")
        side = "generation" if n % 2 else "understanding"
        texts = {"prompt": f"prompt {n}", "question": f"question {n}?", "answer": "yes", "tag": "t"}
        rows.append({"id": f"q{n}", "side": side, "image_path": f"images/{n}.png", **texts})
    write_lines(tmp_path / "quadruples.jsonl", rows)
    (tmp_path / "benchmark").mkdir()
    Image.fromarray(cropped(0.1)(images[2], np.random.default_rng(4))).save(tmp_path / "benchmark" / "a.png")
    Image.fromarray(images[-1]).save(tmp_path / "benchmark" / "b.png")
    file = write_lines(tmp_path / "benchmark" / "items.jsonl", [{"image_path": "a.png"}, {"image_path": "b.png"}])
    options = {"quadruples": str(tmp_path / "quadruples.jsonl"), "output": str(tmp_path / "out")}
    for dedup in ("exact", "near"):
        config = PairConfig(**options, extractor="colour_hog", dedup=dedup, references=[str(file)], clusters=2)
        removed = run_pair(config)["counts"]["removed"]
        assert removed["image of a reference set"] == 1 and removed["near copy"] == 0
