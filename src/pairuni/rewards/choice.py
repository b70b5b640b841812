"""The understanding reward: accuracy of a multiple-choice answer, and the parser that reads letters out of free text.

An answer counts only where one option is clearly chosen. Guessing from stray letters would reward "A dog is sitting"
for A, so whatever names no option, or several without deciding, is None. Benchmarks use the same parser (eval/), with
their official ones beside it.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pairuni.records import Side
from pairuni.rewards.base import RewardInput

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

# ---- reading options out of a question ----------------------------------------------------------------------------

_LABELS = (r"\(([A-Z])\)", r"([A-Z])\.", r"([A-Z])\)", r"([A-Z]):")
_INSTRUCTION = re.compile(
    r"\s*\b(?:please\s+)?(?:answer|respond|reply|choose|select|pick|output|give)\b"
    r"[^.\n]*\b(?:letter|options?|choices?)\b",
    re.IGNORECASE,
)


def parse_options(question: str) -> dict[str, str]:
    """Options written into a question: "... A. x B. y ...", on one line or several, as "A.", "(A)", "A)" or "A:".

    Letters start at A and follow each other. The last option ends at its line's end or at an instruction such as
    "Answer with the option's letter". {} where there are fewer than two.
    """
    for labels in (_LABELS, tuple(label + r"(?=\S)" for label in _LABELS)):
        for anchor in (r"(?:^|\n)[ \t]*", r"(?<![\w.(])"):
            found = [_best_run(question, anchor + label + ("" if r"\S" in label else r"(?=\s)")) for label in labels]
            best = max(found, key=len)
            if len(best) > 1:
                return best
    return {}


def _best_run(question: str, pattern: str) -> dict[str, str]:
    """The longest run A, B, C, ... of labels; of equals one that follows a sentence, then the last one."""
    labels = [(m[1], m.start(), m.end()) for m in re.finditer(pattern, question)]
    best, best_rank = {}, (0, False)
    for first, (letter, start, _) in enumerate(labels):
        if letter != "A":
            continue
        run = [labels[first]]
        for i, label in enumerate(labels[first + 1 :], first + 1):
            repeated = i + 1 < len(labels) and labels[i + 1][0] == label[0] and labels[i + 1][1] - label[2] <= 1
            expected = len(run) < 26 and label[0] == _LETTERS[len(run)]
            # "A. Vitamin B. B. Vitamin C.": a label right before itself is the end of the option before
            if expected and not repeated and question[run[-1][2] : label[1]].strip():
                run.append(label)
        options = _texts(question, run)
        rank = len(options), not question[:start].strip() or question[:start].rstrip()[-1] in ".?!:\n"
        if rank >= best_rank:
            best, best_rank = options, rank
    return best


def _texts(question: str, run: list[tuple[str, int, int]]) -> dict[str, str]:
    ends = [start for _, start, _ in run[1:]] + [len(question)]
    texts = [question[label[2] : end].strip() for label, end in zip(run, ends, strict=True)]
    last = _INSTRUCTION.split(texts[-1].split("\n")[0], maxsplit=1)[0].strip()
    texts = [" ".join(text.split()) for text in [*texts[:-1], last]]
    for mark in ",;":
        if all(text.endswith(mark) for text in texts[:-1]):
            texts = [text.removesuffix(mark).rstrip() for text in texts]
    return {label[0]: text for label, text in zip(run, texts, strict=True)} if texts[-1] else {}


# ---- reading a letter out of an answer ----------------------------------------------------------------------------

_MENTION = re.compile(
    r"[(\[{]\s*(?P<bracketed>[A-Za-z])\s*[)\]}]|(?<![\w.\-])(?<!\w')(?P<alone>[A-Za-z])(?!\w|-\w|'\w|[+#%])"
)
_LONE = re.compile(r"(?:option\s+|choice\s+)?[(\[{\"']*\s*([A-Za-z])\s*[)\]}\"'.,:;!?]*", re.IGNORECASE)
# What follows a letter that is meant as an answer, not as the article "a" or the pronoun "I".
_END = re.compile(r"\s*(?:$|[.,;:!?()\]/&\"'\n\u2013\u2014]|-\s)")
_END_OF_I = re.compile(r"\s*(?:$|[.:)\]\n])")
_LINK = re.compile(r"\s+(?:is|was|or|and|because|since|as|but|not|for|due|given|which|seems|looks)\b", re.IGNORECASE)

# Cues end right before the letter: "the answer is not A but most likely option [C]".
_GAP = (
    r"(?:not\s+(?:option\s+|choice\s+)?[(\[]?[A-Za-z][)\]]?\s*,?\s*but\s+(?:rather\s+)?)?"
    r"(?:(?:the|an?|my|option|choice|letter|answer|definitely|clearly|probably|likely|most|just|simply|indeed|thus"
    r"|either|both|surely|certainly|obviously|maybe|perhaps)\s+)*[\"']?$"
)
_VERB = r"(?:\s+(?:is|are|was|be|would|should|must|will|has|to|choice|option|letter|here|therefore|thus|given))*"
_ANSWER_BEFORE = re.compile(
    rf"(?:\banswer[\"']?{_VERB}\s*[:=\-\u2013]?\s*"
    rf"|\b(?:correct|right|best)\s+(?:option|choice|letter|one){_VERB}\s*[:=]?\s*"
    r"|\b(?:option|choice|letter|ans)\s*(?:is\s|[:=])\s*"
    rf"|\b(?:choose|pick|select|guess|go\s+with|choosing|picking|selecting)\s+){_GAP}",
    re.IGNORECASE,
)
_ANSWER_AFTER = re.compile(
    r"\s+(?:is|seems|must\s+be|would\s+be)\s+(?:(?:clearly|definitely|the|most)\s+)*"
    r"(?:correct|right|best|answer|true)\b",
    re.IGNORECASE,
)
_CONCLUSION_BEFORE = re.compile(
    r"(?:\b(?:so|therefore|thus|hence|conclude)\s*,?\s+(?:that\s+)?(?:(?:it|this|that)(?:\s+is|'s)\s+)?"
    r"|\b(?:it|that|this)(?:\s+is|'s|\s+must\s+be|\s+should\s+be)\s+"
    r"|\b(?:think|believe|say)\s+(?:that\s+)?(?:it\s+is\s+)?"
    rf"|\b(?:definitely|probably|clearly|likely|certainly|surely)\s+|\bbased\s+on\s[^.!?\n]*,\s*){_GAP}",
    re.IGNORECASE,
)
_NAMED_BEFORE = re.compile(r"\b(?:option|choice)\s+$", re.IGNORECASE)
_NEGATED_BEFORE = re.compile(
    r"(?:\b(?:not|never|neither|nor|cannot|rather\s+than|instead\s+of|except|excluding|eliminate|rule\s+out)|n't)"
    r"\s+(?:(?:be|the|option|choice|answer)\s+)*$",
    re.IGNORECASE,
)
_NEGATED_AFTER = re.compile(
    r"\s+(?:(?:is|was|looks|seems|would\s+be|can|could|must|does)\s*(?:n't|\s+not)\b|can't\b|cannot\b"
    r"|(?:is|was|looks|seems)\s+(?:\w+ly\s+)?(?:wrong|incorrect|false|impossible|out|ruled|eliminated|excluded)\b)",
    re.IGNORECASE,
)
_DOUBT_BEFORE = re.compile(
    r"\b(?:if|whether)\s+(?:(?:the\s+)?(?:right\s+|correct\s+)?(?:answer|option|choice)|it|this|that)\b[^.!?,\n]*$"
    r"|\bor\s+(?:(?:maybe|perhaps|possibly|the)\s+)*$",
    re.IGNORECASE,
)
_JOIN = re.compile(r"\s*(?:,\s*(?:or|and)\b|,|/|&|or\b|and\b)\s*(?:(?:maybe|perhaps|option|choice)\s+)*", re.IGNORECASE)
_LABEL_AFTER = re.compile(r"\s*(?:$|[.):,;(\n\u2013\u2014]|-\s)|\s+(?:because|since|as|for|due|given)\b", re.IGNORECASE)
_ANSWER_PREFIX = re.compile(
    r"^(?:(?:so|therefore|thus|hence)\s*,?\s*)?(?:the\s+)?(?:final\s+|correct\s+|right\s+|best\s+)*"
    r"(?:answer(?:\s+is\b|\s*:)|it\s+is\b|it's\b|this\s+is\b|that\s+is\b)\s*:?\s*",
    re.IGNORECASE,
)
_SEVERAL = "?"
"""Several letters without a decision: ends the search."""
_CONTEXT = 120
"""Characters before and after a letter in which cues are looked for."""


@dataclass(frozen=True)
class _Mention:
    """A letter that the answer names as an option, not negated. Kinds from the most explicit one to the least."""

    letter: str
    start: int
    end: int
    kind: str
    """answer ("the answer is C"), conclusion ("so it is C"), named ("(C)", "option C") or bare."""
    joined: bool
    """Another letter is named in one breath ("A or B", "A/B"), or it is said in doubt ("if the answer is A")."""


def extract_choice(text: str, options: Mapping[str, str]) -> str | None:
    """The letter of the option that `text` chooses, None where it chooses none or several.

    Reads what follows <think>..</think>, inside the last <answer> or \\boxed{} where there is one, and then, first
    found: a lone letter or an option's text; "the answer is C"; a last line that is a letter; a label at the start
    ("B. red", "(B) ..."); a conclusion ("so it is C, not A"); the one option named in brackets or as "option C".

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
    words = {value: keys[0] for value, keys in by_text.items() if value and len(keys) == 1}
    answer = _plain(final_answer(text)).strip()
    lone = _LONE.fullmatch(answer)
    if lone and lone[1].upper() in letters:
        return letters[lone[1].upper()]
    for candidate in (answer, _ANSWER_PREFIX.sub("", answer)):
        if normalise(candidate) in words:
            return words[normalise(candidate)]
    if lone is None and (letter := _decided(answer, frozenset(letters))) is not None:
        return letters.get(letter)
    return words.get(_first_word(answer)) if {"yes", "no"} <= words.keys() else None


def final_answer(text: str) -> str:
    """What is left of `text` as its answer: after the thinking, inside the last <answer>, inside the last \\boxed{}."""
    text = unicodedata.normalize("NFKC", text)
    text = re.split(r"</think\s*>", text, flags=re.IGNORECASE)[-1]
    text = re.split(r"<think\s*>", text, flags=re.IGNORECASE)[0]  # thinking that never ended has no answer after it
    tagged = re.split(r"<answer\s*>", text, flags=re.IGNORECASE)
    if len(tagged) > 1:
        text = re.split(r"</answer\s*>", tagged[-1], flags=re.IGNORECASE)[0]
    start = text.rfind("\\boxed{")
    if start < 0:
        return text
    depth = 0
    for i, char in enumerate(text[start:], start):
        depth += (char == "{") - (char == "}")
        if char == "}" and depth == 0:
            return text[start + len("\\boxed{") : i]
    return text[start + len("\\boxed{") :]


def normalise(text: str) -> str:
    """Lower case, one space between words, no outer quotes or punctuation, no leading article, no thousands comma."""
    text = " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(" .,;:!?\"'`()[]")
    text = re.sub(r"^(?:an?|the)\s+", "", text)
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    return re.sub(r"^(-?\d+)\.0+$", r"\1", text)


def _plain(text: str) -> str:
    """Without Markdown and HTML emphasis, LaTeX text commands, dollars and typographic quotes."""
    text = re.sub(r"\\(?:text|textbf|mathrm|mathbf|rm|bf)\s*\{([^{}]*)\}", r"\1", unicodedata.normalize("NFKC", text))
    text = re.sub(r"</?(?:b|i|u|em|strong|p|span)>", "", text, flags=re.IGNORECASE)
    text = re.sub(r"[*`$]|\\[()\[\]]|(?<!\w)_+|_+(?!\w)|^#+\s*", "", text, flags=re.MULTILINE)
    return text.replace("\u2019", "'").replace("\u2018", "'").replace("\u201c", '"').replace("\u201d", '"')


def _first_word(text: str) -> str:
    word = re.match(r"\W*(\w+)", text)
    return word[1].casefold() if word else ""


def _decided(answer: str, letters: frozenset[str]) -> str | None:
    """The chosen letter (perhaps one that is no option), _SEVERAL, or None where no letter is named."""
    mentions = [mention for match in _MENTION.finditer(answer) if (mention := _mention(answer, match))]
    by_kind = {kind: [m for m in mentions if m.kind == kind] for kind in ("answer", "conclusion", "named")}
    if by_kind["answer"]:
        return _last(by_kind["answer"])
    found = _on_its_own(answer) or _label(answer, mentions, letters)
    if found is None and by_kind["conclusion"]:
        found = _last(by_kind["conclusion"])
    named = {m.letter for m in by_kind["named"]} & letters
    if found is None and named:
        found = named.pop() if len(named) == 1 else _SEVERAL
    return found


def _last(mentions: Sequence[_Mention]) -> str:
    return _SEVERAL if mentions[-1].joined else mentions[-1].letter


def _mention(answer: str, match: re.Match[str]) -> _Mention | None:
    """The mention at `match`; None for an article or a pronoun and where it is negated."""
    start, end = match.span()
    kind, cue_start = _kind(answer, match)
    if not _is_meant(answer, match, kind):
        return None
    letter = _letter(match)
    link = _JOIN.match(answer, end)
    other = _MENTION.match(answer, link.end()) if link else None
    joined = other is not None and _letter(other) != letter and _is_meant(answer, other, "bare")
    before = answer[max(0, start - _CONTEXT) : start]
    doubted = any(_DOUBT_BEFORE.search(text) for text in (before, answer[max(0, cue_start - _CONTEXT) : cue_start]))
    return _Mention(letter, start, end, kind, joined or doubted)


def _letter(match: re.Match[str]) -> str:
    return (match["alone"] or match["bracketed"]).upper()


def _kind(answer: str, match: re.Match[str]) -> tuple[str, int]:
    """The kind of a mention and where its cue starts."""
    start, end = match.span()
    offset = max(0, start - _CONTEXT)
    before = answer[offset:start]
    if cue := _ANSWER_BEFORE.search(before):
        return "answer", offset + cue.start()
    if _ANSWER_AFTER.match(answer[end : end + _CONTEXT]):
        return "answer", start
    if cue := _CONCLUSION_BEFORE.search(before):
        return "conclusion", offset + cue.start()
    return "named" if match["bracketed"] or _NAMED_BEFORE.search(before) else "bare", start


def _is_meant(answer: str, match: re.Match[str], kind: str) -> bool:
    before, after = answer[max(0, match.start() - _CONTEXT) : match.start()], answer[match.end() :][:_CONTEXT]
    alone = match["alone"]
    if alone and not (_END_OF_I if alone == "I" else _END).match(after):
        linked = alone != "I" and _LINK.match(after)
        if not linked and (kind == "bare" or alone not in "BCDEFGHJKLMNOPQRSTUVWXYZ"):
            return False
    return not _NEGATED_BEFORE.search(before) and not _NEGATED_AFTER.match(after)


def _on_its_own(answer: str) -> str | None:
    """A letter that is all of the last line or sentence."""
    pieces = [piece for piece in re.split(r"\n|(?<=\w\w[.!?])\s", answer) if piece.strip()]
    alone = [lone[1].upper() if (lone := _LONE.fullmatch(piece.strip())) else None for piece in pieces]
    if len(pieces) < 2 or alone[-1] is None:
        return None
    return alone[-1] if {*alone} <= {alone[-1], None} else _SEVERAL


def _label(answer: str, mentions: Sequence[_Mention], letters: frozenset[str]) -> str | None:
    """A letter that labels the answer, as in "B. red", "(B)" or "B because"; not where the options are being listed."""
    if not mentions or not re.fullmatch(r"\s*(?:(?:option|choice)\s+)?", answer[: mentions[0].start], re.IGNORECASE):
        return None
    first = mentions[0]
    bracketed = answer[first.start] in "([{"
    if not bracketed and not _LABEL_AFTER.match(answer, first.end):
        return None
    rest = answer[first.end :].lstrip(" .):,;")
    following = _LETTERS[_LETTERS.index(first.letter) + 1 :][:1]
    listed = following and re.search(rf"(?:^|\s)(?:\({following}\)|{following}[.):])(?:\s|$)", rest)
    lines = {m[1] for m in re.finditer(r"^\s*\(?([A-Z])[.):]", answer, re.MULTILINE)} & letters
    several = listed or len(lines) > 1 or first.joined or _LONE.fullmatch(rest.strip())
    return _SEVERAL if several else first.letter


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
    right = extract_choice(gold, options)
    if right is None and re.fullmatch(r"\W*[A-Z]\W*", gold):
        right = re.sub(r"\W", "", gold)
        options = {letter: options.get(letter, "") for letter in _LETTERS[: max(_LETTERS.index(right) + 1, 4)]}
    if right is not None:
        return extract_choice(text, options) == right
    answer = _ANSWER_PREFIX.sub("", _plain(final_answer(text)).strip())
    if normalise(gold) in ("yes", "no"):
        return _first_word(answer) == normalise(gold)
    return normalise(answer) == normalise(gold)
