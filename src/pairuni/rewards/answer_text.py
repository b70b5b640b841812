"""The text of an answer: without thinking, tags, boxes, special tokens and markup. It is read in choice.py."""

import re
import unicodedata
from collections.abc import Callable

_ENDS = re.compile(
    r"<\|?(?:im_end|im_start|eot_id|eom_id|end_of_text|endoftext|end|end_of_turn|eos|EOS|pad|/s|end▁of▁sentence)\|?>"
)
_TURN = r"\n\s*(?:[Hh]uman|[Uu]ser|USER)\s*:"
_TOKENS = re.compile(r"<\|[^<>|]{1,40}\|>|<｜[^<>]{1,40}｜>|</?s>|<(?:bos|unk|start_of_turn)>|\[/?INST\]")
"""Special tokens that a tokenizer left in a text. Text after one that ends a turn is no part of the answer."""
_ROLE = re.compile(r"^\s*(?:assistant|model|ai|bot|助手|アシスタント)\s*[:\n]\s*", re.IGNORECASE)
_NEXT_QUESTION = re.compile(
    r"(\b[Aa]nswer\b\W*(?:is\b|:)[^\n]*|(?:^|\s)\(?[A-Z]\)?\.?)\s*\n\s*Question\s*:.*", re.DOTALL
)
"""A question that the model goes on with after its answer."""
WIDE = r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
_MARKS = str.maketrans(
    {"\u3002": ". ", "\u3001": ", ", "\u300c": '"', "\u300d": '"', "\u300e": '"', "\u300f": '"'}
    | {"\u3010": "[", "\u3011": "]", "\u300a": '"', "\u300b": '"', "\u00ab": '"', "\u00bb": '"'}
    | {"\u2019": "'", "\u2018": "'", "\u201c": '"', "\u201d": '"', "\u201e": '"', "\u2192": ":", "\u2234": ":"}
)
ANSWER_PREFIX = re.compile(
    r"^(?:(?:so|therefore|thus|hence)\s*,?\s*)?(?:the\s+)?(?:final\s+|correct\s+|right\s+|best\s+)*"
    r"(?:answer(?:\s+is\b|\s*:)|it\s+is\b|it's\b|this\s+is\b|that\s+is\b)\s*:?\s*",
    re.IGNORECASE,
)

_WORDS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
NUMBERS = {str(n): word for n, word in enumerate(f"{_WORDS} seventeen eighteen nineteen twenty".split())}
"""{numeral: English word}."""


def own_turns(text: str) -> list[str]:
    """The first and the last turn of a text in which the model writes the user's part too; else the whole text."""
    text = _NEXT_QUESTION.sub(r"\1", text)
    parts = re.split(r"^[ \t]*(?:ASSISTANT|Assistant)[ \t]*:", text, flags=re.MULTILINE)
    turns = [part for part in parts if part.strip() and not re.match(r"\s*(?:USER|User|Human)\s*:", part)]
    return [turns[0], turns[-1]] if len(turns) > 1 else turns or [text]


def final_answer(text: str) -> str:
    """The answer in `text`: after the thinking, inside the last <answer>, inside the last \\boxed{}."""
    text = spoken(text)
    tagged = re.split(r"<answer\s*>", text, flags=re.IGNORECASE)
    if len(tagged) > 1:
        text = re.split(r"</answer\s*>", tagged[-1], flags=re.IGNORECASE)[0]
    box = last_box(text)
    return text if box is None else text[box[0] : box[1]]


def spoken(text: str) -> str:
    """NFKC, after the thinking, without special tokens and the name of the role."""
    text = unicodedata.normalize("NFKC", text)
    text = re.split(r"</think(?:ing)?\s*>", text, flags=re.IGNORECASE)[-1]
    text = re.split(r"<think(?:ing)?\s*>", text, flags=re.IGNORECASE)[0]  # of thinking that never ended, the start
    turns = [turn for turn in re.split(rf"{_ENDS.pattern}|{_TURN}", text) if turn.strip()]
    return _ROLE.sub("", _TOKENS.sub(" ", turns[0])) if turns else ""


def last_box(text: str) -> tuple[int, int] | None:
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


def same(said: str, gold: str, normal: Callable[[str], str] = normalise) -> bool:
    """Whether both are equal after `normal`. Where that leaves nothing (punctuation), as they are."""
    return normal(said) == normal(gold) and (normal(gold) != "" or said.strip().casefold() == gold.strip().casefold())


def plain(text: str) -> str:
    """Without Markdown and HTML emphasis, LaTeX commands and typographic quotes; marks of CJK texts as ASCII ones."""
    text = re.sub(r"\\(?:text|textbf|mathrm|mathbf|rm|bf)\s*\{([^{}]*)\}", r"\1", unicodedata.normalize("NFKC", text))
    text = re.sub(r"</?(?:b|i|u|em|strong|p|span)>|<br\s*/?>", "", text, flags=re.IGNORECASE)
    text = re.sub(r"[*`$]|\\[()\[\]]|(?<!\w)_+|_+(?!\w)|^#+\s*|^>\s*", "", text, flags=re.MULTILINE)
    text = re.sub(r"[=-]>", ":", text).translate(_MARKS)
    text = re.sub(r"^\s*[:=]+\s*", "", text)
    text = re.sub(r"\^\{?\\circ\}?", "\u00b0", text)
    text = re.sub(r"\\[dt]?frac\{([^{}]+)\}\{([^{}]+)\}", r"\1/\2", text)
    return re.sub(rf"(?<={WIDE})(?=[A-Za-z0-9])|(?<=[A-Za-z0-9])(?={WIDE})", " ", text)


def yes_or_no(answer: str) -> str | None:
    """The first word, if it is yes or no and no clause ends on the other: "Yes. Wait, no." and "yes no" are neither."""
    lowered = answer.casefold()
    first = re.match(r"\W*(yes|no)\b", lowered)
    closing = set(re.findall(r"\b(yes|no)\b(?=\s*(?:$|[.,;:!?\n]))", lowered))
    return first[1] if first and closing <= {first[1]} else None
