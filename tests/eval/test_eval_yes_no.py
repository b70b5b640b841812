"""POPE and MME: how answers are read under each protocol, and the numbers worked out by hand."""

import pytest

from pairuni.eval import yes_no
from reference_cases import needs_reference, reference, reference_lines

# answer, then as pope_official, lmms_pope_pred, lmms_mme, internvl_bagel_mme and vlmevalkit read it: y, n or other (-)
READ = [
    ("Yes", "yyyyy"),
    ("no", "nnnnn"),
    ("NO", "ynnnn"),
    ("Yes.", "y-yyy"),
    ("No, there is none", "n-nnn"),
    ("", "y----"),
    ("not", "n-nn-"),
    ("isn't", "y----"),
    ("Not visible", "y-nn-"),
    ("I see no car", "n---n"),
    ("It is there. no", "y---n"),  # POPE reads up to the first full stop
    ("no\n", "ynnnn"),  # POPE splits at spaces only
    ("no\nbecause", "y-nnn"),
    (",no", "n-nnn"),
    ("yes no", "n-yy-"),
    ("know", "y-nn-"),
    ("The no", "n---n"),
    ("a no", "n-nnn"),  # within four characters
    ("a yes", "y---y"),
    ("   yes", "yyy-y"),  # InternVL's reading does not strip
    ("y", "y-y--"),
    ("N.", "y-n--"),
    ("y e", "y----"),
    ("n.o", "y-n-n"),  # full stops are taken out
    ("False", "y--n-"),
    ("true!", "y--y-"),
    ("是", "y--y-"),
    ("不是", "y--n-"),
    ("否", "y--n-"),
    ("答案是", "y--y-"),
    ("图片里 no", "n--nn"),  # other Chinese characters fall away
    ("y\nes", "y--y-"),
    ("(yes)", "y-yyy"),
    ("yes-man", "y-yyy"),  # a hyphen between words becomes a space
    ("a - yes-man", "y----"),  # ... and vanishes where one stands beside a space
    ("yes/or", "y-yyy"),
    ("**yes**", "y----"),
    ("yes: it is", "y-yy-"),
    ("'no'", "y-nn-"),
    ("1,000 yes/or", "y----"),
    ("Yes.No", "y-yy-"),
    ("7.yes", "y-y--"),
]
NAMES = ("pope_official", "lmms_pope_pred", "lmms_mme", "internvl_bagel_mme", "vlmevalkit")


@pytest.mark.parametrize(("response", "expected"), READ)
def test_reading(response: str, expected: str) -> None:
    said = [yes_no.parse(response, name) for name in NAMES]
    assert said == [{"y": "yes", "n": "no", "-": "other"}[mark] for mark in expected]


def test_only_the_first_32_full_stops_are_punctuation_for_vlmevalkit() -> None:
    assert yes_no.parse("a. " * 31 + "no.", "vlmevalkit") == "no"
    assert yes_no.parse("a. " * 32 + "no.", "vlmevalkit") == "other"
    assert yes_no.parse("1. " * 32 + "no.", "vlmevalkit") == "no"  # one beside a digit is no punctuation


def test_unknown_protocols() -> None:
    for name in ("official", "lmms_eval", "mine"):  # POPE's and MME's official readings differ
        with pytest.raises(ValueError, match=r"known: pope_official.*vlmevalkit"):
            yes_no.parse("yes", name)
    with pytest.raises(ValueError, match=r"POPE.*'lmms_mme'.*official, lmms_eval"):
        yes_no.pope(["yes"], ["yes"], "lmms_mme")
    with pytest.raises(ValueError, match=r"MME.*'pope_official'"):
        yes_no.mme({"OCR": ["yes", "no"]}, {"OCR": ["yes", "no"]}, "pope_official")


# ---- POPE -----------------------------------------------------------------------------------------------------------

ANSWERS = ["Yes", "yes", "No", "no", "yes.", "No way", "maybe", ""]
LABELS = ["yes", "no", "no", "yes", "yes", "no", "yes", "no"]


@pytest.mark.parametrize(
    ("protocol", "accuracy", "precision", "recall", "yes_ratio"),
    [
        # yes: 1, 2, 5, 7, 8; right: 1, 3, 5, 6, 7
        ("official", 5 / 8, 3 / 5, 3 / 4, 5 / 8),
        ("pope_official", 5 / 8, 3 / 5, 3 / 4, 5 / 8),
        # whole words only: yes 1, 2; no 3, 4; the other four are wrong and in no ratio; yes_ratio of the labels
        ("lmms_eval", 2 / 8, 1 / 2, 1 / 2, 4 / 8),
        # yes 1, 2, 5; no 3, 4, 6; the other two are wrong and not yes
        ("vlmevalkit", 4 / 8, 2 / 3, 2 / 4, 3 / 8),
    ],
)
def test_pope_by_hand(protocol: str, accuracy: float, precision: float, recall: float, yes_ratio: float) -> None:
    f1 = 2 * precision * recall / (precision + recall)
    scored = yes_no.pope(ANSWERS, LABELS, protocol)
    assert [*scored] == ["accuracy", "precision", "recall", "f1", "yes_ratio"]
    assert [*scored.values()] == pytest.approx([accuracy, precision, recall, f1, yes_ratio])


def test_lmms_eval_takes_the_share_of_yes_from_the_labels() -> None:
    assert yes_no.pope(["no"] * 4, ["yes", "no", "no", "no"], "lmms_eval")["yes_ratio"] == 0.25
    assert yes_no.pope(["no"] * 4, ["yes", "no", "no", "no"], "official")["yes_ratio"] == 0


def test_ratios_without_a_denominator_are_zero() -> None:
    for protocol in ("official", "lmms_eval", "vlmevalkit"):
        scored = yes_no.pope(["no", "no"], ["No", " no "], protocol)
        assert scored["accuracy"] == 1 and scored["precision"] == scored["recall"] == scored["f1"] == 0


def test_pope_refuses_labels_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="2 answers for 1 labels"):
        yes_no.pope(["yes", "no"], ["yes"], "official")
    with pytest.raises(ValueError, match="perhaps"):
        yes_no.pope(["yes"], ["perhaps"], "official")
    with pytest.raises(ValueError, match="0 answers"):
        yes_no.pope([], [], "official")


# ---- MME ------------------------------------------------------------------------------------------------------------


def test_mme_adds_accuracy_and_whole_images() -> None:
    answers = {"OCR": ["Yes", "No", "yes", "yes", "none", "y"], "code_reasoning": ["no", "no"]}
    labels = {"OCR": ["Yes", "No", "Yes", "No", "No", "Yes"], "code_reasoning": ["Yes", "No"]}
    # Images: right right, right wrong, right and then "y", which lmms-eval alone reads.
    assert yes_no.mme(answers, labels, "official") == {
        "perception": pytest.approx(100 * 4 / 6 + 100 / 3),
        "cognition": 50.0,
        "parts": {"OCR": pytest.approx(100), "code_reasoning": 50.0},
    }
    assert yes_no.mme(answers, labels, "lmms_eval")["perception"] == pytest.approx(100 * 5 / 6 + 200 / 3)
    assert yes_no.mme(answers, labels, "vlmevalkit")["perception"] == pytest.approx(100 * 3 / 6 + 100 / 3)


def test_two_right_answers_of_different_images_are_no_whole_image() -> None:
    labels = {"count": ["yes", "no", "yes", "no"]}
    assert yes_no.mme({"count": ["no", "no", "yes", "yes"]}, labels, "official")["parts"] == {"count": 50.0}
    assert yes_no.mme({"count": ["yes", "no", "no", "yes"]}, labels, "official")["parts"] == {"count": 100.0}


def test_all_right_is_2000_and_800() -> None:
    labels = {name: ["Yes", "No"] for name in (*yes_no.PERCEPTION, *yes_no.COGNITION)}
    scored = yes_no.mme(labels, labels, "official")
    assert (scored["perception"], scored["cognition"], len(scored["parts"])) == (2000, 800, 14)


@pytest.mark.parametrize(
    ("answers", "labels", "message"),
    [
        ({"OCR": ["yes"]}, {"OCR": ["yes"]}, "two questions"),
        ({"OCR": ["yes", "no"]}, {"OCR": ["yes"]}, "2 answers for 1 labels"),
        ({"OCR": []}, {"OCR": []}, "0 answers"),
        ({"ocr": ["yes", "no"]}, {"ocr": ["yes", "no"]}, "no category 'ocr'"),
        ({"OCR": ["yes", "no"]}, {"count": ["yes", "no"]}, "count"),
        ({"OCR": ["yes", "no"]}, {"OCR": ["yes", "sure"]}, "sure"),
    ],
)
def test_mme_refuses_what_does_not_fit(answers: dict, labels: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        yes_no.mme(answers, labels, "official")


@needs_reference
def test_the_reference_readings() -> None:
    cases = reference("reference_cases/yes_no_parse.json")
    assert len(cases) > 30
    for case in cases:
        for name in NAMES:
            said = case[name].lower() if case[name].lower() in ("yes", "no") else "other"
            assert yes_no.parse(case["response"], name) == said, (name, case)


@needs_reference
def test_pope_of_a_model_that_knows_the_labels_and_of_one_that_always_says_yes() -> None:
    for split in ("random", "popular", "adversarial"):
        labels = [row["label"] for row in reference_lines(f"pope/coco_pope_{split}.json")]
        for protocol in ("official", "lmms_eval", "vlmevalkit"):
            assert set(yes_no.pope(labels, labels, protocol).values()) == {1.0, 0.5}
            assert yes_no.pope(["yes"] * 3000, labels, protocol)["f1"] == pytest.approx(2 / 3)
