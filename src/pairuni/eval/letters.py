"""How each evaluator reads the chosen letter out of an answer; eval/multiple_choice.py scores it.

Sources: MMMU-Benchmark/MMMU `mmmu/utils/eval_utils.py` (Apache-2.0); lmms-eval 0.7.3 `tasks/_task_utils/
mmmu_mcq_utils.py` and `mcq_extract.py`; VLMEvalKit `utils/matching_util.py`. All of them are case-sensitive in the
letter and take some answers for what they are not ("DNA is shown" for an A); published numbers contain that. The reader
that training uses, rewards/choice.py, is stricter and has nothing to do with them.
"""

from collections.abc import Iterable, Mapping

_BRACKETED, _SPACED = "({})", " {} "
_CUES = (
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
    starts = [lowered.find(cue) + len(cue) for cue in _CUES if cue in lowered]
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
