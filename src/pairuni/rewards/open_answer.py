"""Answers without options: exact, by number or formula, as in VQA; and whether an answer has the asked-for form.

`open` is for short answers with one truth: the same text after `choice.normalise`, or the same number or formula, which
math-verify decides. `vqa` is the consensus accuracy of VQA v2 (arXiv 1612.00837) where a sample carries several human
answers. A table in docs/rewards.md shows which answers each accepts; the tests read it.
"""

import logging
import re
import threading
from collections.abc import Sequence
from typing import Any

from pairuni.rewards.answer_text import final_answer, same
from pairuni.rewards.base import ItemReward, RewardInput
from pairuni.types import Side

_LONGEST = 400
"""Characters of an answer that are read as a formula; longer ones are no short answer."""
_SECONDS = 3
_FORMULA = re.compile(r"[0-9=^\\]")
_TOWER = re.compile(r"(?:\^|\*\*)[^+\-]*(?:\^|\*\*)|!|\d{40}")
"""Powers of powers, factorials and huge numbers, which are not worked out: that could take for ever."""
_LEAD = re.compile(
    r"^(?:so|thus|therefore|hence)?,?\s*(?:the\s+)?(?:final\s+|correct\s+|right\s+)?(?:answer\s*(?:is|:)|it\s+is|it's)\s*:?\s*",
    re.IGNORECASE,
)
_FORM = re.compile(r"\s*<think>\s*\S.*?</think>\s*<answer>\s*\S.*?</answer>\s*", re.DOTALL)
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def is_right_open(text: str, gold: str) -> bool:
    """Whether `text` gives the answer `gold`: after thinking, <answer>, \\boxed{} and "the answer is" are taken off."""
    answer = _LEAD.sub("", final_answer(text).strip())
    if same(answer, gold):
        return True
    return bool(_FORMULA.search(gold)) and _same_value(answer, gold)


def _same_value(answer: str, gold: str) -> bool:
    """Whether math-verify finds the same number or formula in both. The gold must be one as a whole."""
    if max(len(answer), len(gold)) > _LONGEST or _TOWER.search(answer) or _TOWER.search(gold):
        return False
    import math_verify  # here, since it loads sympy, which most rewards do without

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    # Its time limit is a signal, which only the main thread gets; what could hang is refused above.
    seconds = _SECONDS if threading.current_thread() is threading.main_thread() else None
    kinds = (math_verify.LatexExtractionConfig(), math_verify.ExprExtractionConfig())

    def read(text: str) -> Any:
        text = f"${text}$" if "\\" in text and "$" not in text else text
        return math_verify.parse(text, kinds, parsing_timeout=seconds)  # pyright: ignore[reportArgumentType]

    right, said = read(gold), read(answer)
    return bool(right and said and math_verify.verify(right, said, timeout_seconds=seconds))


# ---- VQA ------------------------------------------------------------------------------------------------------------

_ARTICLES = {"a", "an", "the"}
_NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6"}
_NUMBERS |= {"seven": "7", "eight": "8", "nine": "9", "ten": "10"}
_OWN_WORDS = {"its", "were", "well", "hell", "ill", "id", "wed", "shed", "shell", "wont", "cant"}
"""Words that "it's", "we're", ... would become without their apostrophe and that are words themselves."""
_AGREEING = 3
"""Human answers that make an answer fully right."""


def vqa_normalise(text: str) -> str:
    """Lower case without articles, punctuation and apostrophes; number words are digits ("two" is 2, "none" 0)."""
    text = " ".join(text.lower().split())
    text = re.sub(r"(?<=\d),(?=\d)", "", text)
    text = re.sub(r"(?<!\d)\.|\.(?!\d)", "", text)
    text = re.sub(r"[;/\[\]\"{}()=+\\_\-<>@`,?!:*]", " ", text)
    words = [word.replace("'", "") if word.replace("'", "") not in _OWN_WORDS else word for word in text.split()]
    return " ".join(_NUMBERS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(text: str, golds: Sequence[str]) -> float:
    """In [0, 1]: the mean over the human answers of min(1, agreeing others / 3); of one answer, whether it agrees.

    Raises:
        ValueError: no human answers.
    """
    if not golds:
        raise ValueError("VQA accuracy needs at least one human answer")
    said = _LEAD.sub("", final_answer(text).strip())
    agree = [same(said, gold, vqa_normalise) for gold in golds]
    if len(golds) == 1:
        return float(agree[0])
    return sum(min(1.0, (sum(agree) - own) / _AGREEING) for own in agree) / len(agree)


# ---- form -----------------------------------------------------------------------------------------------------------


def has_form(text: str) -> bool:
    """Whether it is <think>...</think><answer>...</answer>, each once, neither empty, and nothing else."""
    return _FORM.fullmatch(text) is not None and all(text.count(tag) == 1 for tag in _TAGS)


# ---- the rewards ----------------------------------------------------------------------------------------------------


def _vqa(item: RewardInput) -> float:
    answers = item.quadruple.extra.get("answers")
    if not (isinstance(answers, list) and answers and all(isinstance(answer, str) for answer in answers)):
        answers = [item.quadruple.answer]
    return vqa_accuracy(item.text or "", answers)


_ANSWERS = frozenset({Side.UNDERSTANDING})
OPEN = ItemReward("open", lambda item: float(is_right_open(item.text or "", item.quadruple.answer)), _ANSWERS)
"""1 for the right short answer, else 0."""
VQA = ItemReward("vqa", _vqa, _ANSWERS)
"""VQA accuracy against `answers` (a list of texts, a key of the user's own in the row), else against `answer`."""
FORMAT = ItemReward("format", lambda item: float(has_form(item.text or "")), _ANSWERS)
"""1 for <think>...</think><answer>...</answer>, else 0, whether or not the answer is right."""
