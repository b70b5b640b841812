"""Yes/no benchmarks, POPE and MME: how an answer is read under each protocol, and the published numbers.

Sources: POPE AoiDragon/POPE `evaluate.py` (MIT); MME as evaluated by InternVL and BAGEL (`post_processing`, then MME's
own `calculation.py`); lmms-eval 0.7.3 `tasks/pope`, `tasks/mme`; VLMEvalKit `dataset/utils/yorn.py`. Their oddities are
kept, because published numbers contain them.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from pairuni.eval.base import rule_of

YesNo = Literal["yes", "no", "other"]

PERCEPTION = ("existence", "count", "position", "color", "posters")
PERCEPTION += ("celebrity", "scene", "landmark", "artwork", "OCR")
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


# ---- reading an answer ----------------------------------------------------------------------------------------------


def _pope_official(response: str) -> YesNo:
    """Yes unless the first sentence has a word No, no or not: an empty answer is a yes, and so is "NO"."""
    words = response.split(".")[0].replace(",", "").split(" ")  # spaces only: "no\n" is another word
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def _pope_lmms(response: str) -> YesNo:
    """The whole answer must be the word: "Yes." is not."""
    return _word(response.lower().strip())


def _mme_lmms(response: str) -> YesNo:
    text = response.lower().strip().replace(".", "")
    return _word({"y": "yes", "n": "no"}.get(text, "")) if len(text) == 1 else _in_prefix(text)


def _mme_official(response: str) -> YesNo:
    """InternVL and BAGEL translate Chinese answers and true/false before MME's own rule."""
    text = response.replace("\n", "").replace("不是", "no").replace("是", "yes").replace("否", "no")
    text = text.lower().replace("true", "yes").replace("false", "no")
    return _in_prefix(re.sub("[\u4e00-\u9fa5]", "", text))


def _vlmevalkit(response: str) -> YesNo:
    """The word yes or the word no anywhere, and not both."""
    words = set(_without_punctuation(response.lower()).split()) & {"yes", "no"}
    return _word(words.pop()) if len(words) == 1 else "other"


def _word(text: str) -> YesNo:
    return "yes" if text == "yes" else "no" if text == "no" else "other"


def _in_prefix(text: str) -> YesNo:
    """MME looks at four characters: "none" and "not visible" are a no, "the answer is yes" is nothing."""
    return "yes" if "yes" in text[:4] else "no" if "no" in text[:4] else "other"


def _without_punctuation(text: str) -> str:
    """VLMEvalKit's VQA-style cleaning. Colons, quotes and asterisks stay, so "**yes**" is not the word yes."""
    result = text
    between_digits = re.search(r"\d,\d", text) is not None
    for mark in ';/[]"{}()=+\\_-><@`,?!':
        beside_space = f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if beside_space or between_digits else " ")
    # Upstream passes a regex flag where a count belongs: only the first 32 full stops go.
    return re.sub(r"(?<!\d)\.(?!\d)", "", result, count=32)


PARSERS: dict[str, Callable[[str], YesNo]] = {
    "pope_official": _pope_official,
    "lmms_pope_pred": _pope_lmms,
    "lmms_mme": _mme_lmms,
    "internvl_bagel_mme": _mme_official,
    "vlmevalkit": _vlmevalkit,
}
POPE_PARSERS = {
    "official": "pope_official",
    "lmms_eval": "lmms_pope_pred",
    **{name: name for name in ("pope_official", "lmms_pope_pred", "vlmevalkit")},
}
MME_PARSERS = {
    "official": "internvl_bagel_mme",
    "lmms_eval": "lmms_mme",
    **{name: name for name in ("internvl_bagel_mme", "lmms_mme", "vlmevalkit")},
}
"""POPE and MME are read differently by the official scripts and by lmms-eval, so `parse` takes the longer names."""


def parse(response: str, protocol: str) -> YesNo:
    """Reads an answer under the protocol of that name in PARSERS.

    Raises:
        ValueError: an unknown protocol; "official" and "lmms_eval" are, as they differ between POPE and MME.
    """
    return rule_of(protocol, PARSERS, "reading yes or no")(response)


# ---- POPE -----------------------------------------------------------------------------------------------------------


def pope(answers: Sequence[str], labels: Sequence[str], protocol: str) -> dict[str, float]:
    """Accuracy, precision, recall, F1 and share of yes of one POPE split, in [0, 1]; yes is the positive class.

    A ratio without a denominator is 0. Under lmms_eval an answer that is neither counts in the accuracy only, and
    yes_ratio is that of the labels; under vlmevalkit it counts as not yes.

    Args:
        answers: as generated, one for each question.
        labels: "yes" or "no", in the same order.

    Raises:
        ValueError: an unknown protocol, no answers, other lengths, or a label that is neither yes nor no.
    """
    parser = rule_of(protocol, POPE_PARSERS, "POPE")
    golds = _labels(labels, answers, "POPE")
    said = [PARSERS[parser](answer) for answer in answers]
    pairs = list(zip(said, golds, strict=True))
    hits = pairs.count(("yes", "yes"))
    missed = pairs.count(("no", "yes"))
    if parser == "vlmevalkit":
        missed += pairs.count(("other", "yes"))
    precision = _ratio(hits, said.count("yes"))
    recall = _ratio(hits, hits + missed)
    counted = golds if parser == "lmms_pope_pred" else said
    return {
        "accuracy": _ratio(sum(a == gold for a, gold in pairs), len(pairs)),
        "precision": precision,
        "recall": recall,
        "f1": _ratio(2 * precision * recall, precision + recall),
        "yes_ratio": _ratio(counted.count("yes"), len(counted)),
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _labels(labels: Sequence[str], answers: Sequence[str], name: str) -> list[str]:
    golds = [label.strip().lower() for label in labels]
    if len(answers) != len(golds) or not golds:
        raise ValueError(f"{name}: {len(answers)} answers for {len(golds)} labels")
    if wrong := set(golds) - {"yes", "no"}:
        raise ValueError(f"{name}: labels must be yes or no, not {sorted(wrong)}")
    return golds


# ---- MME ------------------------------------------------------------------------------------------------------------


def mme(
    answers_by_category: Mapping[str, Sequence[str]], labels_by_category: Mapping[str, Sequence[str]], protocol: str
) -> dict[str, Any]:
    """MME's points: perception (at most 2000), cognition (at most 800), and each category's (at most 200) in `parts`.

    A category's points are 100 x accuracy over its questions + 100 x share of images with both questions right. Totals
    are sums over the categories that are given.

    Args:
        answers_by_category: as generated; two consecutive ones belong to one image.
        labels_by_category: "Yes" or "No" in the same order, with the same categories.

    Raises:
        ValueError: an unknown protocol or category, other lengths, an odd number of answers, a label that is neither.
    """
    read = PARSERS[rule_of(protocol, MME_PARSERS, "MME")]
    if set(answers_by_category) != set(labels_by_category):
        raise ValueError(f"MME: answers of {[*answers_by_category]}, labels of {[*labels_by_category]}")
    parts = {}
    for category, answers in answers_by_category.items():
        if category not in (*PERCEPTION, *COGNITION):
            raise ValueError(f"MME has no category {category!r}; known: {', '.join((*PERCEPTION, *COGNITION))}")
        golds = _labels(labels_by_category[category], answers, f"MME {category}")
        if len(golds) % 2:
            raise ValueError(f"MME {category}: {len(golds)} answers, but each image has two questions")
        right = [read(answer) == gold for answer, gold in zip(answers, golds, strict=True)]
        both = [first and second for first, second in zip(right[::2], right[1::2], strict=True)]
        parts[category] = 100 * sum(right) / len(right) + 100 * sum(both) / len(both)
    return {
        "perception": sum(parts.get(category, 0.0) for category in PERCEPTION),
        "cognition": sum(parts.get(category, 0.0) for category in COGNITION),
        "parts": parts,
    }
