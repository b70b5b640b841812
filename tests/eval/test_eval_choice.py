"""MMMU and MMStar under each protocol: tables of answers with what the rules make of them, then the references."""

from typing import Any

import pytest

from pairuni.eval import multiple_choice as choice
from reference_cases import needs_reference, reference

FRUIT = {"A": "apple", "B": "pear", "C": "kiwi", "D": "fig"}
NESTED = {"A": "red", "B": "red apple", "C": "blue", "D": ""}

# answer, options, letter under official, lmms_eval and vlmevalkit
LETTERS: list[tuple[str, dict[str, str], str | None, str | None, str | None]] = [
    ("B", FRUIT, "B", "B", "B"),
    (" B ", FRUIT, "B", "B", "B"),
    ("b", FRUIT, None, None, None),
    ("", FRUIT, None, None, None),
    ("E", FRUIT, None, None, None),
    ("B.", FRUIT, "B", "B", "B"),
    ("'B'", FRUIT, "B", "B", None),  # the quotes are part of the word for VLMEvalKit
    ("B.,", FRUIT, "B", "B", "B"),
    ("B,.", FRUIT, None, None, "B"),  # marks are taken off in one order, once
    ("B)", FRUIT, None, None, "B"),
    ("(B)", FRUIT, "B", "B", "B"),
    ("(B", FRUIT, None, "B", "B"),
    ("**B**", FRUIT, None, None, "B"),
    ("B\n", FRUIT, None, None, "B"),
    ("the answer is B.", FRUIT, "B", "B", "B"),
    ("B: pear", FRUIT, None, None, "B"),
    ("pear", FRUIT, None, None, "B"),  # five words or fewer are not compared with the options
    ("PEAR!", FRUIT, None, None, "B"),
    ("I can see only a pear", FRUIT, "B", "B", "B"),
    ("I see only a pear", FRUIT, None, None, "B"),
    ("(A) or perhaps (C)", FRUIT, "C", "C", None),
    ("(C) or perhaps (A)", FRUIT, "A", "A", None),
    ("(A), not (B), so (A)", FRUIT, "A", "A", None),  # the last place of each counts
    ("(C), not A or B", FRUIT, "C", "C", None),  # brackets win over what comes later
    ("A or B", FRUIT, "B", "B", None),
    ("DNA is shown", FRUIT, None, "A", None),
    ("B of the DNA kind", FRUIT, "B", "B", None),  # A occurs only inside a word and has no place of its own
    ("DNA or NBC now", FRUIT, None, "A", None),  # no place of its own for either: the first option
    ("it can be seen in A.b", FRUIT, None, "A", "A"),
    ("I would take A. Or C.b after", FRUIT, None, "A", None),
    ("I would take A too, though five words follow", FRUIT, "A", "A", None),  # VLMEvalKit: not near the end
    ("so I would rather take A", FRUIT, "A", "A", "A"),
    ("take B then one two three", FRUIT, "B", "B", None),
    ("take B then one two", FRUIT, "B", "B", "B"),
    ("B then one two B", FRUIT, "B", "B", None),  # the first place counts
    ("Cannot determine the answer, B", FRUIT, "B", "B", "Z"),
    ("Z", FRUIT, None, None, "Z"),
    ("Z B", FRUIT, "B", "B", "B"),
    ("Failed to obtain answer via API. B", FRUIT, "B", "B", None),
    ("is it the pear or is it the fig here", FRUIT, "D", "D", None),
    ("is it the fig or is it the pear here", FRUIT, "B", "B", None),
    ("is it " + "really " * 6 + "the fig", FRUIT, "D", "D", None),  # longer than twice the options' texts
    ("it looks like a red apple here", {**NESTED, "D": "green"}, "A", "A", None),  # both begin in one place
    ("it looks like a red apple here", NESTED, "D", "D", None),  # an empty option is in every answer, at its end
]


@pytest.mark.parametrize(("response", "options", "official", "lmms", "kit"), LETTERS)
def test_letters(
    response: str, options: dict[str, str], official: str | None, lmms: str | None, kit: str | None
) -> None:
    found = [choice.parse_mmmu(response, options, name) for name in ("official", "lmms_eval", "vlmevalkit")]
    assert found == [official, lmms, kit]


def test_options_that_are_no_texts_and_longer_lists() -> None:
    numbers: Any = {"A": 12, "B": 7, "C": 3}
    assert choice.parse_mmmu("7", numbers, "vlmevalkit") == "B"
    assert choice.parse_mmmu("there are 7 of them in all", numbers, "official") == "B"
    assert numbers == {"A": 12, "B": 7, "C": 3}
    nine = dict(zip("ABCDEFGHI", map(str, range(9)), strict=True))
    assert choice.parse_mmmu("(I)", nine, "official") == "I"


def test_an_unknown_protocol_names_the_known_ones() -> None:
    calls = [
        lambda name: choice.parse_mmmu("B", FRUIT, name),
        lambda name: choice.mmstar("B", "B", name),
        lambda name: choice.mmmu_item(mc("x", "B"), gold("B"), name),
        lambda name: choice.score_mmstar([], name),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"'mine'.*official, lmms_eval, vlmevalkit"):
            call("mine")


# ---- open answers ---------------------------------------------------------------------------------------------------

OPEN: list[tuple[str, str | list[str], bool]] = [
    ("3.5", "3.5", True),
    ("3.50", "3.5", True),
    ("The answer is 3.50.", "3.5", True),
    ("3.501", "3.5", True),  # two decimals
    ("3.51", "3.5", False),
    ("3.5", "3.499", True),
    ("35", "3.5", False),
    ("1,234", "1234", True),
    ("1234", "1,234", True),
    ("1,234", "234", True),  # the third pass begins behind the comma
    ("1,234", "1", False),
    ("it cost $1,234.56 then", "1234", True),
    ("1e3", "1000", True),
    ("1e3", "3", True),
    ("1e3", "1", False),
    ("1.5E+2 m", "150", True),
    ("1.5E+2 m", "1.5", False),
    ("-5", "-5", True),
    ("-5", "5", False),
    ("5", "-5", False),
    ("5 apples", "5", True),
    (".5", "0.5", False),  # full stops around the answer go first
    ("it is .5", "0.5", True),
    ("1/64", "1/64", True),
    ("1/64", "64", True),
    ("$\\frac{1}{64}$", "1/64", False),
    ("24/7", ["24/7", "3.429"], True),
    ("3.43", ["24/7", "3.429"], True),
    ("24", ["24/7", "3.429"], False),
    ("Florida, of course", ["Tampa", "Florida"], True),
    ("FLORIDA", "florida", True),
    ("flor", "Florida", False),  # the gold in the answer, not the answer in the gold
    ("nothing", [], False),
    ("C", "C", True),
    ("step c", "C", True),
    ("c is it not", "C", False),  # the tail behind "is " has no c
    ("cc", "C", False),
    ("abc def", "C", True),  # c and a space
    ("", "5", False),
    ("", "", True),  # nothing is in everything
    ("nan", "nan", False),
    ("The result is 7, therefore it could be 8", "7", False),  # the shortest tail alone is read
    ("The result is 7, therefore it could be 8", "8", True),
    ("The answer is 7.\nI like 8", "8", False),
    ("I like 8\nThe answer is 7", "8", False),
    ("I like 8\nno cue", "8", True),
    ("it is 5 is 6", "5", False),  # the last of a cue
    ("soap 3", "soap", True),  # a cue ends with a space
    ("It is 7. So 9", "7", False),  # sentences are not split
    ("x = 7\ny is 8", "7", False),  # an equals sign counts in the last line only
    ("y is 8\nx = 7", "7", True),
    ("x=7=8", "8", True),
    ("the answer is", "is", True),  # the second cue ends the line and has lost its space
    ("it is :", "it is", True),  # a lone mark is no tail, so the whole answer is read
    ("it is : \nthen so 4", "4", True),
]


@pytest.mark.parametrize(("response", "gold", "right"), OPEN)
def test_open_answers(response: str, gold: str | list[str], right: bool) -> None:
    assert choice.mmmu_open(response, gold) is right


@pytest.mark.parametrize("cue", ["could be", "so", "is", "thus", "therefore", "final", "answer", "result"])
def test_what_stands_before_a_cue_is_not_the_answer(cue: str) -> None:
    assert choice.mmmu_open(f"7 {cue} 8", "8") and not choice.mmmu_open(f"7 {cue} 8", "7")
    assert choice.mmmu_open(f"7 {cue[:-1]} 8", "7")


def test_open_candidates() -> None:
    assert choice.open_candidates("C") == [" c", "c "]
    assert choice.open_candidates("so the result is 1/64.") == ["1/64", 1.0, 64.0]
    assert choice.open_candidates("20,000,000") == [20000000.0, 0.0]
    # A cue with nothing behind it gives way to the next one, however long its tail.
    assert choice.open_candidates("final say so \nno cue") == ["say so"]
    assert choice.open_candidates("the answer is 5 =") == ["the answer is 5 =", 5.0]


# ---- MMMU -----------------------------------------------------------------------------------------------------------


def mc(item: str, response: str) -> dict[str, Any]:
    return {"id": item, "response": response, "index2ans": FRUIT, "all_choices": list(FRUIT)}


def gold(answer: Any, kind: str = "multiple-choice") -> dict[str, Any]:
    return {"question_type": kind, "ground_truth": answer}


ANSWERS = {
    "validation_Art_Theory_1": gold("B"),
    "validation_Art_Theory_2": gold("B"),
    "validation_Math_1": gold("D"),
    "validation_Math_2": gold(["24/7", "3.429"], "short-answer"),
    "validation_Math_3": gold("C", "short-answer"),
    "validation_Math_4": gold("5", "short-answer"),
}
OUTPUTS = [
    mc("validation_Art_Theory_1", "B"),
    mc("validation_Art_Theory_2", "b"),
    mc("validation_Math_1", "A"),
    {"id": "validation_Math_2", "response": "24/7"},
    {"id": "validation_Math_3", "response": "C"},
    {"id": "validation_Math_4", "response": "it is 5"},
]


def rated(outputs: list[dict[str, Any]], answers: dict[str, dict[str, Any]], protocol: str) -> list[tuple[bool, bool]]:
    """(right, read) of each item."""
    return [choice.mmmu_item(output, answers[output["id"]], protocol) for output in outputs]


def test_mmmu_counts_what_cannot_be_read_as_wrong() -> None:
    lone, right, wrong = (False, False), (True, True), (False, True)
    for protocol in ("official", "lmms_eval"):
        assert rated(OUTPUTS, ANSWERS, protocol) == [right, lone, wrong, right, right, right]
    # An open question is a choice between its gold, as written, and other answers; a gold letter cannot be hit.
    outputs = [*OUTPUTS[:5], OUTPUTS[5] | {"response": "5"}]
    assert rated(outputs, ANSWERS, "vlmevalkit") == [right, lone, wrong, lone, wrong, right]


def test_a_refusal_is_read_and_wrong_under_vlmevalkit() -> None:
    refused = [mc("validation_Math_1", "Cannot determine the answer")]
    assert rated(refused, ANSWERS, "vlmevalkit") == [(False, True)]
    assert rated(refused, ANSWERS, "official") == [(False, False)]


# ---- MMStar ---------------------------------------------------------------------------------------------------------

# answer, letters that are right under official, lmms_eval, vlmevalkit (without the options' texts)
STARS = [
    ("B", "B", "B", "B"),
    ("b", "B", "", ""),
    ("", "", "", ""),
    ("(", "", "", ""),
    ("(B) pear", "B", "B", "B"),
    ("(b", "B", "", ""),
    ("Option B", "B", "B", "B"),
    ("option\nb.", "B", "", ""),
    ("The answer is B", "B", "B", "B"),
    ("the answer is", "", "", ""),
    ("the answer is: B", "", "B", "B"),
    ("Answer: B", "A", "B", "B"),
    ("A dog", "A", "A", "A"),
    ("A dog and a cat, so B", "A", "A", ""),  # VLMEvalKit: two letters
    ("Band", "B", "B", ""),
    ("**B**", "", "B", "B"),
    ("I take B", "", "B", "B"),
    ("It is NBC", "", "C", ""),  # the last letter anywhere
    ("The answer is Dutch (B)", "D", "B", "B"),  # the last letter behind the announcement
    ("I choose Dutch Beer", "", "B", ""),
    ("the answer is (A) or Bach", "", "B", "A"),  # the last letter behind it, in a word or not
    ("so (B) is NBC", "", "B", "B"),  # the C at the end belongs to a word
    ("it is (C) or B. and", "", "C", ""),  # brackets before full stops
    ("so B. or A: then", "", "B", ""),
    ("so A: or B) then", "", "A", ""),
    ("so A) or B then", "", "A", ""),
    ("is it 2C", "", "C", ""),  # ends with a letter behind no letter
    ("答案是 B 。", "", "B", "B"),
    ("Cannot determine the answer B", "C", "B", ""),
]


@pytest.mark.parametrize(("response", "official", "lmms", "kit"), STARS)
def test_mmstar(response: str, official: str, lmms: str, kit: str) -> None:
    for protocol, right in (("official", official), ("lmms_eval", lmms), ("vlmevalkit", kit)):
        assert "".join(x for x in "ABCD" if choice.mmstar(response, x, protocol)) == right, protocol


def test_mmstar_gold() -> None:
    assert choice.mmstar("b", " B\n", "official") and choice.mmstar("B", " b", "lmms_eval")
    assert not any(choice.mmstar("pear", "B", protocol) for protocol in ("official", "vlmevalkit", "lmms_eval"))


def test_mmstar_is_the_mean_of_axes_under_lmms_eval_only() -> None:
    records = [("math", "geometry", True), ("math", "geometry", False), ("math", "geometry", False)]
    records += [("math", "statistics", True), ("logic", "code", False)]
    official = choice.score_mmstar(iter(records), "official")
    assert official == {"score": pytest.approx(40), "n": 5, "parts": {"math": 50.0, "logic": 0.0}}
    assert choice.score_mmstar(records, "vlmevalkit") == official
    lmms = choice.score_mmstar(records, "lmms_eval")
    assert lmms["score"] == pytest.approx(100 * (1 / 3 + 1 + 0) / 3)
    assert lmms["parts"] == {"math": pytest.approx(100 * (1 / 3 + 1) / 2), "logic": 0.0}
    with pytest.raises(ValueError, match="without answers"):
        choice.score_mmstar([], "official")


# ---- references -----------------------------------------------------------------------------------------------------


@needs_reference
def test_the_reference_letters() -> None:
    rows = [row for row in reference("reference_cases/mmmu_parse.json")["rows"] if row["type"] == "mc"]
    assert len(rows) > 20
    for row in rows:
        response, options = row["response"], row["options"]
        assert choice.parse_mmmu(response, options, "official") == row["official"], row
        assert choice.parse_mmmu(response, options, "lmms_eval") == row["lmms_073"], row
        if "vlmevalkit" in row:
            assert (choice.parse_mmmu(response, options, "vlmevalkit") or False) == row["vlmevalkit"], row
        for letter in "ABCD" if "lmms_mmstar" in row else "":
            assert choice.mmstar(response, letter, "lmms_eval") == (row["lmms_mmstar"] == letter), row


@needs_reference
def test_the_reference_open_answers() -> None:
    rows = [row for row in reference("reference_cases/mmmu_parse.json")["rows"] if row["type"] == "open"]
    assert len(rows) > 50
    for row in rows:
        assert sorted(map(str, choice.open_candidates(row["response"]))) == sorted(row["official"]), row
        assert choice.mmmu_open(row["response"], row["gold"]) == row["official_correct"], row


@needs_reference
def test_the_published_model_scores_329_of_900() -> None:
    outputs, answers = (reference(f"mmmu/{name}.json") for name in ("llava1.5_13b_outputs", "answer_dict_val"))
    found = rated(outputs, answers, "official")
    assert len(found) == 900 and sum(right for right, _ in found) == 329
    assert (
        len({choice.subject(output["id"]) for output in outputs}) == 30
        and [read for _, read in found].count(False) == 2
    )
