"""The GenEval detector on a small random Mask2Former and CLIP: what it reports is what their outputs say."""

import numpy as np
import pytest
import torch

from detector_models import write_detector
from pairuni.errors import InputError
from pairuni.rewards.object_detector import CLASSES, COLOURS, Found, Mask2FormerDetector, coloured_classes


@pytest.fixture(scope="module")
def models_folder(tmp_path_factory):
    return write_detector(tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="module")
def detector(models_folder) -> Mask2FormerDetector:
    return Mask2FormerDetector(str(models_folder / "mask2former"), str(models_folder / "clip"), side=64)


def image(seed: int = 0, height: int = 50, width: int = 70) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_objects_are_what_the_outputs_say(detector):
    found = detector.objects(image())
    assert found and [f.score for f in found] == sorted((f.score for f in found), reverse=True)
    pixels = detector._input(image(), detector._prepared)
    with torch.no_grad():
        out = detector._model(pixel_values=pixels)
    likely = out.class_queries_logits[0].softmax(-1)[:, :-1]
    for each in found:
        assert each.score > 0.3 and each.mask_HW.shape == (50, 70)
        x1, y1, x2, y2 = (int(edge) for edge in each.box)
        assert each.mask_HW[y1 : y2 + 1, x1 : x2 + 1].sum() == each.mask_HW.sum()
        assert each.mask_HW[y1].any() and each.mask_HW[y2].any()
        assert each.mask_HW[:, x1].any() and each.mask_HW[:, x2].any()
        # The class' probability of some query times how sure that query is of its mask.
        column = likely[:, CLASSES.index(each.name)]
        assert any(each.score <= float(p) for p in column)


def test_a_blank_or_tiny_image_is_no_error(detector):
    for shape in ((1, 1), (3, 200), (64, 64)):
        detector(np.zeros((*shape, 3), np.uint8), CLASSES)


def test_colours_are_named_only_where_they_are_asked_for(detector):
    found = detector(image())
    assert all(each["color"] is None for each in found)
    asked = found[0]["class"]
    again = detector(image(), [asked])
    assert {each["color"] in COLOURS for each in again if each["class"] == asked} == {True}
    assert [(e["class"], e["box"], e["score"]) for e in again] == [(e["class"], e["box"], e["score"]) for e in found]


def test_what_lies_outside_the_mask_does_not_change_the_colour_embedding(detector, monkeypatch):
    mask = np.zeros((40, 40), bool)
    mask[10:20, 5:30] = True
    found = Found("car", (5.0, 10.0, 29.0, 19.0), 0.9, mask)
    seen = []
    features = detector._clip.get_image_features
    monkeypatch.setattr(
        detector._clip, "get_image_features", lambda **k: seen.append(k["pixel_values"]) or features(**k)
    )
    first, second = image(1, 40, 40), image(2, 40, 40)
    second[mask] = first[mask]
    assert detector.colour(first, found) == detector.colour(second, found)
    assert torch.equal(seen[0], seen[1]) and seen[0].shape == (1, 3, 32, 32)
    third = first.copy()
    third[mask] = 255 - third[mask]
    detector.colour(third, found)
    assert not torch.equal(seen[0], seen[2])


def test_the_class_list_is_coco_under_the_benchmarks_names():
    assert len(CLASSES) == 80 == len(set(CLASSES))
    assert (CLASSES[0], CLASSES[64], CLASSES[65], CLASSES[66]) == (
        "person",
        "computer mouse",
        "tv remote",
        "computer keyboard",
    )


def test_coloured_classes():
    metadata = {"include": [{"class": "car", "color": "red", "count": 1}, {"class": "dog", "count": 1}]}
    assert coloured_classes(metadata) == ["car"] and coloured_classes({}) == []


def test_what_is_no_such_model_is_refused(models_folder, tmp_path):
    with pytest.raises(InputError, match="cannot be loaded"):
        Mask2FormerDetector(str(tmp_path), str(models_folder / "clip"))
