"""The understanding reward: accuracy of a multiple-choice answer, and the parser that reads letters out of free text.

An answer counts only where one option is clearly chosen. Guessing from stray letters would reward "A dog is sitting"
for A, so whatever names no option, or several without deciding, is None. Of several statements the last undoubted one
counts, since models correct themselves; a denial or a correction takes back what it follows. The phrases are the table
in choice_words.py. Benchmarks use the same parser (eval/), with their official ones beside it.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pairuni.records import Side
from pairuni.rewards import choice_words as words
from pairuni.rewards.base import RewardInput
from pairuni.rewards.options import is_numbered, parse_options

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SEVERAL = "?"
"""Several letters without a decision."""
_CONTEXT = 120
"""Characters before and after an option in which phrases are looked for."""

# ---- the words of an answer ---------------------------------------------------------------------------------------

_ENDS = re.compile(
    r"<\|?(?:im_end|im_start|eot_id|eom_id|end_of_text|endoftext|end|end_of_turn|eos|EOS|pad|/s|end▁of▁sentence)\|?>"
)
_TOKENS = re.compile(r"<\|[^<>|]{1,40}\|>|<｜[^<>]{1,40}｜>|</?s>|<(?:bos|unk|start_of_turn)>|\[/?INST\]")
"""Special tokens that a tokenizer left in a text. What follows one that ends a turn is not the answer's."""
_ROLE = re.compile(r"^\s*(?:assistant|model|ai|bot|助手|アシスタント)\s*[:\n]\s*", re.IGNORECASE)
_WIDE = r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
_MARKS = str.maketrans(
    {"\u3002": ". ", "\u3001": ", ", "\u300c": '"', "\u300d": '"', "\u300e": '"', "\u300f": '"'}
    | {"\u3010": "[", "\u3011": "]", "\u300a": '"', "\u300b": '"', "\u00ab": '"', "\u00bb": '"'}
    | {"\u2019": "'", "\u2018": "'", "\u201c": '"', "\u201d": '"', "\u201e": '"', "\u2192": ":"}
)
_ANSWER_PREFIX = re.compile(
    r"^(?:(?:so|therefore|thus|hence)\s*,?\s*)?(?:the\s+)?(?:final\s+|correct\s+|right\s+|best\s+)*"
    r"(?:answer(?:\s+is\b|\s*:)|it\s+is\b|it's\b|this\s+is\b|that\s+is\b)\s*:?\s*",
    re.IGNORECASE,
)


def final_answer(text: str) -> str:
    """What is left of `text` as its answer: after the thinking, inside the last <answer>, inside the last \\boxed{}."""
    text = _spoken(text)
    tagged = re.split(r"<answer\s*>", text, flags=re.IGNORECASE)
    if len(tagged) > 1:
        text = re.split(r"</answer\s*>", tagged[-1], flags=re.IGNORECASE)[0]
    box = _last_box(text)
    return text if box is None else text[box[0] : box[1]]


def _spoken(text: str) -> str:
    """NFKC, after the thinking, without special tokens and the name of the role."""
    text = unicodedata.normalize("NFKC", text)
    text = re.split(r"</think(?:ing)?\s*>", text, flags=re.IGNORECASE)[-1]
    text = re.split(r"<think(?:ing)?\s*>", text, flags=re.IGNORECASE)[
        0
    ]  # thinking that never ended has no answer after it
    turns = [turn for turn in _ENDS.split(text) if turn.strip()]
    return _ROLE.sub("", _TOKENS.sub(" ", turns[0])) if turns else ""


def _last_box(text: str) -> tuple[int, int] | None:
    """(start, end) of what is inside the last \\boxed{}, which may never be closed."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for i, char in enumerate(text[start:], start):
        depth += (char == "{") - (char == "}")
        if char == "}" and depth == 0:
            return start + len("\\boxed{"), i
    return start + len("\\boxed{"), len(text)


def normalise(text: str) -> str:
    """Lower case, one space between words, no outer quotes or punctuation, no leading article, no thousands comma."""
    text = " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(" .,;:!?\"'`()[]")
    text = re.sub(r"^(?:an?|the)\s+", "", text)
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    return re.sub(r"^(-?\d+)\.0+$", r"\1", text)


def _plain(text: str) -> str:
    """Without Markdown and HTML emphasis, LaTeX text commands, dollars and typographic quotes; CJK marks as ASCII ones."""
    text = re.sub(r"\\(?:text|textbf|mathrm|mathbf|rm|bf)\s*\{([^{}]*)\}", r"\1", unicodedata.normalize("NFKC", text))
    text = re.sub(r"</?(?:b|i|u|em|strong|p|span)>|<br\s*/?>", "", text, flags=re.IGNORECASE)
    text = re.sub(r"[*`$]|\\[()\[\]]|(?<!\w)_+|_+(?!\w)|^#+\s*|^>\s*", "", text, flags=re.MULTILINE)
    text = text.translate(_MARKS)
    return re.sub(rf"(?<={_WIDE})(?=[A-Za-z0-9])|(?<=[A-Za-z0-9])(?={_WIDE})", " ", text)


def _yes_or_no(answer: str) -> str | None:
    """The first word, if it is yes or no and no clause ends on the other one: "Yes. Wait, no." and "yes no" are neither."""
    lowered = answer.casefold()
    first = re.match(r"\W*(yes|no)\b", lowered)
    closing = set(re.findall(r"\b(yes|no)\b(?=\s*(?:$|[.,;:!?\n]))", lowered))
    return first[1] if first and closing <= {first[1]} else None


# ---- reading a letter out of an answer ----------------------------------------------------------------------------

_LETTER = re.compile(
    r"[(\[{]\s*(?P<bracketed>[A-Za-z])\s*[)\]}]|(?<![\w.\-])(?<!\w')(?P<alone>[A-Za-z])(?!\w|-\w|'\w|[+#%])"
)
_POLITE = r"(?:\s*(?:です|だ|でしょう|になります|입니다|이다|예요|이에요|임|번)\s*)?"
_LONE = re.compile(
    r"(?:(?:option|choice|opción|antwort|réponse|选项|選択肢|보기)\s*)?[(\[{\"']*\s*([A-Za-z])\s*[)\]}\"']*"
    + _POLITE
    + r"[)\]}\"'.,:;!?]*",
    re.IGNORECASE,
)
# What follows a letter that is meant as an answer, not as the article "a" or the pronoun "I".
_END = re.compile(r"\s*(?:$|[.,;:!?()\]/&\"'\n\u2013\u2014]|-\s)|\s*" + _WIDE)
_END_OF_I = re.compile(r"\s*(?:$|[.:)\]\n])")
_LABEL_AFTER = re.compile(r"\s*(?:$|[.):,;(\n\u2013\u2014]|-\s)|\s+(?:because|since|as|for|due|given)\b", re.IGNORECASE)
_LABEL_BEFORE = re.compile(r"\s*(?:(?:option|choice)\s+)?", re.IGNORECASE)
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
    takes it back. A lone letter or an option's text is the answer. Else the last undoubted statement counts: "the answer
    is C" (or its text), "C is right", a label at the start ("B. red"), a last line that is a letter. "No, wait" and "not
    C" take back what was said. Where nothing is stated, the one option that is named in brackets or as "option C", or
    the one whose text occurs.

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
        by_text.setdefault(normalise(_plain(value)), []).append(key)
    texts = {value: keys[0] for value, keys in by_text.items() if value and len(keys) == 1}
    spoken = _spoken(text)
    answer = _plain(final_answer(text)).strip()
    taken_back = _after_answer(spoken)
    if taken_back:
        answer = f"{answer}.\n{_plain(taken_back)}"
    lone = _LONE.fullmatch(answer)
    if lone and lone[1].upper() in letters:
        return letters[lone[1].upper()]
    for candidate in (answer, _ANSWER_PREFIX.sub("", answer)):
        if normalise(candidate) in texts:
            return texts[normalise(candidate)]
    if lone is None and (letter := _decided(answer, {t: k.upper() for t, k in texts.items()}, frozenset(letters))):
        return letters.get(letter)
    return texts.get(_yes_or_no(answer) or "") if {"yes", "no"} <= texts.keys() else None


def _after_answer(spoken: str) -> str:
    """What follows the last <answer> or \\boxed{}, where it takes something back; else nothing."""
    tagged = re.split(r"</answer\s*>", spoken, flags=re.IGNORECASE)
    box = _last_box(spoken)
    after = tagged[-1] if len(tagged) > 1 else spoken[box[1] + 1 :] if box else ""
    return after if words.CORRECTED.search(f".{_plain(after)}") else ""


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
    found = [each for match in _LETTER.finditer(answer) if (each := _letter_mention(answer, match))]
    found += _text_mentions(answer, texts, found)
    found.sort(key=lambda mention: mention.start)
    for place, sole in (*_on_its_own(answer, letters), *_label(answer, found, letters)):
        found = [
            _Mention(m.letter, m.start, m.end, "stated", joined=not sole) if m.start <= place < m.end else m
            for m in found
        ]
    return _with_denials_passed_on(answer, found)


def _letter_mention(answer: str, match: re.Match[str]) -> _Mention | None:
    """The mention at `match`; None for an article or a pronoun."""
    start, end = match.span()
    kind = _kind(answer, start, end) or ("named" if match["bracketed"] or _is_named(answer, start) else "bare")
    if not _is_meant(answer, match, kind):
        return None
    letter = _letter(match)
    link = words.JOINED.match(answer, end)
    other = _LETTER.match(answer, link.end()) if link else None
    joined = other is not None and _letter(other) != letter and _is_meant(answer, other, "bare")
    joined = joined and not _is_denied(answer, other.start(), other.end()) if other else joined
    doubted, alternative = _is_doubted(answer, start, end)
    return _Mention(letter, start, end, kind, _is_denied(answer, start, end), doubted, joined or alternative)


def _text_mentions(answer: str, texts: Mapping[str, str], taken: Sequence[_Mention]) -> list[_Mention]:
    """Where the answer has the text of an option, the longest first, so that "red car" is not found in "dark red car"."""
    lowered, found = answer.casefold(), []
    if len(lowered) != len(answer):  # casefold lengthens some letters; places would not fit
        lowered = answer.lower() if len(answer.lower()) == len(answer) else answer
    free = [True] * len(answer)
    for text in sorted(texts, key=len, reverse=True):
        if re.fullmatch(r"[a-z]|\W*", text):
            continue
        edges = (r"(?<![\w.])(?<!\w[-'])", r"(?![\w%]|[-'.,]\w)") if re.search(r"[a-z0-9]", text) else ("", "")
        for match in re.finditer(edges[0] + re.escape(text) + edges[1], lowered):
            start, end = match.span()
            if not all(free[start:end]):
                continue
            free[start:end] = [False] * (end - start)
            inside = any(m.start < end and start < m.end and m.kind == "stated" for m in taken)
            kind = _kind(answer, start, end) or ("bare" if text in _WEAK_WORDS else "text")
            doubted, alternative = _is_doubted(answer, start, end)
            denied = _is_denied(answer, start, end)
            if not inside:
                found.append(_Mention(texts[text], start, end, kind, denied, doubted, alternative))
    return found


def _letter(match: re.Match[str]) -> str:
    return (match["alone"] or match["bracketed"]).upper()


def _before(answer: str, place: int) -> str:
    return answer[max(0, place - _CONTEXT) : place]


def _kind(answer: str, start: int, end: int) -> Literal["stated"] | None:
    before, after = _before(answer, start), answer[end : end + _CONTEXT]
    stated = words.ANNOUNCED.search(before) or words.REPLACED.search(before) or words.AFFIRMED.match(after)
    return "stated" if stated else None


def _is_named(answer: str, start: int) -> bool:
    return words.NAMED.search(_before(answer, start)) is not None


def _is_denied(answer: str, start: int, end: int) -> bool:
    before = re.split(r"[.;:!?\n]", _before(answer, start))[-1]
    after = answer[end : end + _CONTEXT]
    return bool(words.DENIED_BEFORE.search(before) or words.DENIED_AFTER.match(after))


def _is_doubted(answer: str, start: int, end: int) -> tuple[bool, bool]:
    """(whether the clause doubts or asks, whether it does so as an alternative to what came before)."""
    before = words.CLAUSE.split(_before(answer, start))[-1]
    sentence = re.match(r"[^.!?\n]*(.?)", answer[end : end + 2 * _CONTEXT])
    asks = sentence is not None and sentence[1] == "?"
    doubts = words.DOUBTED_BEFORE.search(before) or words.DOUBTED_AFTER.match(answer[end : end + _CONTEXT])
    alternative = re.match(r"\s*(?:or|oder|ou|o|或者?|または|또는)\b", before, re.IGNORECASE) is not None
    return bool(asks or doubts), bool(alternative and doubts)


def _is_meant(answer: str, match: re.Match[str], kind: str) -> bool:
    after, alone = answer[match.end() :][:_CONTEXT], match["alone"]
    if alone and not (_END_OF_I if alone == "I" else _END).match(after):
        linked = alone != "I" and alone.isupper() and words.BECAUSE.match(after)
        linked = linked or (
            alone.isupper() and alone != "I" and (words.AFFIRMED.match(after) or words.DENIED_AFTER.match(after))
        )
        if not linked and (kind == "bare" or alone not in "BCDEFGHJKLMNOPQRSTUVWXYZ"):
            return False
    return True


def _with_denials_passed_on(answer: str, mentions: Sequence[_Mention]) -> list[_Mention]:
    """ "not A or B" denies both."""
    passed: list[_Mention] = []
    for mention in mentions:
        last = passed[-1] if passed else None
        if last and last.denied and not mention.denied and mention.kind != "stated":
            link = words.JOINED.match(answer, last.end)
            if link and link.end() >= mention.start:
                mention = _Mention(mention.letter, mention.start, mention.end, mention.kind, denied=True)
        passed.append(mention)
    return passed


def _on_its_own(answer: str, letters: frozenset[str]) -> list[tuple[int, bool]]:
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
    answer = _ANSWER_PREFIX.sub("", _plain(final_answer(text)).strip())
    if normalise(gold) in ("yes", "no"):
        return _yes_or_no(answer) == normalise(gold)
    return bool(normalise(answer) or answer == gold.strip()) and normalise(answer) == normalise(gold)


def _lettered(text: str, options: Mapping[str, str]) -> str:
    """Options 1, 2, ... of a numbered question as A, B, ..., unless their texts hold numbers."""
    if any(re.search(r"\d", option) for option in options.values()):
        return text
    return re.sub(
        r"(?<![\w.])\d{1,2}(?!\w|\.\d)",
        lambda m: _LETTERS[int(m[0]) - 1] if 0 < int(m[0]) <= len(options) else m[0],
        text,
    )
