"""WISE and ImgEdit: what a judge's reply says, and the means worked out by hand."""

import pytest

from pairuni.eval import judged
from reference_cases import needs_reference, reference


def wise(*numbers: float) -> dict[str, float]:
    return dict(zip(("consistency", "realism", "aesthetic_quality"), numbers, strict=False))


LEGACY = [
    ("Consistency: 2\nRealism: 1\nAesthetic Quality: 0", wise(2, 1, 0)),
    ("CONSISTENCY:2 realism 1 aesthetic quality\n0", wise(2, 1, 0)),
    ("**Consistency**: 2", wise(2)),
    ("**Consistency:** 2", {}),  # asterisks behind the colon
    ("Consistency\uff1a2", {}),  # the full-width colon
    ("Consistency - 2", {}),
    ("Consistency: -2", {}),
    ("Consistency : 2", wise(2)),
    ("Consistency: 12", wise(1)),  # one digit, whatever follows
    ("Consistency: 1.9\nRealism: 7", wise(1, 7)),  # no check of the range
    ("Consistency: 1\nConsistency: 2", wise(2)),  # the last
    ("Aesthetic: 1", {}),
    ("Aesthetic  Quality: 1", {}),
    ("2\n1\n0", wise(2, 1, 0)),
    (" 2 \n\n1\nthen\n0\n1", wise(2, 1, 0)),  # the first three
    ("2\n1", {}),
    ("2\n1\n3", {}),
    ("2 1 0", {}),
    ("Realism: 1\n2\n2\n2", {"realism": 1.0}),  # a label rules lone digits out
    ("", {}),
]
VERIFIED = [
    ("Score: 1", 1),
    ("**Score**: 0", 0),
    ("**Score:** 1", None),
    ("Score\uff1a1", None),
    ("score 0 because", 0),
    ("Score: 2", None),
    ("Score: 10", None),
    ("Score: 1.0", 1),
    ("Score: 0\nScore: 1", 0),  # the first
    ("Score: 2\nScore: 1", 1),
    ("The score is 1", None),
    ("Scores: 1", None),
    ("score=1", None),
    ("1", 1),
    ("fine\n 0 \n", 0),
    ("1\n0", None),  # two lone digits
    ("1\n1", None),
    ("2", None),
    ("Score: none\n1", 1),
    ("", None),
]


@pytest.mark.parametrize(("text", "found"), LEGACY)
def test_wise_legacy_replies(text: str, found: dict[str, float]) -> None:
    assert judged.parse_wise(text, "legacy") == found


@pytest.mark.parametrize(("text", "found"), VERIFIED)
def test_wise_verified_replies(text: str, found: int | None) -> None:
    assert judged.parse_wise(text, "verified") == ({} if found is None else {"score": found})


FIRST_IDS = {
    "legacy": {"culture": 1, "time": 401, "space": 568, "biology": 701, "physics": 801, "chemistry": 901},
    "verified": {"culture": 1, "time": 401, "space": 521, "biology": 641, "physics": 761, "chemistry": 881},
}


@pytest.mark.parametrize("version", ["legacy", "verified"])
def test_wise_categories_begin_and_end_at_their_ids(version: str) -> None:
    starts = FIRST_IDS[version]
    best = (2, 2, 2) if version == "legacy" else (1,)
    for name, first in starts.items():
        last = min([start - 1 for start in starts.values() if start > first], default=1000)
        for prompt in (first, last):
            assert judged.wise_score([[prompt, *best]], version)["parts"] == {name: pytest.approx(1)}


def test_wise_legacy_weighs_aspects_and_categories() -> None:
    records = [
        [1, 2, 0, 0],
        [2, 0, 0, 0],
        [401, 0, 2, 0],
        [568, 0, 0, 2],
        [701, 1, 1, 1],
        [801, 0, 0, 0],
        [901, 2, 2, 2],
    ]
    scored = judged.wise_score(records, "legacy")
    parts = {"culture": 0.35, "time": 0.2, "space": 0.1, "biology": 0.5, "physics": 0, "chemistry": 1}
    assert scored["parts"] == pytest.approx(parts)
    assert scored["overall"] == pytest.approx(0.4 * 0.35 + 0.167 * 0.2 + 0.133 * 0.1 + 0.1 * (0.5 + 0 + 1))
    assert judged.wise_score([[i, 2, 2, 2] for i in range(1, 1001)], "legacy")["overall"] == pytest.approx(1)


def test_wise_verified_weighs_culture_most() -> None:
    records = [[i, 1] for i in range(1, 1001) if i % 2]
    records += [[i, 0] for i in range(1, 1001) if not i % 2]
    assert judged.wise_score(records, "verified")["overall"] == pytest.approx(0.5)
    only_culture = [[first, int(name == "culture")] for name, first in FIRST_IDS["verified"].items()]
    assert judged.wise_score(only_culture, "verified")["overall"] == pytest.approx(0.4)
    only_space = [[first, int(name == "space")] for name, first in FIRST_IDS["verified"].items()]
    assert judged.wise_score(only_space, "verified")["overall"] == pytest.approx(0.12)


def test_wise_has_no_overall_score_while_a_category_is_empty() -> None:
    assert judged.wise_score([[1, 1], [2, 0]], "verified") == {"overall": None, "parts": {"culture": 0.5}}


def test_wise_refuses_records_that_do_not_fit() -> None:
    for call in (lambda: judged.parse_wise("", "new"), lambda: judged.wise_score([], "new")):
        with pytest.raises(ValueError, match=r"'new'.*legacy, verified"):
            call()
    for record, version, message in (
        ([1, 2], "legacy", "3 numbers"),
        ([1, 2, 2, 2], "verified", "1 numbers"),
        ([0, 1], "verified", "not 0"),
        ([1001, 2, 2, 2], "legacy", "not 1001"),
        ([1, 2], "verified", "0 or 1"),
    ):
        with pytest.raises(ValueError, match=message):
            judged.wise_score([record], version)


# ---- ImgEdit --------------------------------------------------------------------------------------------------------

# reply, numbers under official and under lmms_eval
EDITS = [
    ("Brief reasoning: good.\nPrompt Compliance: 5\nVisual Naturalness: 4\nIntegrity: 3", [5, 4, 3], [5, 4, 3]),
    ("Brief reasoning: 3\nA: 5\nB: 4\nC: 4", [3, 5, 4, 4], [5, 4, 4]),
    ("A: 5.\nB: 4\nC: 3", [4, 3], [5, 4, 3]),
    ("A: 5/5\nB: 4\nC: 3", [4, 3], [5, 4, 3]),
    ("A:5\nB:4\nC:3", [], [5, 4, 3]),
    ("  A: 5  \r\nB: 4\r\nC: 3", [5, 4, 3], [5, 4, 3]),
    ("Why: so: 5\nB: 4", [4], [0, 0, 0]),  # three pieces
    ("A: 5: x\nB: 4", [4], [0, 0, 0]),
    ("A: 5 of 1\nB: 4 of 1\nC: 3 of 1", [], [5, 4, 3]),  # colons before line ends
    ("A: 5 of 5\nB: -1\nC: 4.5", [], [5, 1, 5]),  # fewer than three after colons, so line ends
    ("A: 10\nB: 0\nC: 3", [10, 0, 3], [10, 0, 3]),  # no check of the range
    ("5\n4\n3", [], [5, 4, 3]),
    ("good 1\nA 5\nB 4\nC 3", [], [5, 4, 3]),  # the last three
    ("A: 5\nB: 4", [5, 4], [0, 0, 0]),
    ("A: \u00b2", [], [0, 0, 0]),
    ("", [], [0, 0, 0]),
]


@pytest.mark.parametrize(("text", "official", "lmms"), EDITS)
def test_imgedit_replies(text: str, official: list[int], lmms: list[int]) -> None:
    assert judged.parse_imgedit(text) == official == judged.parse_imgedit(text, "official")
    assert judged.parse_imgedit(text, "lmms_eval") == lmms


def test_imgedit_means() -> None:
    records = [("add", [5, 4, 4]), ("add", [3]), ("add", []), ("style", [1, 1, 2])]
    scored = judged.imgedit_score(iter(records))
    assert scored["parts"] == {"add": 3.67, "style": 1.33}  # the mean of 4.33 and 3 is 3.665, a bit above as a float
    assert scored["overall"] == pytest.approx((4.33 + 3 + 1.33) / 3)
    assert scored["type_mean"] == pytest.approx((scored["parts"]["add"] + 1.33) / 2)
    assert (scored["n"], scored["skipped"]) == (3, 1)
    exact = judged.imgedit_score([("add", [5.0, 4.0, 4.0]), ("add", [0.0, 0.0, 0.0])], "lmms_eval")
    assert exact["overall"] == pytest.approx(13 / 6) == exact["parts"]["add"] and exact["n"] == 2


def test_imgedit_refuses_what_has_no_score() -> None:
    with pytest.raises(ValueError, match=r"'vlmevalkit'.*official, lmms_eval"):
        judged.parse_imgedit("A: 5", "vlmevalkit")
    with pytest.raises(ValueError, match="without a judged edit"):
        judged.imgedit_score([("add", [])])


@needs_reference
def test_the_reference_replies() -> None:
    cases = reference("reference_cases/wise_parse.json")
    assert len(cases["parse_legacy"]) > 10 and len(cases["parse_verified"]) > 10
    for version in ("legacy", "verified"):
        for case in cases[f"parse_{version}"]:
            assert judged.parse_wise(case["text"], version) == case[version], case
    for case in reference("reference_cases/imgedit_parse.json")["parse"]:
        numbers = judged.parse_imgedit(case["text"])
        assert (round(sum(numbers) / len(numbers), 2) if numbers else None) == case["official_avg"], case
        assert judged.parse_imgedit(case["text"], "lmms_eval") == case["lmms_scores"], case
