"""Where an answer names an option, by letter, text or place ("the second option"), and what it says of it there.

choice.py decides by these mentions; the phrases are those of phrases.yaml.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from pairuni.rewards import choice_patterns as patterns
from pairuni.rewards.answer_text import NUMBERS, WIDE

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LETTER = re.compile(
    r"[(\[{]\s*(?P<bracketed>[A-Za-z])\s*[)\]}]|(?<![\w.\-])(?<!\w')(?P<alone>[A-Za-z])(?!\w|-\w|'\w|[+#%])"
)
_POLITE = (
    r"(?:\s*(?:です|だ|でしょう|になります|(?:だ|で)?と(?:思い|考え)ます|选项|選項|입니다|이다|예요|이에요|임|번)\s*)?"
)
LONE = re.compile(
    r"(?:(?:option|choice|opción|antwort|réponse|选项|選択肢|보기)\s*)?[(\[{\"']*\s*([A-Za-z])\s*[)\]}\"']*"
    + _POLITE
    + r"[)\]}\"'.,:;!?]*",
    re.IGNORECASE,
)
# Text after a letter that is meant as an answer, not as the article "a" or the pronoun "I".
_END = re.compile(r"\s*(?:$|[.,;:!?()\]/&\"'\n\u2013\u2014]|-\s)|\s*" + WIDE)
_END_OF_I = re.compile(r"\s*(?:$|[.:)\]\n])")
_LABEL_AFTER = re.compile(
    r"\s*(?:$|[.):,;(\n\u2013\u2014]|-\s)|\s+(?:because|since|as|for|due|given|and\s+not)\b", re.IGNORECASE
)
_AFTER_HINT = re.compile(
    r"\s+(?:because|since|as|for|due|given|and\s+not|in|from|that|which|here|then|over|rather|instead|not|fits|works|matches|applies|satisfies|car|parce|weil|denn|porque|richtig|korrekt)\b",
    re.IGNORECASE,
)
_LABEL_BEFORE = re.compile(r"\s*(?:(?:option|choice)\s+)?", re.IGNORECASE)
_ASIDE = re.compile(r"\s*\([^()\n]{1,80}\)|\s*,[^,.;:!?\n]{1,60},(?=\s+(?:is|was|does|can|would)\b)")
_CONTEXT = 120
"""Characters before and after an option in which phrases are looked for."""
_MOST = 200
"""Options named by an answer that is read; one that names more chooses none."""
_WEAK_WORDS = {"yes", "no", "none", "not", "true", "false", "one", "all", "both", "neither", "left", "right", "i", "it"}
"""Texts of options that sentences hold without meaning the option."""


Kind = Literal["stated", "named", "text", "bare"]
"""stated ("the answer is C", "C is right", "C" as the last line), named ("(C)", "option C"), text or bare."""


@dataclass(frozen=True)
class Mention:
    """A place where the answer names an option, by letter or by its text."""

    letter: str
    start: int
    end: int
    kind: Kind
    denied: bool = False
    doubted: bool = False
    joined: bool = False
    """Another one is named in one breath ("A or B", "A/B")."""


def find_mentions(answer: str, texts: Mapping[str, str], letters: frozenset[str]) -> list[Mention]:
    """All mentions of options, in order. `texts`: {normalised text: letter}."""
    by_letter = {letter: _pattern(text) for text, letter in texts.items()}
    matches = [match for match in _LETTER.finditer(answer) if _can_be_meant(answer, match)]
    matches = matches if len(matches) <= _MOST else []
    found = _text_mentions(answer, texts, letters)
    # An A of "0.5 A" or a C of "vitamin C" is the option's text, not its letter.
    matches = [m for m in matches if not any(t.start <= m.start() and m.end() <= t.end for t in found)]
    for n, pattern in patterns.PLACES.items():  # "the second option"
        for match in pattern.finditer(answer) if -1 <= n < len(letters) else ():
            start, end = match.span(match.lastgroup or 0)
            if len(found) <= _MOST and not any(t.start < end and start < t.end for t in found):
                found.append(_mention(answer, sorted(letters)[n], start, end, end, "named"))
    for match in matches:
        start, end = match.span()
        letter = (match["alone"] or match["bracketed"]).upper()
        text = by_letter.get(letter, "(?!)")
        own = re.compile(rf"[\s.:)\]\"'(\u2013-]*(?:(?:an?|the|の|的|인)\s*)?[\"'(]*{text}[)\"']*", re.IGNORECASE)
        aside = own.match(answer, end) or _ASIDE.match(answer, end)  # "A (a blue bus) is wrong"
        named = match["bracketed"] or patterns.NAMED.search(_before(answer, start))
        mention = _mention(answer, letter, start, end, aside.end() if aside else end, "named" if named else "bare")
        after = answer[end:][:_CONTEXT]
        linked = any(phrases.match(after) for phrases in (patterns.BECAUSE, patterns.AFFIRMED, patterns.DENIED_AFTER))
        if _ends(answer, match) or linked or (mention.kind != "bare" and match["alone"] != "A"):
            found.append(mention)
    found.sort(key=lambda mention: mention.start)
    for place, sole in (*_on_its_own(answer, found), *_label(answer, found, letters)):
        found = [
            Mention(m.letter, m.start, m.end, "stated", joined=not sole) if m.start <= place < m.end else m
            for m in found
        ]
    return _linked(answer, found)


def _mention(answer: str, letter: str, start: int, end: int, far: int, otherwise: Kind) -> Mention:
    """The option at [start, end) with what is said of it, there or after an aside that ends at `far`.

    Args:
        otherwise: its kind where it is not stated.
    """
    before, after = _before(answer, start), [answer[place : place + _CONTEXT] for place in {end, far}]
    clause = patterns.CLAUSE.split(before)[-1]
    announced = patterns.ANNOUNCED.search(before) or patterns.REPLACED.search(before)
    kind = otherwise
    if announced or any(patterns.AFFIRMED.match(words) for words in after):
        kind = "stated"
    elif re.fullmatch(r"\W*[A-Za-z]\W*", answer[start:end]):
        ends = _END.match(answer, far) or _AFTER_HINT.match(answer, far)
        if patterns.ONLY.search(before) or (ends and patterns.HINTED.search(before)):
            kind = "stated"
    denied = patterns.DENIED_BEFORE.search(re.split(r"[.;:!?\n]", before)[-1]) is not None
    denied = denied or any(patterns.DENIED_AFTER.match(words) for words in after)
    if kind == "text":  # denied a few words before, as in "not riding a horse"
        denied = denied or patterns.DENIED_FROM_AFAR.search(clause) is not None
    sentence = re.match(r"[^.!?\n]*(.?)", answer[end : end + 2 * _CONTEXT])
    asked = sentence is not None and sentence[1] == "?"
    doubts = patterns.DOUBTED_BEFORE.search(clause) or patterns.DOUBTED_AFTER.match(answer[end : end + _CONTEXT])
    alternative = doubts and re.match(r"\s*(?:or|oder|ou|o|或者?|または|또는)\b", clause, re.IGNORECASE)
    return Mention(letter, start, end, kind, denied, bool(asked or doubts), bool(alternative))


def _text_mentions(answer: str, texts: Mapping[str, str], letters: frozenset[str]) -> list[Mention]:
    """Where the answer has the text of an option, the longest first: "red car" is not found in "dark red car"."""
    found: list[Mention] = []
    free = [True] * len(answer)
    steps = list(re.finditer(r"^\s*(\d{1,2})[.)](?=\s)", answer, re.MULTILINE))
    if {"1", "2"} <= {step[1] for step in steps}:  # the numbers of a list of steps
        for step in steps:
            free[step.start(1) : step.end(1)] = [False] * len(step[1])
    numbers = {word for word in re.findall(r"[a-z]+", answer.lower()) if word in NUMBERS.values()} - {"one", "zero"}
    counts = len(numbers) == 1 and all(text.isdigit() for text in texts)
    for text in sorted(texts, key=len, reverse=True):
        sign = text.upper() if re.fullmatch(r"[b-hj-z]", text) and text.upper() not in letters else None
        if sign is None and re.fullmatch(r"[a-z]|\W*", text):
            continue
        spelled = [re.compile(_pattern(sign or text), 0 if sign else re.IGNORECASE)]
        if counts and (word := NUMBERS.get(text)) and text not in ("0", "1"):
            spelled.append(re.compile(rf"{patterns.COUNTED}(?P<text>{word})\b", re.IGNORECASE))
        for match in (each for pattern in spelled for each in pattern.finditer(answer)):
            start, end = match.span("text" if "text" in match.re.groupindex else 0)
            if all(free[start:end]) and len(found) <= _MOST:
                free[start:end] = [False] * (end - start)
                kind: Kind = "bare" if text in _WEAK_WORDS else "text"
                found.append(_mention(answer, texts[text], start, end, end, kind))
    return found


def _pattern(text: str) -> str:
    """Finds a text as words, with whatever article; Chinese, Japanese and Korean have no space between words."""
    spelled = re.sub(r"\b(?:an?|the)\\ ", r"(?:(?:an?|the)\\ )?", re.escape(text)).replace("\\ ", r"\s+")
    if not re.search(r"[A-Za-z0-9]", text):
        return spelled
    return rf"(?<![\w.])(?<!\w[-']){spelled}(?![\w%]|[-'.,]\w)"


def _before(answer: str, place: int) -> str:
    return answer[max(0, place - _CONTEXT) : place]


def _ends(answer: str, match: re.Match[str]) -> bool:
    """Whether the letter is followed as an answer is, not as an article or a pronoun."""
    return not match["alone"] or bool((_END_OF_I if match["alone"] == "I" else _END).match(answer, match.end()))


def _can_be_meant(answer: str, match: re.Match[str]) -> bool:
    """False where the letter is surely an article, a pronoun or a unit ("3 A")."""
    alone = match["alone"]
    if alone and re.search(r"\d\s?$", answer[max(0, match.start() - 2) : match.start()]):
        return False
    return _ends(answer, match) or (alone.isupper() and alone != "I")


def _linked(answer: str, mentions: Sequence[Mention]) -> list[Mention]:
    """Marks options that are named in one breath: "A or B" is no choice, and "not A or B" denies both."""
    marked = list(mentions)
    for i, (first, second) in enumerate(pairwise(mentions)):
        link = patterns.JOINED.match(answer, first.end)
        if link is None or link.end() < second.start or first.letter == second.letter:
            continue
        before = _before(answer, second.start)
        corrected = second.kind == "stated" or patterns.HINTED.search(before) or patterns.IS_IT.search(before)
        if marked[i].denied and not corrected:
            marked[i + 1] = replace(marked[i + 1], denied=True)
        elif not (marked[i].denied or second.denied or patterns.ONLY.search(before)):
            marked[i], marked[i + 1] = (replace(m, joined=True) for m in (marked[i], marked[i + 1]))
    return marked


def pieces(answer: str) -> list[re.Match[str]]:
    """The lines and sentences of an answer that hold anything; "U.S." and "B. red" are not split."""
    found = re.finditer(r"(?:(?!(?<=\w\w[.!?])\s|(?<=[\w\"')][.!?])\s)[^\n])+", answer)
    return [piece for piece in found if piece[0].strip()]


def _on_its_own(answer: str, mentions: Sequence[Mention]) -> list[tuple[int, bool]]:
    """(place, whether it is the only one) of the letter or text that is all of the last or first line or sentence."""
    parts = pieces(answer)
    alone = [(p, lone) for p in parts if (lone := LONE.fullmatch(p[0].strip()))]
    if len(parts) > 1 and alone and alone[-1][0] is parts[-1]:
        last, lone = alone[-1]
        place = last.start() + len(last[0]) - len(last[0].lstrip()) + lone.start(1)
        others = {
            match[1].upper()
            for piece, match in alone[:-1]
            if not patterns.CORRECTED.search(answer, piece.end() - 1, last.start() + 1)
        }
        return [(place, others <= {lone[1].upper()})]
    texts = [
        mention
        for mention in mentions
        if mention.kind == "text"
        for piece in (parts[0], parts[-1])
        if re.fullmatch(r"\W*(?:an?\s+|the\s+)?", answer[piece.start() : mention.start], re.IGNORECASE)
        and re.fullmatch(r"[^\w?]*", answer[mention.end : piece.end()])
        and piece.start() <= mention.start < piece.end()
        and (labels := re.findall(r"\b([A-Za-z\d])[.):]\W*(?:an?\s+|the\s+)?$", answer[: mention.start]))
        in ([], [mention.letter])
        and not (labels and len(re.findall(r"^\W*[A-Z][.):]\s|\s\(?[A-Z][.):]\s", answer, re.MULTILINE)) > 1)
    ]
    return [(text.start, len({each.letter for each in texts}) == 1) for text in texts]


def _label(answer: str, mentions: Sequence[Mention], letters: frozenset[str]) -> list[tuple[int, bool]]:
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
    following = LETTERS[LETTERS.index(first.letter) + 1 :][:1]
    listed = following and re.search(rf"(?:^|\s)(?i:\({following}\)|{following}[.):])(?:\s|$)", rest)
    lines = {m[1] for m in re.finditer(r"^\s*\(?([A-Z])[.):]", answer, re.MULTILINE)} & letters
    if listed or len(lines) > 1:  # the options, listed
        return []
    several = first.joined or LONE.fullmatch(rest.strip()) is not None
    return [(first.start, not several)]
