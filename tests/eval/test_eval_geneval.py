"""GenEval's means: each task weighs the same, a prompt counts once."""

import pytest

from pairuni.eval.tasks import geneval
from pairuni.rewards import geneval_rule as geometry


def prompt(tag: str, name: str) -> dict:
    return {"tag": tag, "include": [{"class": name, "count": 1}], "prompt": f"a photo of a {name}"}


def test_the_decision_is_the_one_of_training() -> None:
    assert geneval.score is geometry.score
    assert geneval.score([{"class": "cat", "box": [0, 0, 1, 1], "score": 0.4}], prompt("single_object", "cat"))


def test_tasks_weigh_the_same_whatever_their_size() -> None:
    results = [(prompt("counting", "cat"), right) for right in (True, False, False, False)]
    results += [(prompt("colors", "cat"), True)]
    results += [(prompt("colors", "dog"), False), (prompt("colors", "cow"), False), (prompt("colors", "pig"), False)]
    results += [(prompt("position", "cat"), True)]
    scored = geneval.aggregate(results)
    assert scored["parts"] == {"counting": 0.25, "colors": 0.25, "position": 1.0}
    assert scored["overall"] == pytest.approx(0.5)
    assert scored["images"] == pytest.approx(3 / 9) and scored["n"] == 9
    assert scored["prompts"] == pytest.approx(3 / 6)  # counting, colors of a cat, position


def test_a_prompt_with_any_right_image_is_right_wherever_its_images_stand() -> None:
    cat, dog = prompt("single_object", "cat"), prompt("single_object", "dog")
    results = [(cat, True), (dog, False), (cat, False), (dict(reversed(dog.items())), True)]
    scored = geneval.aggregate(iter(results))
    assert scored["prompts"] == 1 and scored["images"] == 0.5 == scored["overall"]
    assert geneval.aggregate([(cat, False)])["prompts"] == 0


def test_no_images_have_no_score() -> None:
    with pytest.raises(ValueError, match="no images"):
        geneval.aggregate([])
