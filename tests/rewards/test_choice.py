"""Reading letters out of answers and options out of questions: tables of cases, then properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairuni.rewards.base import RewardInput, score_all
from pairuni.rewards.choice import CHOICE, extract_choice, is_right, parse_options
from pairuni.types import Quadruple, Side

FOUR = {"A": "a blue bus", "B": "a red car", "C": "two dogs", "D": "U.S. Navy"}
NINE = dict(zip("ABCDEFGHI", ["1", "2", "3", "4", "5", "6", "7", "8", "9"], strict=True))

CHOSEN = [
    # a letter and nothing else
    ("B", "B"),
    ("b", "B"),
    (" b\n", "B"),
    ("B.", "B"),
    ("b)", "B"),
    ("(B)", "B"),
    ("[B]", "B"),
    ("( b )", "B"),
    ("**B**", "B"),
    ("`B`", "B"),
    ("__B__", "B"),
    ('"B"', "B"),
    ("'B'.", "B"),
    ("{B}", "B"),
    ("Ｂ", "B"),
    ("（B）", "B"),
    ("Option B", "B"),
    ("option b.", "B"),
    ("a", "A"),
    ("A", "A"),
    # a letter with its text
    ("B) a red car", "B"),
    ("B. A red car", "B"),
    ("B: a red car", "B"),
    ("(B) a red car", "B"),
    ("**B.** A red car", "B"),
    ("b. a red car", "B"),
    ("B - a red car", "B"),
    ("B (a red car)", "B"),
    ("A (the blue bus)", "A"),
    ("B, because it is red", "B"),
    ("B because the car is red", "B"),
    ("B\n\nThe car is red.", "B"),
    ("a red car (B)", "B"),
    ("two dogs (C)", "C"),
    ("D. U.S. Navy", "D"),
    ("A. A blue bus", "A"),
    # LaTeX and tags
    (r"\boxed{B}", "B"),
    (r"\boxed{\text{B}}", "B"),
    (r"$\boxed{\mathrm{(B)}}$", "B"),
    (r"So \boxed{A}? No: \boxed{C}", "C"),
    (r"The answer is $\text{C}$.", "C"),
    ("<answer>B</answer>", "B"),
    ("<answer> (b) </answer>", "B"),
    ("<think>A or B?</think><answer>C</answer>", "C"),
    ("<think>The answer is A.</think>\nB", "B"),
    ("looks like A</think> B", "B"),
    ("<answer>A</answer> wait <answer>C</answer>", "C"),
    ("<answer>C", "C"),
    (r"<answer>\boxed{D}</answer>", "D"),
    ("<ANSWER>B</ANSWER>", "B"),
    # sentences
    ("The answer is (C).", "C"),
    ("The answer is C", "C"),
    ("the answer is c.", "C"),
    ("Answer: D", "D"),
    ("Answer: **D**", "D"),
    ("Answer:\nD", "D"),
    ("### Answer\nD", "D"),
    ("answer is option b", "B"),
    ("The correct answer is option (b): a red car", "B"),
    ("The correct option is B, a red car.", "B"),
    ("The answer is A because the bus is blue.", "A"),
    ("The answer is B red car", "B"),
    ("My final answer would be D.", "D"),
    ("I choose C.", "C"),
    ("I would go with option C", "C"),
    ("I think it is C, not A", "C"),
    ("It is not A but B.", "B"),
    ("It's C.", "C"),
    ("The answer is not A, it is B.", "B"),
    ("The answer is A. No, wait, the answer is B.", "B"),
    ("A. Hmm, actually the answer is B.", "B"),
    ("B is correct.", "B"),
    ("Option C is the right answer.", "C"),
    ("(A) is wrong, (B) is right.", "B"),
    ("A is wrong, so B.", "B"),
    ("Option A is wrong, therefore option D.", "D"),
    ("C, not A", "C"),
    ("C rather than A", None),
    ("The car is not a bus.\nThe wheels are round.\nB", "B"),
    ("A is blue, B is red, and the thing is red.\n\nB.", "B"),
    ("Look at the wheels. B", "B"),
    ("The dog in the picture matches option C best.", "C"),
    ("If it is red, the answer is B.", "B"),
    ("I can't see it well, but I would guess B.", "B"),
    ("My choice is B", "B"),
    ("Selected option: C", "C"),
    ("Ans: B", "B"),
    ('{"answer": "B"}', "B"),
    ("I think B", "B"),
    ("Definitely B", "B"),
    ("Based on the image, B.", "B"),
    ("A or B? I think B.", "B"),
    ("The answer is <b>B</b>", "B"),
    # the option's own text
    ("a red car", "B"),
    ("A red car.", "B"),
    ("Red car", "B"),
    ("two dogs", "C"),
    ("The answer is a red car.", "B"),
    ("It is a red car", "B"),
    ("U.S. Navy", "D"),
]

UNDECIDED = [
    "",
    "   ",
    "...",
    "A or B",
    "A, B",
    "A and B",
    "A/B",
    "A & C",
    "(A) or (B)",
    "A. B",
    "A\nB\nC\nD",
    "The answer is A or B.",
    "The answer is either A or B",
    "It is both A and C.",
    "It is A or maybe it is B",
    "The answer is A, B",
    "A. a blue bus B. a red car C. two dogs D. U.S. Navy",
    "A. a blue bus\nB. a red car\nC. two dogs\nD. U.S. Navy",
    "(A) a blue bus (B) a red car",
    "I cannot tell whether the answer is A or B",
    "I don't know if the answer is A",
    "The answer is not A.",
    "Neither A nor B",
    "I think a dog is sitting",
    "This is clearly a dog.",
    "Options: A. a blue bus B. a red car",
    "Not B",
    "Option A is wrong.",
    "A dog is sitting",
    "A bus",
    "I see a dog and a cat.",
    "I cannot tell",
    "None of the above",
    "Sorry, I can't help with that.",
    "E",
    "(E)",
    "The answer is E.",
    r"\boxed{E}",
    r"\boxed{}",
    "<answer></answer>",
    "<think>The answer is A.",
    "<think>B</think>",
    "Vitamin C is shown",
    "An A-frame house",
    "plan B-52",
    "C++",
    "Apple",
    "ABCD",
    "Yes",
    "It is sunny, so a dog sits outside.",
]


@pytest.mark.parametrize(("text", "letter"), CHOSEN)
def test_chosen_letter(text, letter):
    assert extract_choice(text, FOUR) == letter


@pytest.mark.parametrize("text", UNDECIDED)
def test_no_choice(text):
    assert extract_choice(text, FOUR) is None


@pytest.mark.parametrize(
    ("text", "options", "letter"),
    [
        ("G", NINE, "G"),
        ("I", NINE, "I"),
        ("I think it is C", NINE, "C"),
        ("So I would choose H.", NINE, "H"),
        ("I, being a model, cannot tell", NINE, None),
        ("7", NINE, "G"),
        ("The answer is 7.", NINE, "G"),
        ("7.0", NINE, "G"),
        ("10", NINE, None),
        ("Z", {"Y": "p", "Z": "q"}, "Z"),
        ("B", {"A": "B", "B": "A"}, "B"),
        ("C", {"A": "C", "B": "D"}, "A"),
        ("C++", {"A": "C", "B": "C++", "C": "C#"}, "B"),
        ("-5", {"A": "5", "B": "-5"}, "B"),
        ("1,000", {"A": "100", "B": "1000"}, "B"),
        ("red", {"A": "red", "B": "Red "}, None),
        ("None of the above", {"A": "cat", "B": "none of the above"}, "B"),
        ("A dog is sitting", {"A": "a cat is sitting", "B": "a dog is sitting"}, "B"),
        ("A dog", {"A": "a cat", "B": "a dog"}, "B"),
        ("yes", {"A": "yes", "B": "no"}, "A"),
        ("No, there is none.", {"A": "yes", "B": "no"}, "B"),
        ("no (A)", {"A": "yes", "B": "no"}, "A"),
        ("b", {"a": "x", "b": "y"}, "b"),
        ("B", {}, None),
        ("B", {"A": "", "B": ""}, "B"),
        ("", {"A": "", "B": ""}, None),
        (r"\(\text{B}\)", {"A": "1", "B": "2"}, "B"),
        ("$2$", {"A": "1", "B": "2"}, "B"),
    ],
)
def test_other_options(text, options, letter):
    assert extract_choice(text, options) == letter


def test_letters_of_options_are_single():
    for options in ({"AB": "x"}, {"1": "x"}, {"a": "x", "A": "y"}):
        with pytest.raises(ValueError, match="single letters"):
            extract_choice("A", options)


ANSWERISH = st.lists(
    st.sampled_from(["A", "b", "(C)", "or", "not", "answer", "is", "the", ",", ".", "\n", "so", "<think>", "</think>"])
    | st.sampled_from(
        ["\\boxed{", "}", "<answer>", "</answer>", "option", "a red car", "**", "I", "E", "it", "/", "if"]
    ),
    max_size=14,
).map(" ".join)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40) | ANSWERISH, st.integers(0, 26))
def test_never_raises_and_stays_among_the_options(text, count):
    options = {chr(65 + i): f"option text {i}" for i in range(count)}
    assert extract_choice(text, options) in {None, *options}


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(sorted(FOUR)), st.sampled_from(["{}", "({})", "The answer is {}.", "<answer>{}</answer>"]))
def test_what_was_thought_before_changes_nothing(letter, form):
    thought = "<think>It is A or B. (D) is right. The answer is C.</think>"
    assert extract_choice(thought + form.format(letter), FOUR) == letter


@pytest.mark.parametrize(
    "text", ["A, B, " * 3000, "(A) or (B) or " * 3000, "the answer is " * 2000, " " * 20000, "not A but " * 2000]
)
def test_long_repetitions_neither_recurse_nor_hang(text):
    assert extract_choice(text, FOUR) is None


INSTRUCTION = "\nAnswer with the options letter from the given choices directly."


@pytest.mark.parametrize(
    ("question", "options"),
    [
        ("What is it? A. a bus B. a car C. a dog D. a cat" + INSTRUCTION, ["a bus", "a car", "a dog", "a cat"]),
        ("What is it?\nA. a bus\nB. a car\nC. a dog" + INSTRUCTION, ["a bus", "a car", "a dog"]),
        ("What is it? (A) a bus (B) a car" + INSTRUCTION, ["a bus", "a car"]),
        ("What is it? A) a bus B) a car", ["a bus", "a car"]),
        ("What is it?\nOptions: A: red, B: blue, C: green, D: white", ["red", "blue", "green", "white"]),
        ("What is it? A.red B.blue C.green", ["red", "blue", "green"]),
        ("Which? A. yes B. no", ["yes", "no"]),
        ("Who? A. U.S. Navy B. Dr. No C. J. B. Smith D. none.", ["U.S. Navy", "Dr. No", "J. B. Smith", "none."]),
        ("When? A. 9 A.M. B. 10 A.M. C. 3.5 hours", ["9 A.M.", "10 A.M.", "3.5 hours"]),
        ("Who is older, A. Smith or B. Jones? A. Smith B. Jones", ["Smith", "Jones"]),
        ("Which? A. Vitamin A. B. Vitamin B. C. Vitamin C.", ["Vitamin A.", "Vitamin B.", "Vitamin C."]),
        ("Which? A. Vitamin B. B. Vitamin C. C. none", ["Vitamin B.", "Vitamin C.", "none"]),
        ("Which?\nA. one\nof two lines\nB. other\n\nChoose one.", ["one of two lines", "other"]),
        ("Pick. A. x B. y Answer with the option's letter from the given choices directly.", ["x", "y"]),
        ("Pick. A. x B. y Please select the correct option.", ["x", "y"]),
        ("A. x B. y", ["x", "y"]),
        ("How many? A. 1 B. 2 C. 3 D. 4 E. 5 F. 6 G. 7", ["1", "2", "3", "4", "5", "6", "7"]),
        ("The line\nA. is long. Which?\nA. x\nB. y", ["x", "y"]),
        ("图中有几只猫？\nA、一只\nB、两只\nC、三只", ["一只", "两只", "三只"]),
        ("图中有几只猫？A、一只 B、两只 C、三只", ["一只", "两只", "三只"]),
        ("图中有几只猫？A．一只 B．两只 C．三只", ["一只", "两只", "三只"]),
        ("图中有几只猫？\nＡ．一只\nＢ．两只", ["一只", "两只"]),
        ("图中有几只猫？（A）一只（B）两只（C）三只", ["一只", "两只", "三只"]),
        ("猫は何匹ですか？ A：一匹 B：二匹", ["一匹", "二匹"]),
        ("고양이는 몇 마리입니까? (A) 한 마리 (B) 두 마리", ["한 마리", "두 마리"]),
        ("How many? (a) one (b) two (c) three", ["one", "two", "three"]),
        ("How many?\n(a) one\n(b) two", ["one", "two"]),
        ("How many?\na) one\nb) two", ["one", "two"]),
        ("How many?\n1. one\n2. two\n3. three", ["one", "two", "three"]),
        ("How many?\n1) one\n2) two", ["one", "two"]),
        ("How many?\n(1) one\n(2) two", ["one", "two"]),
        ("How long?\n1. 1.5 m\n2. 2.5 m", ["1.5 m", "2.5 m"]),
    ],
)
def test_parse_options(question, options):
    assert parse_options(question) == dict(zip("ABCDEFG", options, strict=False))


@pytest.mark.parametrize(
    "question",
    [
        "",
        "What is it?",
        "Is A. x right?",
        "B. x C. y",
        "A. x C. y",
        "Is there a dog?" + INSTRUCTION,
        "A. B.",
        "A dog or B?",
        "Add 1. and 2. What is it?",
        "2. one\n3. two",
        "It costs\n1.5 dollars or\n2.5 dollars?",
        "f(a) is more than f(b). By how much?",
    ],
)
def test_questions_without_options(question):
    assert parse_options(question) == {}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.from_regex(r"[a-z][a-z ]{0,8}[a-z]", fullmatch=True), min_size=2, max_size=26),
    st.sampled_from(["{}. {}", "({}) {}", "{}) {}"]),
    st.sampled_from([" ", "\n"]),
)
def test_written_options_are_read_back(texts, form, between):
    texts = [" ".join(t.split()) + " thing" for t in texts]
    written = between.join(form.format(chr(65 + i), t) for i, t in enumerate(texts))
    assert list(parse_options(f"What is in the image?{between}{written}{INSTRUCTION}").values()) == texts


MC = "What is it? A. a bus B. a car C. a dog D. a cat" + INSTRUCTION


@pytest.mark.parametrize(
    ("text", "question", "gold", "right"),
    [
        ("B", MC, "B", True),
        ("<think>A?</think><answer>B</answer>", MC, "B", True),
        ("a car", MC, "B", True),
        ("A", MC, "B", False),
        ("A or B", MC, "B", False),
        ("", MC, "B", False),
        ("B", MC, "a car", True),
        ("a car", MC, "(B) a car", True),
        ("C", MC, "a car", False),
        ("E", MC, "E", True),
        ("A", MC, "E", False),
        ("B", "Which angle is drawn?", "B", True),
        ("The answer is C.", "Which angle is drawn?", "B", False),
        ("Yes, there is.", "Is there a dog?", "yes", True),
        ("**No**", "Is there a dog?", "No", True),
        ("no", "Is there a dog?", "yes", False),
        ("There is, yes", "Is there a dog?", "yes", False),
        ("A", "Is there a dog? A. yes B. no", "yes", True),
        ("yes (A)", "Is there a dog? A. yes B. no", "A", True),
        ("The answer is 12.", "How many?", "12", True),
        (r"so \boxed{12.0}", "How many?", "12", True),
        ("The Eiffel Tower", "What is it?", "eiffel tower", True),
        ("12 or 13", "How many?", "12", False),
        ("2", "How many?\n1. one\n2. two", "2", True),
        ("two", "How many?\n1. one\n2. two", "2", True),
        ("B", "How many?\n1. one\n2. two", "2", True),
        ("The answer is 2. two", "How many?\n1. one\n2. two", "B", True),
        ("1", "How many?\n1. one\n2. two", "2", False),
        ("20", "How many?\n1. 10\n2. 20", "2", True),
        ("两只", "图中有几只猫？\nA、一只\nB、两只", "B", True),
        ("答案是B", "图中有几只猫？\nA、一只\nB、两只", "B", True),
        ("", "Which mark ends the sentence?", "!", False),
        ("?", "Which mark ends the sentence?", "!", False),
        ("!", "Which mark ends the sentence?", "!", True),
        ("...", "Which mark ends the sentence?", "", False),
        ("yes no", "Is there a dog?", "yes", False),
        ("yes or no", "Is there a dog?", "yes", False),
        ("No. Yes.", "Is there a dog?", "no", False),
        ("Yes. Wait, no.", "Is there a dog?", "yes", False),
        ("No, there is no dog.", "Is there a dog?", "no", True),
        ("Yes, no doubt.", "Is there a dog?", "yes", True),
        ("yes no", "Is there a dog? A. yes B. no", "A", False),
        ("", "How many?", "12", False),
    ],
)
def test_right_or_wrong(text, question, gold, right):
    assert is_right(text, question, gold) is right


def test_reward_scores_each_answer():
    half = Quadruple("q1", None, "images/1.png", "a red car", MC, "B")
    items = [RewardInput(Side.UNDERSTANDING, half, text=text) for text in ("B", "C", "", "a car")]
    np.testing.assert_array_equal(score_all(CHOICE, items), [1, 0, 0, 1])
