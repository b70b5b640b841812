"""The GenEval reward: the benchmark's decision on what a detector finds, for a row with the benchmark's fields."""

from pathlib import Path

import numpy as np
import pytest

from detector_models import write_detector
from pairuni.config import RewardConfig, RewardOptions
from pairuni.errors import InputError
from pairuni.rewards import load_reward, side_reward
from pairuni.rewards.base import RewardInput, score_all
from pairuni.rewards.objects import GenEvalReward
from pairuni.types import Quadruple, Side

IMAGE = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
DOGS = {"include": [{"class": "dog", "count": 2}], "exclude": [{"class": "dog", "count": 3}]}
BLUE_CUP = {"include": [{"class": "dog", "count": 1}, {"class": "cup", "count": 1, "color": "blue"}]}
LEFT = {"include": [{"class": "dog", "count": 1}, {"class": "cup", "count": 1, "position": ["left of", 0]}]}


def ask(extra: dict, tag: str = "counting") -> RewardInput:
    quadruple = Quadruple("g1", Side.GENERATION, "g1.png", "a photo", "?", "A", tag, extra)
    return RewardInput(Side.GENERATION, quadruple, image=IMAGE)


def seen(name: str, x: int, score: float = 0.95, color: str | None = None) -> dict:
    return {"class": name, "box": [x, 0, x + 9, 9], "score": score, "color": color}


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What a stand-in for the detector reports."""
    boxes: list[dict] = []

    def detector(image: np.ndarray, coloured: list[str]) -> list[dict]:
        assert image is IMAGE
        return [{**box, "color": box["color"] if box["class"] in coloured else None} for box in boxes]

    monkeypatch.setattr("pairuni.rewards.objects.Mask2FormerDetector", lambda *names: detector)
    return boxes


@pytest.mark.parametrize(
    ("extra", "tag", "boxes", "whole", "partial"),
    [
        (DOGS, "counting", [seen("dog", 0), seen("dog", 20)], 1, 1),
        (DOGS, "counting", [seen("dog", 0), seen("dog", 20, 0.8)], 0, 0.5),  # counting asks for surer boxes
        (DOGS, "two_object", [seen("dog", 0), seen("dog", 20, 0.8)], 1, 1),
        (DOGS, "counting", [seen("dog", x) for x in (0, 20, 40)], 0, 0.5),
        (DOGS, "counting", [], 0, 0.5),
        (BLUE_CUP, "color_attr", [seen("dog", 0), seen("cup", 20, color="blue")], 1, 1),
        (BLUE_CUP, "color_attr", [seen("dog", 0), seen("cup", 20, color="red")], 0, 0.5),
        (BLUE_CUP, "color_attr", [seen("cat", 0)], 0, 0),
        (LEFT, "position", [seen("dog", 50), seen("cup", 0)], 1, 1),
        (LEFT, "position", [seen("dog", 0), seen("cup", 50)], 0, 0.5),
    ],
)
def test_the_score_is_the_benchmarks_decision(
    found: list[dict], extra: dict, tag: str, boxes: list[dict], whole: float, partial: float
) -> None:
    found += boxes
    for name, expected in (("geneval", whole), ("geneval_partial", partial)):
        reward = load_reward(name, Side.GENERATION)
        assert reward.name == name
        assert score_all(reward, [ask(extra, tag)] * 2).tolist() == [expected] * 2


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({}, "include"),
        ({"include": []}, "include"),
        ({"include": [{"class": "unicorn", "count": 1}]}, "include.0.class"),
        ({"include": [{"class": "dog", "count": 0}]}, "include.0.count"),
        ({"include": [{"class": "dog", "count": 1, "color": "mauve"}]}, "include.0.color"),
        ({"include": [{"class": "dog", "count": 1, "position": ["near", 0]}]}, "include.0.position"),
        ({"include": [{"class": "dog", "count": 1, "position": ["above", 0]}]}, "no clause 0 before it"),
        ({**DOGS, "exclude": [{"class": "dog"}]}, "exclude.0.count"),
    ],
)
def test_a_row_without_proper_metadata_is_named(found: list[dict], extra: dict, said: str) -> None:
    with pytest.raises(InputError, match=r"'g1'") as caught:
        GenEvalReward()([ask(extra)])
    assert said in str(caught.value) and "reward geneval" in str(caught.value)


def test_small_models_load_from_folders_and_score(tmp_path: Path) -> None:
    folder = write_detector(tmp_path)
    options = RewardOptions(weights=str(folder / "mask2former"), colours=str(folder / "clip"), device="cpu")
    config = RewardConfig(generation="geneval_partial", options={"geneval_partial": options})
    reward = side_reward(config, Side.GENERATION)
    every = {"include": [{"class": "dog", "count": 1, "color": "red"}, {"class": "cup", "count": 1}]}
    scores = score_all(reward, [ask(every), ask(every)])
    assert scores[0] == scores[1] and scores[0] in (0, 0.5, 1)
    with pytest.raises(InputError, match="tokenizer"):
        load_reward("geneval", Side.GENERATION, RewardOptions(tokenizer="x"))
    with pytest.raises(InputError, match="understanding"):
        load_reward("geneval", Side.UNDERSTANDING)
    with pytest.raises(InputError, match="no device"):
        load_reward("geneval", Side.GENERATION, RewardOptions(device="tpu9"))
