"""The understanding reward: accuracy of a multiple-choice answer, and the parser that reads letters out of free text.

An answer counts only where one option is clearly chosen. Guessing from stray letters would reward "A dog is sitting"
for A, so whatever names no option, or several without deciding, is None. Of several statements the last undoubted one
counts, since models correct themselves; a denial or a correction takes back what it follows. The phrases are the table
in choice_words.py. Benchmarks use the same parser (eval/), with their official ones beside it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from pairuni.records import Side
from pairuni.rewards import choice_words as words
from pairuni.rewards.answer_text import (
    ANSWER_PREFIX,
    WIDE,
    final_answer,
    last_box,
    normalise,
    plain,
    same,
    spoken,
    yes_or_no,
)
from pairuni.rewards.base import RewardInput
from pairuni.rewards.options import is_numbered, parse_options

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SEVERAL = "?"
"""Several letters without a decision."""
_CONTEXT = 120
"""Characters before and after an option in which phrases are looked for."""

# ---- reading a letter out of an answer ----------------------------------------------------------------------------

_LETTER = re.compile(
    r"[(\[{]\s*(?P<bracketed>[A-Za-z])\s*[)\]}]|(?<![\w.\-])(?<!\w')(?P<alone>[A-Za-z])(?!\w|-\w|'\w|[+#%])"
)
_POLITE = (
    r"(?:\s*(?:です|だ|でしょう|になります|(?:だ|で)?と(?:思い|考え)ます|选项|選項|입니다|이다|예요|이에요|임|번)\s*)?"
)
_LONE = re.compile(
    r"(?:(?:option|choice|opción|antwort|réponse|选项|選択肢|보기)\s*)?[(\[{\"']*\s*([A-Za-z])\s*[)\]}\"']*"
    + _POLITE
    + r"[)\]}\"'.,:;!?]*",
    re.IGNORECASE,
)
# What follows a letter that is meant as an answer, not as the article "a" or the pronoun "I".
_END = re.compile(r"\s*(?:$|[.,;:!?()\]/&\"'\n\u2013\u2014]|-\s)|\s*" + WIDE)
_END_OF_I = re.compile(r"\s*(?:$|[.:)\]\n])")
_LABEL_AFTER = re.compile(
    r"\s*(?:$|[.):,;(\n\u2013\u2014]|-\s)|\s+(?:because|since|as|for|due|given|and\s+not)\b", re.IGNORECASE
)
_LABEL_BEFORE = re.compile(r"\s*(?:(?:option|choice)\s+)?", re.IGNORECASE)
_ASIDE = re.compile(r"\s*\([^()\n]{1,80}\)|\s*,[^,.;:!?\n]{1,60},(?=\s+(?:is|was|does|can|would)\b)")
_MOST = 200
"""Options named by an answer that is read; one that names more chooses none."""
_WEAK_WORDS = {"yes", "no", "none", "not", "true", "false", "one", "all", "both", "neither", "left", "right", "i", "it"}
"""Texts of options that sentences hold without meaning the option."""


@dataclass(frozen=True)
class _Mention:
    """A place where the answer names an option, by letter or by its text."""

    letter: str
    start: int
    end: int
    kind: Literal["stated", "named", "text", "bare"]
    """stated ("the answer is C", "C is right", "C" as the last line), named ("(C)", "option C"), text or bare."""
    denied: bool = False
    doubted: bool = False
    joined: bool = False
    """Another one is named in one breath ("A or B", "A/B")."""


def extract_choice(text: str, options: Mapping[str, str]) -> str | None:
    """The letter of the option that `text` chooses, None where it chooses none or several.

    Reads what follows <think>..</think>, inside the last <answer> or \\boxed{} where there is one and nothing after it
    takes it back. A lone letter or an option's text is the answer. Else the last undoubted statement counts: "the
    answer is C" (or its text), "C is right", a label at the start ("B. red"), a last line that is a letter. "No, wait"
    and "not C" take back what was said. Where nothing is stated, the one option that is named in brackets or as
    "option C", or the one whose text occurs.

    Args:
        text: the answer as generated.
        options: {letter: option text}, any number up to 26; texts may be empty where they are unknown.

    Raises:
        ValueError: a key of `options` is not a single letter.
    """
    letters = {key.upper(): key for key in options}
    if not all(len(key) == 1 and key in _LETTERS for key in letters) or len(letters) != len(options):
        raise ValueError(f"options must be keyed by different single letters, not {list(options)}")
    by_text: dict[str, list[str]] = {}
    for key, value in options.items():
        by_text.setdefault(normalise(plain(value)), []).append(key)
    texts = {value: keys[0] for value, keys in by_text.items() if value and len(keys) == 1}
    answer = plain(final_answer(text)).strip()
    taken_back = _after_answer(spoken(text))
    if taken_back:
        answer = f"{answer}.\n{plain(taken_back)}"
    lone = _LONE.fullmatch(answer)
    if lone and lone[1].upper() in letters:
        return letters[lone[1].upper()]
    for candidate in (answer, ANSWER_PREFIX.sub("", answer)):
        if normalise(candidate) in texts:
            return texts[normalise(candidate)]
    if lone is None and (letter := _decided(answer, {t: k.upper() for t, k in texts.items()}, frozenset(letters))):
        return letters.get(letter)
    return texts.get(yes_or_no(answer) or "") if {"yes", "no"} <= texts.keys() else None


def _after_answer(said: str) -> str:
    """What follows the last <answer> or \\boxed{}, where it takes something back; else nothing."""
    tagged = re.split(r"</answer\s*>", said, flags=re.IGNORECASE)
    box = last_box(said)
    after = tagged[-1] if len(tagged) > 1 else said[box[1] + 1 :] if box else ""
    return after if words.CORRECTED.search(f".{plain(after)}") else ""


def _decided(answer: str, texts: Mapping[str, str], letters: frozenset[str]) -> str | None:
    """The chosen letter (perhaps one that is no option), _SEVERAL, or None where nothing is decided.

    A state machine over the mentions and corrections in their order: statements replace each other, denials and
    corrections take back.
    """
    mentions = _mentions(answer, texts, letters)
    cuts = [match.end() for match in words.CORRECTED.finditer(answer) if answer[: match.start()].strip()]
    held, weak = None, []
    for mention in mentions:
        while cuts and cuts[0] <= mention.start:
            held, weak = None, []
            cuts.pop(0)
        if mention.denied:
            held = None if held in (mention.letter, _SEVERAL) else held
            weak = [each for each in weak if each.letter != mention.letter]
        elif mention.doubted:
            held = _SEVERAL if mention.joined and held not in (None, mention.letter) else held
        elif mention.kind == "stated":
            held = _SEVERAL if mention.joined else mention.letter
        elif mention.kind != "bare":
            weak.append(mention)
    if cuts:
        return None
    if held:
        return held
    named = {mention.letter for mention in weak if mention.kind == "named"} & letters
    by_text = {mention.letter for mention in weak if mention.kind == "text"}
    several = any(mention.joined for mention in weak)
    return (named or by_text).pop() if len(named or by_text) == 1 and not several else None


def _mentions(answer: str, texts: Mapping[str, str], letters: frozenset[str]) -> list[_Mention]:
    by_letter = {letter: _pattern(text) for text, letter in texts.items()}
    matches = [match for match in _LETTER.finditer(answer) if _can_be_meant(answer, match)]
    matches = matches if len(matches) <= _MOST else []
    found = _text_mentions(answer, texts)
    # An A of "0.5 A" or a C of "vitamin C" is the option's text, not its letter.
    matches = [m for m in matches if not any(t.start <= m.start() and m.end() <= t.end for t in found)]
    found += [each for match in matches if (each := _letter_mention(answer, match, by_letter))]
    found.sort(key=lambda mention: mention.start)
    for place, sole in (*_on_its_own(answer), *_label(answer, found, letters)):
        found = [
            _Mention(m.letter, m.start, m.end, "stated", joined=not sole) if m.start <= place < m.end else m
            for m in found
        ]
    return _linked(answer, found)


def _letter_mention(answer: str, match: re.Match[str], texts: Mapping[str, str]) -> _Mention | None:
    """The mention at `match`; None for an article or a pronoun."""
    start, end = match.span()
    letter = _letter(match)
    own = re.compile(rf"[\s.:)\]\"'(\u2013-]*(?:(?:an?|the)\s+)?{texts.get(letter, '(?!)')}[)\"']*", re.IGNORECASE)
    aside = own.match(answer, end) or _ASIDE.match(answer, end)  # "A (a blue bus) is wrong"
    far = aside.end() if aside else end
    kind = _kind(answer, start, end, far) or ("named" if match["bracketed"] or _is_named(answer, start) else "bare")
    if not _is_meant(answer, match, kind):
        return None
    doubted, alternative = _is_doubted(answer, start, end)
    return _Mention(letter, start, end, kind, _is_denied(answer, start, end, far), doubted, alternative)


def _text_mentions(answer: str, texts: Mapping[str, str]) -> list[_Mention]:
    """Where the answer has the text of an option, the longest first: "red car" is not found in "dark red car"."""
    found: list[_Mention] = []
    free = [True] * len(answer)
    for text in sorted(texts, key=len, reverse=True):
        if re.fullmatch(r"[a-z]|\W*", text):
            continue
        for match in re.finditer(_pattern(text), answer, re.IGNORECASE):
            start, end = match.span()
            if not all(free[start:end]) or len(found) > _MOST:
                continue
            free[start:end] = [False] * (end - start)
            kind = _kind(answer, start, end, end) or ("bare" if text in _WEAK_WORDS else "text")
            doubted, other = _is_doubted(answer, start, end)
            found.append(_Mention(texts[text], start, end, kind, _is_denied(answer, start, end, end), doubted, other))
    return found


def _pattern(text: str) -> str:
    """Finds a text as words, with whatever article; Chinese, Japanese and Korean have no space between words."""
    spelled = re.sub(r"\b(?:an?|the)\\ ", r"(?:(?:an?|the)\\ )?", re.escape(text)).replace("\\ ", r"\s+")
    if not re.search(r"[a-z0-9]", text):
        return spelled
    return rf"(?<![\w.])(?<!\w[-']){spelled}(?![\w%]|[-'.,]\w)"


def _letter(match: re.Match[str]) -> str:
    return (match["alone"] or match["bracketed"]).upper()


def _before(answer: str, place: int) -> str:
    return answer[max(0, place - _CONTEXT) : place]


def _kind(answer: str, start: int, end: int, far: int) -> Literal["stated"] | None:
    before = _before(answer, start)
    stated = words.ANNOUNCED.search(before) or words.REPLACED.search(before)
    return "stated" if stated or _is_followed(words.AFFIRMED, answer, end, far) else None


def _is_followed(phrases: re.Pattern[str], answer: str, end: int, far: int) -> bool:
    """Whether one of `phrases` follows the option, or what is said of it in passing, up to `far`."""
    return any(phrases.match(answer[place : place + _CONTEXT]) for place in {end, far})


def _is_named(answer: str, start: int) -> bool:
    return words.NAMED.search(_before(answer, start)) is not None


def _is_denied(answer: str, start: int, end: int, far: int) -> bool:
    before = re.split(r"[.;:!?\n]", _before(answer, start))[-1]
    return words.DENIED_BEFORE.search(before) is not None or _is_followed(words.DENIED_AFTER, answer, end, far)


def _is_doubted(answer: str, start: int, end: int) -> tuple[bool, bool]:
    """(whether the clause doubts or asks, whether it does so as an alternative to what came before)."""
    before = words.CLAUSE.split(_before(answer, start))[-1]
    sentence = re.match(r"[^.!?\n]*(.?)", answer[end : end + 2 * _CONTEXT])
    asks = sentence is not None and sentence[1] == "?"
    doubts = words.DOUBTED_BEFORE.search(before) or words.DOUBTED_AFTER.match(answer[end : end + _CONTEXT])
    alternative = re.match(r"\s*(?:or|oder|ou|o|或者?|または|또는)\b", before, re.IGNORECASE) is not None
    return bool(asks or doubts), bool(alternative and doubts)


def _can_be_meant(answer: str, match: re.Match[str]) -> bool:
    """Not an article, a pronoun or a unit ("3 A") for sure."""
    alone = match["alone"]
    if alone and re.search(r"\d\s?$", answer[max(0, match.start() - 2) : match.start()]):
        return False
    if not alone or (_END_OF_I if alone == "I" else _END).match(answer, match.end()):
        return True
    return alone.isupper() and alone != "I"


def _is_meant(answer: str, match: re.Match[str], kind: str) -> bool:
    alone = match["alone"]
    if not alone or (_END_OF_I if alone == "I" else _END).match(answer, match.end()):
        return True
    after = answer[match.end() :][:_CONTEXT]
    linked = any(phrases.match(after) for phrases in (words.BECAUSE, words.AFFIRMED, words.DENIED_AFTER))
    return linked or (kind != "bare" and alone != "A")


def _linked(answer: str, mentions: Sequence[_Mention]) -> list[_Mention]:
    """Marks options that are named in one breath: "A or B" is no choice, and "not A or B" denies both."""
    marked = list(mentions)
    for i, (first, second) in enumerate(pairwise(mentions)):
        link = words.JOINED.match(answer, first.end)
        if link is None or link.end() < second.start or first.letter == second.letter:
            continue
        if marked[i].denied and second.kind != "stated":
            marked[i + 1] = replace(marked[i + 1], denied=True)
        elif not marked[i].denied and not second.denied:
            marked[i], marked[i + 1] = (replace(m, joined=True) for m in (marked[i], marked[i + 1]))
    return marked


def _on_its_own(answer: str) -> list[tuple[int, bool]]:
    """(place, whether it is the only one) of the letter that is all of the last line or sentence."""
    pieces = list(re.finditer(r"(?:(?!(?<=\w\w[.!?])\s|(?<=[\w\"')][.!?])\s)[^\n])+", answer))
    pieces = [piece for piece in pieces if piece[0].strip()]
    alone = [(p, lone) for p in pieces if (lone := _LONE.fullmatch(p[0].strip()))]
    if len(pieces) < 2 or not alone or alone[-1][0] is not pieces[-1]:
        return []
    last, lone = alone[-1]
    place = last.start() + len(last[0]) - len(last[0].lstrip()) + lone.start(1)
    others = {
        match[1].upper()
        for piece, match in alone[:-1]
        if not words.CORRECTED.search(answer, piece.end() - 1, last.start() + 1)
    }
    return [(place, others <= {lone[1].upper()})]


def _label(answer: str, mentions: Sequence[_Mention], letters: frozenset[str]) -> list[tuple[int, bool]]:
    """As `_on_its_own`, of a letter that labels the answer, as in "B. red", "(B)" or "B because"."""
    first = next((mention for mention in mentions if mention.kind != "text"), None)
    if first is None or not _LABEL_BEFORE.fullmatch(answer[: first.start]) or first.denied or first.doubted:
        return []
    if not _LETTER.match(answer, first.start):
        return []
    bracketed = answer[first.start] in "([{"
    if not bracketed and not _LABEL_AFTER.match(answer, first.end):
        return []
    rest = answer[first.end :].lstrip(" .):,;")
    following = _LETTERS[_LETTERS.index(first.letter) + 1 :][:1]
    listed = following and re.search(rf"(?:^|\s)(?:\({following}\)|{following}[.):])(?:\s|$)", rest)
    lines = {m[1] for m in re.finditer(r"^\s*\(?([A-Z])[.):]", answer, re.MULTILINE)} & letters
    several = bool(listed) or len(lines) > 1 or first.joined or _LONE.fullmatch(rest.strip()) is not None
    return [(first.start, not several)]


# ---- the reward ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChoiceReward:
    """1 for the right answer, else 0 (paper section 3: accuracy of the multiple-choice answer)."""

    name: str = "choice"
    sides: frozenset[Side] = frozenset({Side.UNDERSTANDING})
    remote: bool = False

    def __call__(self, items: Sequence[RewardInput]) -> Sequence[float]:
        return [float(is_right(item.text or "", item.quadruple.question, item.quadruple.answer)) for item in items]


def is_right(text: str, question: str, gold: str) -> bool:
    """Whether `text` answers `question` as `gold` does.

    A gold letter or option text is compared by letter (a letter without options in the question, as where they are
    drawn in the image, is read among A to at least D); yes and no by the answer's first word; anything else exactly,
    after `normalise`.
    """
    options = parse_options(question)
    if is_numbered(question):
        text, gold = _lettered(text, options), _lettered(gold, options)
    right = extract_choice(gold, options)
    if right is None and re.fullmatch(r"\W*[A-Z]\W*", gold):
        right = re.sub(r"\W", "", gold)
        options = {letter: options.get(letter, "") for letter in _LETTERS[: max(_LETTERS.index(right) + 1, 4)]}
    if right is not None:
        return extract_choice(text, options) == right
    answer = ANSWER_PREFIX.sub("", plain(final_answer(text)).strip())
    if normalise(gold) in ("yes", "no"):
        return yes_or_no(answer) == normalise(gold)
    return same(answer, gold)


def _lettered(text: str, options: Mapping[str, str]) -> str:
    """Options 1, 2, ... of a numbered question as A, B, ...; where their texts hold numbers, only a lone number that is
    none of them."""
    alone = re.fullmatch(r"\W*(\d{1,2})\W*", text)
    texts = [normalise(option) for option in options.values()]
    if any(re.search(r"\d", option) for option in texts) and (alone is None or alone[1] in texts):
        return text
    labels = {str(n): letter for n, letter in enumerate(options, 1)}
    return re.sub(r"(?<![\w.])\d{1,2}(?!\w|\.\d)", lambda match: labels.get(match[0], match[0]), text)


def gold_fault(question: str, gold: str) -> str | None:
    """What is wrong with a gold answer that is none of the options in its question; None where nothing is.

    Lines that begin with numbers need not be options, so that only a gold letter or number is held against them.
    """
    options, numbered = parse_options(question), is_numbered(question)
    label = re.fullmatch(r"\W*(?:[A-Z]|\d{1,2})\W*", gold)
    if not options or (numbered and not label):
        return None
    if extract_choice(_lettered(gold, options) if numbered else gold, options) is not None:
        return None
    labels = [str(n) for n, _ in enumerate(options, 1)] if numbered else list(options)
    return f"is {gold!r:.80}, none of the options in the question ({', '.join(labels)}): no answer can be right"
