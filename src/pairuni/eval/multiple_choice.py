"""MMMU and MMStar: the letter in an answer and which answers are right under each protocol, and the published numbers.

Sources: MMMU-Benchmark/MMMU `mmmu/utils/eval_utils.py` (Apache-2.0); MMStar-Benchmark/MMStar
`eval/vlmeval/evaluate/mmstar.py`; lmms-eval 0.7.3 `tasks/mmmu`, `tasks/mmstar`, `tasks/_task_utils/
mmmu_mcq_utils.py` and `mcq_extract.py`; VLMEvalKit `utils/matching_util.py` and `dataset/utils/multiple_choice.py`
without a judge (its exact_matching). All of them are case-sensitive in the letter and take some answers for what they
are not ("DNA is shown" for an A); published numbers contain that. The reader that training uses, rewards/choice.py, is
stricter. One thing is ours: where the MMMU scripts draw a letter at random, the answer is wrong and counted as
unparsed.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pairuni.eval.base import rule_of

# ---- the letter in an answer -----------------------------------------------------------------------------------------

_BRACKETED, _SPACED = "({})", " {} "
_ANNOUNCED = (
    *(f"{the}{best}answer is" for the in ("", "the ") for best in ("", "correct ", "best ")),
    *(f"{the}{best}option is" for the in ("", "the ") for best in ("correct ", "best ")),
    *(f"{the}{best}choice is" for the in ("", "the ") for best in ("", "correct ")),
    *("my answer is", "my choice is", "i choose", "i select", "i pick"),
    *("옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)
"""Announcements of an answer to lmms-eval. "the answer is" is looked for besides "answer is" because
only the first place of each counts."""
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_API_FAILURE = "Failed to obtain answer via API"
NONE_OF_THEM = "Z"
"""VLMEvalKit's letter for an answer that refuses: read, and wrong."""


def mmmu_official(response: str, options: Mapping[str, str]) -> str | None:
    """(B), else a B between spaces, else (above five words) an option's text; the last of several. None: upstream draws
    at random."""
    return _mmmu(response, options, (_BRACKETED, _SPACED))


def mmmu_lmms(response: str, options: Mapping[str, str]) -> str | None:
    """Like `mmmu_official`, but a letter before a space or full stop counts inside a word too. None: drawn as well."""
    return _mmmu(response, options, (_BRACKETED, "{} ", "{}."))


def _mmmu(response: str, options: Mapping[str, str], forms: Iterable[str]) -> str | None:
    for mark in ",.!?;:'":
        response = response.strip(mark)  # one mark after the other: of "B,." the comma stays, of "B.," nothing
    text = f" {response} "
    for form in forms:
        found = [letter for letter in options if form.format(letter) in text]
        if found:
            # Whatever form was found, unbracketed letters are compared by their place between spaces; where there is
            # none (-1 for all), the first option stands.
            place = form if form == _BRACKETED else _SPACED
            return max(found, key=lambda letter: text.rfind(place.format(letter)))
    if len(text.split()) <= 5:
        return None
    places = {letter: text.lower().rfind(str(option).lower()) for letter, option in options.items()}
    named = [letter for letter, place in places.items() if place >= 0]
    return max(named, key=lambda letter: places[letter], default=None)


def vlmevalkit(response: str, options: Mapping[str, str]) -> str | None:
    """The only option letter among the words, if it first comes in the last four, else the only option text.

    None: left to a judge, or wrong where there is none. NONE_OF_THEM: a refusal, or a Z without any option letter.
    """
    letter = _only_letter(response, options)
    if letter or len(response) > 2 * sum(len(str(option)) for option in options.values()):
        return letter  # long answers tend to mention options that they do not choose
    named = [letter for letter, option in options.items() if str(option).lower() in response.lower()]
    return named[0] if len(named) == 1 else None


def _only_letter(response: str, letters: Iterable[str]) -> str | None:
    if _API_FAILURE in response:
        return None
    if any(refusal in response for refusal in _REFUSALS):
        return NONE_OF_THEM
    words = response.translate(str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))).split()
    present = [letter for letter in letters if letter in words]
    if not present and NONE_OF_THEM in words:
        return NONE_OF_THEM
    if len(present) == 1 and words.index(present[0]) >= len(words) - 4:
        return present[0]
    return None


def ranked_lmms(response: str, letters: str = "ABCD") -> str | None:
    """lmms-eval's reader for MMStar: the most telling form that occurs, and the last letter in that form.

    A letter that starts the answer comes first ("A dog and a cat, so B" is an A), then one that ends it, then one after
    an announcement (any letter after it, inside words too), then (B), B., B:, B), B and a space, any B.
    """
    text = response.strip()
    for mark in ",.!?;:'\"":
        text = text.strip(mark)
    core, text = text.strip(), f" {text} "
    for letter in letters:
        if core.startswith(letter) and not core[1:2].isalpha():
            return letter
    for letter in letters:
        if core.endswith(letter) and not core[-2:-1].isalpha():
            return letter
    lowered = text.lower()
    starts = [lowered.find(cue) + len(cue) for cue in _ANNOUNCED if cue in lowered]
    place, letter = max(
        [(text.find(letter, start), letter) for start in starts for letter in letters], default=(-1, "")
    )
    if place >= 0:
        return letter
    for form in (_BRACKETED, "{}.", "{}:", "{})", "{} ", "{}"):
        place, letter = max((text.rfind(form.format(letter)), letter) for letter in letters)
        if place >= 0:
            return letter
    return None


# ---- MMMU -----------------------------------------------------------------------------------------------------------


_MMMU = {"official": mmmu_official, "lmms_eval": mmmu_lmms, "vlmevalkit": vlmevalkit}
_OTHER_ANSWERS = "Other Answers"
"""VLMEvalKit asks open MMMU questions as a choice between the gold answer and this text."""


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


def mmmu_item(output: Mapping[str, Any], answer: Mapping[str, Any], protocol: str) -> tuple[bool, bool]:
    """Whether an item is right, and whether an answer could be read at all.

    Args:
        output: `response`, and for multiple choice `index2ans` {letter: text}.
        answer: `question_type` ("multiple-choice" or another) and `ground_truth`: a letter, an answer, or several.
    """
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


def mmstar(response: str, gold: str, protocol: str) -> bool:
    """Whether an answer to an MMStar question is right; `gold` is the letter. Raises ValueError: unknown protocol."""
    rule_of(protocol, _MMSTAR_BY_AXIS, "MMStar")
    if protocol == "lmms_eval":
        return ranked_lmms(response) == gold.strip().upper()
    if protocol == "vlmevalkit":
        return _only_letter(response, "ABCD") == gold.strip()
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
