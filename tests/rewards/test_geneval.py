"""GenEval's decision on boxes: the rules one by one, then the reference evaluator's answers."""

import math
from typing import Any

import pytest

from pairuni.rewards.geneval_rule import judge, relations, score
from reference_cases import needs_reference, reference, reference_lines


def box(name: str, score: float = 0.8, at: tuple[float, ...] = (0, 0, 10, 10), color: str = "red") -> dict[str, Any]:
    return {"class": name, "box": list(at), "score": score, "color": color}


def asks(tag: str, *include: dict[str, Any], exclude: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {"tag": tag, "include": list(include), "prompt": "", **({"exclude": exclude} if exclude else {})}


def needs(name: str, count: int = 1, **more: Any) -> dict[str, Any]:
    return {"class": name, "count": count, **more}


CAT = asks("single_object", needs("cat"))
TWO_CATS = asks("counting", needs("cat", 2), exclude=[needs("cat", 3)])


@pytest.mark.parametrize(
    ("sure", "right"), [(0.3, False), (0.300001, True), (0.2999, False), (1.0, True), (0.9, True), (0.0, False)]
)
def test_a_box_needs_a_score_above_three_tenths(sure: float, right: bool) -> None:
    assert score([box("cat", sure)], CAT) is right


@pytest.mark.parametrize(
    ("scores", "right"),
    [
        ((0.95, 0.91), True),
        ((0.95, 0.9), False),  # exactly nine tenths is not above it
        ((0.95, 0.8), False),
        ((0.95, 0.91, 0.9), True),
        ((0.95, 0.91, 0.92), False),  # one too many
        ((0.95,), False),
        ((), False),
    ],
)
def test_counting_wants_surer_boxes_and_exactly_so_many(scores: tuple[float, ...], right: bool) -> None:
    assert score([box("cat", s) for s in scores], TWO_CATS) is right


def test_extra_things_matter_only_where_they_are_excluded() -> None:
    assert score([box("cat"), box("cat"), box("dog")], CAT)
    no_dog = asks("single_object", needs("cat"), exclude=[needs("dog", 1)])
    assert not score([box("cat"), box("dog")], no_dog)
    assert score([box("cat"), box("dog", 0.3)], no_dog)
    assert not score([], asks("two_object", needs("cat"), needs("dog")))
    assert not score([box("cat"), box("cow")], asks("two_object", needs("cat"), needs("dog")))
    assert score([box("cat"), box("dog")], asks("two_object", needs("cat"), needs("dog")))
    assert score([], {"tag": "single_object"})


def test_at_most_sixteen_boxes_of_a_class_are_looked_at() -> None:
    many = [box("cat", 0.95 + i / 1000) for i in range(20)] + [box("dog", 0.99)]
    assert score(many, asks("counting", needs("cat", 16), exclude=[needs("cat", 17)]))
    assert not score(many, asks("counting", needs("cat", 16), exclude=[needs("cat", 16)]))
    assert not score(many, asks("counting", needs("cat", 17)))
    assert score(many, asks("counting", needs("dog", 1)))  # each class has its own sixteen


def test_colour_is_that_of_the_surest_boxes() -> None:
    blue = asks("colors", needs("cat", color="blue"))
    assert score([box("cat", 0.5), box("cat", 0.6, color="blue")], blue)  # whatever their order in the list
    assert score([box("cat", 0.6, color="blue"), box("cat", 0.5)], blue)
    assert not score([box("cat", 0.6), box("cat", 0.5, color="blue")], blue)
    assert score(
        [box("cat", 0.7, color="blue"), box("cat", 0.6, color="blue")], asks("colors", needs("cat", 2, color="blue"))
    )
    assert not score([box("cat", 0.7, color="blue"), box("cat", 0.6)], asks("colors", needs("cat", 2, color="blue")))


def test_of_equal_scores_the_later_box_comes_first() -> None:
    blue = asks("colors", needs("cat", color="blue"))
    assert score([box("cat", 0.5), box("cat", 0.5, color="blue")], blue)
    assert not score([box("cat", 0.5, color="blue"), box("cat", 0.5)], blue)


def test_each_object_has_its_own_colour() -> None:
    both = asks("color_attr", needs("cat", color="red"), needs("dog", color="blue"))
    assert score([box("cat"), box("dog", color="blue")], both)
    assert not score([box("cat", color="blue"), box("dog")], both)
    assert not score([box("cat"), box("dog", color="red")], both)


def test_a_colour_that_nobody_looked_at_is_an_error_where_it_is_asked_for() -> None:
    plain = {"class": "cat", "box": [0, 0, 9, 9], "score": 0.9}
    assert score([plain], CAT)
    with pytest.raises(ValueError, match="'cat'"):
        score([plain], asks("colors", needs("cat", color="red")))


LEFT = asks("position", needs("dog"), needs("cat", position=["left of", 0]))


def test_position_is_that_of_the_surest_box_and_its_target() -> None:
    here, far_right, far_left = (100, 0, 110, 10), (200, 0, 210, 10), (0, 0, 10, 10)
    assert score([box("dog", at=here), box("cat", at=far_left)], LEFT)
    assert not score([box("dog", at=here), box("cat", at=far_right)], LEFT)
    cats = [box("cat", 0.5, far_left), box("cat", 0.6, far_right)]
    assert not score([box("dog", at=here), *cats], LEFT)
    assert score([box("dog", 0.9, here), box("dog", 0.4, far_left), box("cat", at=(50, 0, 60, 10))], LEFT)


def test_every_pair_of_several_must_stand_so() -> None:
    several = asks("position", needs("dog"), needs("cat", 2, position=["left of", 0]))
    dog = box("dog", at=(100, 0, 110, 10))
    assert score([dog, box("cat", at=(0, 0, 10, 10)), box("cat", at=(20, 0, 30, 10))], several)
    assert not score([dog, box("cat", 0.9, (0, 0, 10, 10)), box("cat", 0.5, (200, 0, 210, 10))], several)
    targets = asks("position", needs("dog", 2), needs("cat", position=["left of", 0]))
    assert not score([dog, box("dog", 0.5, (0, 0, 10, 10)), box("cat", at=(50, 0, 60, 10))], targets)
    assert score([dog, box("dog", 0.5, (200, 0, 210, 10)), box("cat", at=(50, 0, 60, 10))], targets)


def test_a_target_that_is_not_there_or_of_the_wrong_colour_is_no_target() -> None:
    assert not score([box("cat")], LEFT)
    verdict = judge([box("cat")], LEFT)
    assert len(verdict.reasons) == 2 and "dog" in verdict.reasons[0] and "cat" in verdict.reasons[1]
    coloured = asks("position", needs("dog", color="blue"), needs("cat", position=["left of", 0]))
    pair = [box("dog", at=(100, 0, 110, 10)), box("cat")]
    assert len(judge(pair, coloured).reasons) == 2
    assert score([{**pair[0], "color": "blue"}, pair[1]], coloured)


def test_reasons_name_what_is_missing() -> None:
    assert judge([box("cat")], CAT).reasons == ()
    (reason,) = judge([box("cat", 0.95)] * 3, TWO_CATS).reasons
    assert "cat" in reason and "3" in reason
    (reason,) = judge([box("cat")], asks("colors", needs("cat", color="blue"))).reasons
    assert "blue" in reason and "red" in reason
    pair = [box("dog", at=(100, 0, 110, 10)), box("cat", at=(100, 200, 110, 210))]
    (reason,) = judge(pair, LEFT).reasons
    assert "left of" in reason and "below" in reason


# Boxes of size zero around the origin: the offset is the centre itself, and no slack is taken off.
POINT = (0.0, 0.0, 0.0, 0.0)


def point(x: float, y: float) -> tuple[float, ...]:
    return (x, y, x, y)


@pytest.mark.parametrize(
    ("place", "named"),
    [
        (point(-9, 0), {"left of"}),
        (point(9, 0), {"right of"}),
        (point(0, -9), {"above"}),  # y grows downwards
        (point(0, 9), {"below"}),
        (point(9, 9), {"right of", "below"}),
        (point(-9, -9), {"left of", "above"}),
        (point(10 * math.sin(math.radians(29)), 10 * math.cos(math.radians(29))), {"below"}),
        (point(10 * math.sin(math.radians(31)), 10 * math.cos(math.radians(31))), {"below", "right of"}),
        (point(0, 0), set()),
        (point(0.0009, 0), set()),
        (point(0.002, 0), {"right of"}),
    ],
)
def test_relations_by_direction(place: tuple[float, ...], named: set[str]) -> None:
    assert relations(place, POINT) == named


def test_sizes_take_a_tenth_of_their_sum_off_the_offset() -> None:
    assert relations((0, 0, 10, 10), (4, 0, 14, 10)) == set()  # 4 apart, less 2, is exactly half of 4
    assert relations((0, 0, 10, 10), (4.1, 0, 14.1, 10)) == {"left of"}
    assert relations((0, 0, 100, 100), (0, 10, 100, 110)) == set()  # nothing is left
    # The length is that of the whole offset, not of what is left of it.
    assert (
        relations((0, 0, 10, 10), (5, 1, 15, 11)) == {"left of"} and relations((0, 0, 10, 10), (5, 4, 15, 14)) == set()
    )


def test_overlapping_boxes_all_count() -> None:
    twins = [box("cat", 0.95), box("cat", 0.94, at=(1, 0, 11, 10)), box("cat", 0.93, at=(50, 50, 60, 60))]
    assert not score(twins, TWO_CATS)


@needs_reference
def test_the_reference_decisions() -> None:
    metadata = reference_lines("geneval/evaluation_metadata.jsonl")
    cases = reference("reference_cases/geneval_detections.json")
    assert len(cases["cases"]) > 400
    for case in cases["cases"]:
        verdict = judge(case["detections"], metadata[case["prompt_index"]])
        assert verdict.correct == case["correct"], case
        assert len(verdict.reasons) == len(case["reason"].splitlines()), case
    for case in cases["relative_position"]:
        assert relations(case["a"], case["b"]) == set(case["relations_a_to_b"])
