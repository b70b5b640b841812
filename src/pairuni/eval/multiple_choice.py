"""MMMU and MMStar: which answers are right under each protocol, and the published numbers.

eval/letters.py reads the letter of an answer.

Sources: MMMU-Benchmark/MMMU `mmmu/utils/eval_utils.py` (Apache-2.0); MMStar-Benchmark/MMStar
`eval/vlmeval/evaluate/mmstar.py`; lmms-eval 0.7.3 `tasks/mmmu`, `tasks/mmstar`; VLMEvalKit `dataset/utils/
multiple_choice.py` without a judge (its exact_matching). One thing is ours: where the MMMU scripts draw a letter at
random, the answer is wrong and counted as unparsed. Asking the model is elsewhere.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pairuni.eval.letters import mmmu_lmms, mmmu_official, ranked_lmms, vlmevalkit
from pairuni.eval.protocols import rule_of

_MMMU = {"official": mmmu_official, "lmms_eval": mmmu_lmms, "vlmevalkit": vlmevalkit}
_OTHER_ANSWERS = "Other Answers"
"""VLMEvalKit asks open MMMU questions as a choice between the gold answer and this text."""


# ---- MMMU -----------------------------------------------------------------------------------------------------------


def parse_mmmu(response: str, options: Mapping[str, str], protocol: str) -> str | None:
    """The letter that an answer chooses; None where the MMMU scripts would draw one or VLMEvalKit would ask a judge.

    Under vlmevalkit an answer that refuses is the letter Z.

    Args:
        options: {letter: text}, in the order of the question.

    Raises:
        ValueError: an unknown protocol.
    """
    return rule_of(protocol, _MMMU, "MMMU")(response, options)


def mmmu_open(response: str, gold: str | Sequence[str]) -> bool:
    """Whether an open answer is right (official and lmms_eval): any gold text inside a candidate, or an equal number.

    Numbers are equal when they are so after rounding to two decimals. A gold of one letter needs a space beside it.

    Args:
        gold: the answer, or several that are all right.
    """
    golds = [form for each in ([gold] if isinstance(gold, str) else gold) for form in _normal(str(each))]
    texts = [form for form in golds if isinstance(form, str)]
    return any(
        any(text in candidate for text in texts) if isinstance(candidate, str) else candidate in golds
        for candidate in open_candidates(response)
    )


def open_candidates(response: str) -> list[str | float]:
    """Possible readings of an open answer: the ends of its lines with a cue and every number in them, normalised."""
    tails = _tails(response)
    # Three passes that overlap: 1,234 is found as itself and as 234, 1e3 as itself and as 3.
    numbers = [number for tail in tails for pattern in _NUMBERS for number in re.findall(pattern, tail)]
    return list(dict.fromkeys(form for text in (*tails, *numbers) for form in _normal(text)))


_CUES = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_NUMBERS = (
    r"-?\b\d{1,3}(?:,\d{3})+\b",
    r"-?\d+(?:\.\d+)?e[+-]?\d+",
    r"-?(?:\d*\.\d+|\d+\b)(?!e[+-]?\d)(?![,\d])",
)
"""With thousands commas, scientific, plain; in lower-case text."""


def _tails(response: str) -> list[str]:
    """The text after the last cue of each line, the shortest of several; the whole answer where there is no cue.

    Upstream means to look at sentences but splits at full stops before capitals only after lowering the case, so that
    lines are all there is. An equals sign is a cue in the last line.
    """
    text = response.strip().strip(".").lower()
    lines = text.split("\n")
    tails = []
    for number, line in enumerate(lines, 1):
        shortest = ""
        for cue in (*_CUES, "=") if number == len(lines) else _CUES:
            if cue in line:
                tail = line.rsplit(cue, 1)[1].strip()
                # An empty tail is the shortest of all but gives way to the next cue's.
                shortest = tail if not shortest or len(tail) < len(shortest) else shortest
        if shortest and not re.fullmatch("[:,.!?;']", shortest):
            tails.append(shortest)
    return tails or [text]


def _normal(text: str) -> list[str] | list[float]:
    """A number rounded to two decimals, or the lower-case text; one character is only found with a space beside it."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        lowered = text.lower()
    return [f" {lowered}", f"{lowered} "] if len(lowered) == 1 else [lowered]


def score_mmmu(
    outputs: Iterable[Mapping[str, Any]], answers: Mapping[str, Mapping[str, Any]], protocol: str
) -> dict[str, Any]:
    """MMMU's accuracy in per cent, over items and by subject.

    Args:
        outputs: one for each item: id, response, and for multiple choice index2ans {letter: text}.
        answers: {id: {"question_type": "multiple-choice" or another, "ground_truth": letter, answer or answers}}.

    Returns:
        {"score": per cent right, "n": items, "unparsed": items in which no letter could be read, "parts": {subject: per
        cent}}. Items of `answers` without an output are not counted, as upstream: compare n.

    Raises:
        ValueError: an unknown protocol, no outputs, an id twice or one that is not in `answers`.
    """
    rule_of(protocol, _MMMU, "MMMU")
    subjects: dict[str, list[bool]] = {}
    unparsed, seen = 0, set()
    for output in outputs:
        item = output["id"]
        if item in seen or item not in answers:
            raise ValueError(f"MMMU: {item!r} is {'there twice' if item in seen else 'not among the answers'}")
        seen.add(item)
        right, parsed = mmmu_item(output, answers[item], protocol)
        unparsed += not parsed
        subjects.setdefault(subject(item), []).append(right)
    if not seen:
        raise ValueError("MMMU without outputs has no score")
    return {
        "score": 100 * sum(map(sum, subjects.values())) / len(seen),
        "n": len(seen),
        "unparsed": unparsed,
        "parts": {name: 100 * sum(each) / len(each) for name, each in subjects.items()},
    }


def mmmu_item(output: Mapping[str, Any], answer: Mapping[str, Any], protocol: str) -> tuple[bool, bool]:
    """Whether an item is right, and whether an answer could be read at all; arguments as in `score_mmmu`."""
    response, gold = output["response"], answer["ground_truth"]
    if answer["question_type"] == "multiple-choice":
        letter = parse_mmmu(response, output["index2ans"], protocol)
        return letter is not None and letter in ([gold] if isinstance(gold, str) else gold), letter is not None
    if protocol != "vlmevalkit":
        return mmmu_open(response, gold), True
    letter = vlmevalkit(response, {"A": str(gold), "B": _OTHER_ANSWERS})
    # A gold that happens to be a letter is taken for the option itself, so that C can never be hit.
    right = gold if isinstance(gold, str) and re.fullmatch("[A-Z]", gold) else "A"
    return letter == right, letter is not None


def subject(item: str) -> str:
    """validation_Art_Theory_7 -> Art_Theory."""
    return re.sub(r"^[a-z]+_|_\d+$", "", item)


# ---- MMStar ---------------------------------------------------------------------------------------------------------

_MMSTAR_BY_AXIS = {"official": False, "lmms_eval": True, "vlmevalkit": False}
"""Protocol -> whether the score is the mean over axes."""


def mmstar(response: str, gold: str, protocol: str, options: Mapping[str, str] | None = None) -> bool:
    """Whether an answer to an MMStar question is right.

    Args:
        gold: the letter.
        options: {letter: text}; only vlmevalkit looks at the texts. Without it, letters A to D alone count.

    Raises:
        ValueError: an unknown protocol.
    """
    rule_of(protocol, _MMSTAR_BY_AXIS, "MMStar")
    if protocol == "lmms_eval":
        return ranked_lmms(response) == gold.strip().upper()
    if protocol == "vlmevalkit":
        return vlmevalkit(response, options or dict.fromkeys("ABCD", "")) == gold.strip()
    # The first letter, or the one after one of three openings, in any case: "A dog" is an A, "Answer: B" too.
    answer, said = (text.lower().strip().replace("\n", " ") for text in (gold, response))
    openings = ("", "(", "option ", "the answer is ")
    return any(said.startswith(opening) and said[len(opening) :][:1] == answer for opening in openings if said)


def score_mmstar(records: Iterable[tuple[str, str, bool]], protocol: str) -> dict[str, Any]:
    """MMStar's score in per cent: accuracy, but under lmms_eval the mean over the 18 axes, which differ in size.

    Args:
        records: (capability, axis, whether right) of each item.

    Returns:
        {"score", "n", "parts": {capability: the same within it}}.

    Raises:
        ValueError: an unknown protocol or no records.
    """
    by_axis = rule_of(protocol, _MMSTAR_BY_AXIS, "MMStar")
    items = list(records)
    if not items:
        raise ValueError("MMStar without answers has no score")

    def per_cent(rows: Sequence[tuple[str, str, bool]]) -> float:
        axes: dict[tuple[str, str], list[bool]] = {}
        for capability, axis, right in rows:
            axes.setdefault((capability, axis) if by_axis else ("", ""), []).append(right)
        return 100 * sum(sum(each) / len(each) for each in axes.values()) / len(axes)

    parts = {name: per_cent([row for row in items if row[0] == name]) for name in dict.fromkeys(r[0] for r in items)}
    return {"score": per_cent(items), "n": len(items), "parts": parts}
