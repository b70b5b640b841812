"""The understanding reward: accuracy of a multiple-choice answer, and the parser that reads letters out of free text.

An answer counts only where it clearly chooses one option. Guessing from stray letters would reward "A dog is sitting"
for A, so an answer that names no option, or several without deciding, is None. Of several statements the last
undoubted one counts, since models correct themselves; a denial or a correction takes back the statement before it.
The phrases are those of phrases.yaml. Benchmarks use the same parser, and their official ones (eval/).
"""

import re
from collections.abc import Mapping, Sequence

from pairuni.rewards import choice_patterns as patterns
from pairuni.rewards.answer_text import (
    ANSWER_PREFIX,
    NUMBERS,
    final_answer,
    last_box,
    normalise,
    own_turns,
    plain,
    same,
    spoken,
    yes_or_no,
)
from pairuni.rewards.base import ItemReward
from pairuni.rewards.mentions import LETTERS, LONE, Mention, find_mentions, pieces
from pairuni.rewards.written_options import is_numbered, parse_options
from pairuni.types import Side

_SEVERAL = "?"
"""Several letters without a decision."""
_REPEATED = re.compile(r"\W*([A-Za-z])(?:\W+\1)+\W*")


def extract_choice(text: str, options: Mapping[str, str]) -> str | None:
    """The letter of the option that `text` chooses, None where it chooses none or several.

    Reads what follows <think>..</think>, inside the last <answer> or \\boxed{} where there is one and nothing after it
    takes it back; of a text that goes on with turns of its own, the first, or the last where the first chooses nothing.
    The first of these rules that finds something decides:

    1. The whole answer is a letter, or an option's text.
    2. The last undoubted statement: "the answer is C" (or its text), "C is right", "the second option is best", a label
       at the start ("B. red"), a first or last line that is a letter or text. "No, wait", "not C" and "I cannot say
       which" take back what was said.
    3. Nothing is stated, and the text is not cut off: the one option in bold; the one that the last sentence concludes
       with; the one named in brackets or as "option C"; the one whose text occurs. A denied option is not chosen.

    Args:
        text: the answer as generated.
        options: {letter: option text}, any number up to 26; texts may be empty where they are unknown.

    Raises:
        ValueError: a key of `options` is not a single letter.
    """
    letters = {key.upper(): key for key in options}
    if not all(len(key) == 1 and key in LETTERS for key in letters) or len(letters) != len(options):
        raise ValueError(f"options must be keyed by different single letters, not {list(options)}")
    by_text: dict[str, list[str]] = {}
    for key, value in options.items():
        by_text.setdefault(normalise(plain(value)), []).append(key)
    texts = {value: keys[0] for value, keys in by_text.items() if value and len(keys) == 1}
    return next((letter for turn in own_turns(text) if (letter := _chosen(turn, texts, letters))), None)


def _chosen(text: str, texts: Mapping[str, str], letters: Mapping[str, str]) -> str | None:
    """As `extract_choice`, with keys by `texts` (normalised) and by upper-case `letters`."""
    final = final_answer(text)
    answer = plain(final).strip()
    # The text after the last <answer> or \boxed{} counts too, where it takes something back.
    said = spoken(text)
    tagged, box = re.split(r"</answer\s*>", said, flags=re.IGNORECASE), last_box(said)
    after = plain(tagged[-1] if len(tagged) > 1 else said[box[1] + 1 :] if box else "")
    if patterns.CORRECTED.search(f".{after}"):
        answer = f"{answer}.\n{after}"
    lone = LONE.fullmatch(answer) or _REPEATED.fullmatch(answer)
    if lone and lone[1].upper() in letters:
        return letters[lone[1].upper()]
    for candidate in (answer, ANSWER_PREFIX.sub("", answer)):
        if key := _text_alone(normalise(candidate), texts):
            return key
    upper = {value: key.upper() for value, key in texts.items()}
    if lone is None and (letter := _decided(answer, upper, frozenset(letters), _in_bold(final, upper))):
        return letters.get(letter)
    return texts.get(yes_or_no(answer) or "") if {"yes", "no"} <= texts.keys() else None


def _text_alone(said: str, texts: Mapping[str, str]) -> str | None:
    """The option whose text `said` is, word or number, or all but the end of; or that "the red one" means."""
    counted = {number: word for word, number in NUMBERS.items()} | NUMBERS
    if key := texts.get(said) or texts.get(counted.get(said, "")):
        return key
    one = re.fullmatch(r"(\w+) one", said)
    begun = [key for text, key in texts.items() if said.count(" ") > 1 and text.startswith(f"{said} ")]
    meant = [key for text, key in texts.items() if one and one[1] in text.split()]
    return (begun + meant)[0] if len(begun + meant) == 1 else None


def _in_bold(markdown: str, texts: Mapping[str, str]) -> set[str]:
    """The options that stand in bold, as **red**, **B** or **B. red**."""
    found: set[str] = set()
    for bold in re.findall(r"\*\*([^*\n]+)\*\*", markdown):
        label = re.fullmatch(r"\(?([A-Z])(?:[.):]+\s*(.*))?", plain(bold).strip(" .:"))
        letter = texts.get(normalise(plain(bold))) or (label[1] if label else None)
        found |= {letter} if letter else set()
    return found


def _decided(answer: str, texts: Mapping[str, str], letters: frozenset[str], bold: set[str]) -> str | None:
    """The chosen letter (perhaps one that is no option), _SEVERAL, or None where nothing is decided.

    A state machine over the mentions and corrections in their order: statements replace each other, denials and
    corrections take back.
    """
    mentions = find_mentions(answer, texts, letters)
    cuts = [match.end() for match in patterns.CORRECTED.finditer(answer) if answer[: match.start()].strip()]
    # The "no" of "The answer is no." and "B. No, it is not." takes nothing back.
    cuts = [end for end in cuts if not any(_is_said_again(mentions, mention, end) for mention in mentions)]
    held, weak, denied = None, [], set()
    for mention in mentions:
        while cuts and cuts[0] <= mention.start:
            held, weak, denied = None, [], set()
            cuts.pop(0)
        if mention.denied:
            held = None if held in (mention.letter, _SEVERAL) else held
            denied.add(mention.letter)
        elif mention.doubted:
            held = _SEVERAL if mention.joined and held not in (None, mention.letter) else held
        elif mention.kind == "stated":
            held = _SEVERAL if mention.joined else mention.letter
        elif mention.kind != "bare":
            weak.append(mention)
    if cuts:
        return None
    return held or _unstated(answer, [mention for mention in weak if mention.letter not in denied], letters, bold)


def _is_said_again(mentions: Sequence[Mention], said: Mention, cut: int) -> bool:
    """Whether the correction that ends at `cut` is the text of an option that is stated there or right before."""
    earlier = [mention for mention in mentions if mention.start < said.start]
    stated = said.kind == "stated" or (earlier and earlier[-1].kind == "stated" and earlier[-1].letter == said.letter)
    return said.start < cut <= said.end + 1 and bool(stated)


def _unstated(answer: str, weak: Sequence[Mention], letters: frozenset[str], bold: set[str]) -> str | None:
    """The option that an answer without a statement means, of those that it mentions and does not deny."""
    is_it = [mention for mention in weak if _is_predicate(answer, mention)]
    cut_off = patterns.CUT_OFF.search(answer)
    if cut_off and weak and weak[-1].end <= cut_off.start():
        weak = is_it
    if not weak:
        return None
    named = {mention.letter for mention in weak if mention.kind == "named"} & letters
    by_text = {mention.letter for mention in weak if mention.kind == "text"}
    if len(bold) == 1 and bold <= named | by_text:
        return min(bold)
    last = [piece for piece in pieces(answer) if piece.start() <= weak[-1].start][-1]
    signs = [sign.end() for sign in patterns.CONCLUDED.finditer(answer, last.start(), weak[-1].start)]
    concluded = {mention.letter for mention in weak if signs and mention.start >= signs[-1]}
    if len(concluded) == 1:
        return concluded.pop()
    opening = pieces(answer)[0].end()
    clear = weak[-1] in is_it or any(_is_hinted(answer, mention) or mention.start < opening for mention in is_it)
    if clear and len({mention.letter for mention in is_it}) == 1:
        return is_it[-1].letter
    several = any(mention.joined for mention in weak)
    return (named or by_text).pop() if len(named or by_text) == 1 and not several else None


def _is_predicate(answer: str, mention: Mention) -> bool:
    """Whether a clause ends by saying that something is the option."""
    before, after = answer[max(0, mention.start - 120) : mention.start], answer[mention.end :][:40]
    is_it = patterns.IS_IT.search(before) and patterns.IT_ENDS.match(after)
    return bool(is_it or _is_hinted(answer, mention) or patterns.IT_IS.match(after))


def _is_hinted(answer: str, mention: Mention) -> bool:
    return patterns.HINTED.search(answer[max(0, mention.start - 120) : mention.start]) is not None


# ---- the reward ---------------------------------------------------------------------------------------------------


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
        options = {letter: options.get(letter, "") for letter in LETTERS[: max(LETTERS.index(right) + 1, 4)]}
    if right is not None:
        return extract_choice(text, options) == right
    answer = ANSWER_PREFIX.sub("", plain(final_answer(text)).strip())
    if normalise(gold) in ("yes", "no"):
        return yes_or_no(answer) == normalise(gold)
    return same(answer, gold)


CHOICE = ItemReward(
    "choice",
    lambda item: float(is_right(item.text or "", item.quadruple.question, item.quadruple.answer)),
    frozenset({Side.UNDERSTANDING}),
)
"""1 for the right answer, else 0 (paper section 3: accuracy of the multiple-choice answer)."""


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
    """The fault of a gold answer that is none of the options in its question; None where it has no fault.

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
