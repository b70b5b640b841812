"""Rewards of answers: the tables of docs/rewards.md are what they give; VQA accuracy equals its definition."""

import itertools
import re
import threading
from pathlib import Path

import numpy as np
import pytest

from pairuni.rewards import load_reward
from pairuni.rewards.base import RewardInput, score_all
from pairuni.rewards.open_answer import has_form, is_right_open, vqa_accuracy, vqa_normalise
from pairuni.types import Quadruple, Side

DOC = Path(__file__).parents[2] / "docs" / "rewards.md"
QUESTION = "What colour is it? A. red B. blue C. green D. yellow\nAnswer with the letter."
MORE = {
    "choice": [
        ("(b)", "B", 1),
        ("**B.** blue", "B", 1),
        (r"$\boxed{\text{B}}$", "B", 1),
        ("So the answer is blue, as one sees.", "B", 1),
        ("答えはBです", "B", 1),
        ("B</s>", "B", 1),
        ("E", "B", 0),
        ("I cannot tell.", "B", 0),
        ("A is wrong, so it must be B.", "B", 1),
        ("Réponse : B", "B", 1),
        ("The answer is B. Let me check again.", "B", 0),
        ("A. red B. blue C. green", "B", 0),
        ("答案是A。不对，应该是B。", "B", 1),
        ("The answer is A... wait, no, it is B.", "B", 1),
    ],
    "open": [
        ("3.0", "3", 1),
        (r"$\frac{2}{4}$", "0.5", 1),
        ("<think>2 + 2</think><answer>4</answer>", "4", 1),
        ("5", "4", 0),
        ("", "4", 0),
        ("", "?", 0),
        ("9^9^9^9", "3", 0),
        ("The final answer is 0.5.", "1/2", 1),
        ("The answer is: a giraffe", "giraffe", 1),
        ("1,234", "1234", 1),
    ],
    "vqa": [("2.5", "25", 0), ("cat", "dog", 0), ("dont know", "don't know", 1), ("1,000", "1000", 1)],
    "format": [
        ("<think></think><answer>B</answer>", "B", 0),
        ("<think>a</think><think>b</think><answer>B</answer>", "B", 0),
    ],
}
"""Cases beside those of the tables: answer, right, score."""
ROW = re.compile(r"^\| `(.*)` \| `(.*)` \| ([\d.]+) \|$|^\| `` \| `(.*)` \| ([\d.]+) \|$")


def cases() -> list[tuple[str, str, str, float]]:
    """(reward, answer, right, score) of all tables, and MORE."""
    found = [(reward, answer, right, float(score)) for reward, more in MORE.items() for answer, right, score in more]
    reward = ""
    for line in DOC.read_text(encoding="utf-8").splitlines():
        if line.startswith("### "):
            reward = line.removeprefix("### ").strip()
        elif match := ROW.match(line):
            answer, right, score = match.group(1), match.group(2), match.group(3)
            if answer is None:
                answer, right, score = "", match.group(4), match.group(5)
            found.append((reward, answer.replace("\\n", "\n"), right, float(score)))
    return found


def scored(name: str, text: str, gold: str, **extra: object) -> float:
    quadruple = Quadruple("x", None, "x.png", "p", QUESTION, gold, extra=extra)
    return float(
        score_all(load_reward(name, Side.UNDERSTANDING), [RewardInput(Side.UNDERSTANDING, quadruple, text)])[0]
    )


def test_the_tables_are_found():
    counted = {name: sum(case[0] == name for case in cases()) for name in ("choice", "open", "vqa", "format")}
    assert all(number >= 6 for number in counted.values()), counted


@pytest.mark.parametrize(("name", "answer", "right", "score"), cases())
def test_what_a_table_says_is_so(name, answer, right, score):
    assert scored(name, answer, right) == score


def by_definition(said: str, golds: list[str]) -> float:
    """Mean over all subsets of all answers but one (VQA v2)."""
    shares = [min(1.0, sum(g == said for g in subset) / 3) for subset in itertools.combinations(golds, len(golds) - 1)]
    return float(np.mean(shares))


@pytest.mark.parametrize("agreeing", range(11))
def test_vqa_accuracy_is_its_definition(agreeing):
    golds = ["dog"] * agreeing + ["cat"] * (10 - agreeing)
    assert vqa_accuracy("The dog.", golds) == pytest.approx(by_definition("dog", golds))
    assert scored("vqa", "The dog.", "ignored", answers=golds) == pytest.approx(by_definition("dog", golds))


def test_vqa_accuracy_needs_an_answer():
    with pytest.raises(ValueError, match="at least one"):
        vqa_accuracy("x", [])
    assert scored("vqa", "dog", "dog", answers=[]) == 1.0 and scored("vqa", "dog", "dog", answers="cat") == 1.0


def test_vqa_normalisation():
    assert vqa_normalise("  The TWO, dogs!  ") == "2 dogs" and vqa_normalise("None") == "0"
    assert vqa_normalise("3.5 m.") == "3.5 m" and vqa_normalise("isn't") == vqa_normalise("isnt")
    assert vqa_normalise("we're") != vqa_normalise("were")


def test_formulas_are_compared_in_any_thread_and_never_for_long():
    found = []
    thread = threading.Thread(target=lambda: found.append(is_right_open("$\\frac{3}{6}$", "1/2")))
    thread.start()
    thread.join(30)
    assert found == [True]
    for hopeless in ("9**9**9**9", "$9^{9^{9^9}}$", "1" * 50, "99999999!", "x" * 1000 + "1"):
        assert not is_right_open(hopeless, "17")


def test_a_gold_that_is_a_word_is_never_read_as_a_formula():
    assert not is_right_open("e", "x") and not is_right_open("pi", "tree") and not is_right_open("", "tree")


def test_thinking_that_never_ends_has_no_form_and_no_answer():
    assert not has_form("<think>it is 4") and not is_right_open("<think>it is 4", "4")


@pytest.mark.parametrize("gold", [".", "?", "!", "()", "the", "-"])
def test_an_empty_answer_is_never_right(gold: str) -> None:
    for empty in ("", "  ", "\n", "<answer></answer>", "\\boxed{}", "The answer is"):
        assert not is_right_open(empty, gold) and vqa_accuracy(empty, [gold]) == 0, empty
    assert is_right_open(gold, gold) and vqa_accuracy(gold, [gold]) == 1
