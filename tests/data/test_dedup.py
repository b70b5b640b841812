"""De-duplication and contamination: against brute force, and on photographs that were resized, encoded and cropped."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_files import write_lines
from pairuni.data import dedup
from pairuni.data.colour_hog import ColourHog
from pairuni.data.dedup import (
    PerceptualHash,
    cosine_of_bits,
    near_copies,
    near_references,
    read_references,
)
from pairuni.data.images import load_image
from pairuni.errors import InputError


def brute_force(features: np.ndarray, floor: float, kept: np.ndarray) -> set[int]:
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    originals: list[int] = []
    copies = set()
    for j in np.flatnonzero(kept):
        if any(float(unit[i] @ unit[j]) >= floor for i in originals):
            copies.add(int(j))
        else:
            originals.append(int(j))
    return copies


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(1, 40), floor=st.sampled_from([0.3, 0.6, 0.9]))
def test_near_copies_against_brute_force(seed, rows, floor):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, 3))
    kept = rng.random(rows) < 0.8
    block, dedup._ROWS = dedup._ROWS, int(rng.integers(1, 12))
    try:
        found = near_copies(features, floor, kept)
    finally:
        dedup._ROWS = block
    assert set(found) == brute_force(features, floor, kept)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    for j, (i, cosine) in found.items():
        assert i < j and i not in found and kept[i] and cosine == pytest.approx(float(unit[i] @ unit[j]), abs=1e-6)


def test_a_chain_of_copies_keeps_every_second():
    """0 ~ 1 ~ 2, but 2 is not near 0: only what copies something kept goes."""
    angles = np.deg2rad([0, 20, 40])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert list(near_copies(features, 0.9, np.ones(3, bool))) == [1]


def test_near_references_name_the_most_similar():
    rng = np.random.default_rng(0)
    references = rng.normal(size=(5, 8))
    rows = np.stack([references[3] * 2, rng.normal(size=8), references[1]])
    found = near_references(rows, references, 0.99, np.array([True, True, False]))
    assert found == {0: (3, 1.0)}
    assert near_references(rows, references[:0], 0.9, np.ones(3, bool)) == {}


def variants(image: np.ndarray) -> dict[str, np.ndarray]:
    picture, encoded = Image.fromarray(image), io.BytesIO()
    picture.save(encoded, "JPEG", quality=50)
    width, height = picture.size
    cut = picture.crop((width // 20, height // 20, width - width // 20, height - height // 20))
    half = picture.resize((width // 2, height // 2), Image.Resampling.LANCZOS)
    return {"half": np.asarray(half), "encoded": np.asarray(Image.open(encoded)), "crop": np.asarray(cut)}


def test_photographs(coco):
    """Hashes find resized and re-encoded copies and no others; features find crops that hashes miss."""
    images = [load_image(path) for path in sorted((coco / "images").iterdir())[:40]]
    hashes = PerceptualHash().features(images)
    floor = cosine_of_bits(6)
    assert near_copies(hashes, floor, np.ones(40, bool)) == {}
    rows = ColourHog().features(images)
    missed = 0
    for kind in ("half", "encoded", "crop"):
        changed = [variants(image)[kind] for image in images]
        found = near_copies(np.concatenate([hashes, PerceptualHash().features(changed)]), floor, np.ones(80, bool))
        assert all(i == j - 40 for j, (i, _) in found.items())
        if kind != "crop":
            assert len(found) >= 39, kind
        missed = 40 - len(found)
    assert missed >= 10, "hashes alone miss crops"
    crops = ColourHog().features([variants(image)["crop"] for image in images])
    found = near_references(crops, rows, 0.85, np.ones(40, bool))
    assert len(found) >= 36 and all(i == j for j, (i, _) in found.items())


@pytest.mark.parametrize("bits", [0, 1, 6, 32])
def test_cosines_count_bits(bits):
    one, other = np.ones(64), np.ones(64)
    other[:bits] = -1
    assert one @ other / 64 == cosine_of_bits(bits)


def test_references_are_read(tmp_path):
    rows = [{"image_path": "a.png", "question": "What is it?"}, {"prompt": "a cat", "n": 3}, {"prompt": 5}]
    found = read_references([str(write_lines(tmp_path / "r.jsonl", rows))])
    assert found.images == (tmp_path / "a.png",) and found.texts == ("What is it?", "a cat")
    with pytest.raises(InputError, match=r"r.jsonl:1: image_path"):
        read_references([str(write_lines(tmp_path / "r.jsonl", [{"image_path": "../a.png"}]))])
