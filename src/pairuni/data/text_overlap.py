"""Which texts of the data stand in a reference set (paper 2.2, "checked for overlap"). Pure functions.

The comparison uses a text's own words only. Whole data sets end their questions with the same instruction ("Answer
with the option's letter from the given choices directly." has ten words) or begin them with the same phrase, so
instructions and options are cut first, and words that many references share say nothing.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

_WORD = re.compile(r"\w+")
_PLACEHOLDER = re.compile(r"<[^<>\n]{1,20}>")
_SENTENCE_END = re.compile(r"(?<=[.?!。？！])\s+|\n+")
_LABELS = tuple(
    (re.compile(pattern.format(*first), re.MULTILINE), re.compile(pattern.format(*second), re.MULTILINE))
    for pattern, first, second in (
        (r"(?<![\w.(])(?:\({0}\)|{0}[.):、])", "A", "B"),
        (r"(?<![\w.(])\({0}\)", "a", "b"),
        (r"^[ \t]*\(?{0}[.):、]", "a", "b"),
        (r"^[ \t]*\(?{0}[.):、]", "1", "2"),
    )
)
_LABELLED = re.compile(r"[ \t]*\(?(?:[A-Za-z]|\d{1,2})[.):、]")
_INSTRUCTION = re.compile(
    r".*\byour\s+(?:final\s+)?(?:answer|response|reply)\b.*"
    r"|\W*(?:(?:question|hint|note|instructions?)\s*:\s*)?(?:(?:when|if|where)\b[^,]*,\s*)?"
    r"(?:please\s+|you\s+(?:must|should)\s+)?"
    r"(?:answer|respond|reply|choose|select|pick|output|give|provide|write|return|use|indicate|state)\b.*"
    r"\b(?:letters?|options?|choices?|words?|phrases?|yes|no|numbers?|digits?|integers?|brief(?:ly)?|short|concise(?:ly)?"
    r"|directly|the question|unanswerable|captions?|descriptions?)\b.*",
    re.IGNORECASE | re.DOTALL,
)
_TASK = re.compile(
    r"\W*(?:please\s+)?(?:provide|give|write|output|generate)\b[^:\n]*"
    r"\b(?:coordinates?|bounding box(?:es)?|descriptions?|captions?|region)\b[^:\n]*:\s*",
    re.IGNORECASE,
)
"""The own words follow: "Please provide the bounding box coordinate of the region this sentence describes: ..."."""
_CAPTION = re.compile(
    r"\W*(?:please\s+)?(?:provide|give|write)\s+(?:me\s+)?an?\s+[\w\s-]*\b(?:caption|description)\b"
    r"(?:\s+(?:for|of)\s+(?:the|this)\s+(?:provided\s+|given\s+)?(?:image|picture|photo))?\W*",
    re.IGNORECASE,
)
"""A whole text that says nothing of its own."""
_HEADER = re.compile(r"\W*(?:options?|choices?|question|answer|context|hint)\s*:?\W*", re.IGNORECASE)
_FEW = 3
_SHARE = 0.01
_SHORTEST_SENTENCE = 4


class TextOverlap:
    """Which texts share their own words with a reference text.

    A text overlaps where `size` of its own words in a row stand in a reference, or where it, or a sentence of it, is a
    whole reference of fewer words. Words that stand in more than 3 references and in more than 1 % of them do not
    count: they are a template's.
    """

    def __init__(self, references: Iterable[str], size: int) -> None:
        """Raises ValueError: size < 1."""
        if size < 1:
            raise ValueError(f"size must be positive, not {size}")
        self.size = size
        references = list(references)
        counts = Counter(gram for text in references for gram in set(self._grams(text)))
        most = max(_FEW, _SHARE * len(references))
        self._known = {gram for gram, count in counts.items() if count <= most}

    def shared(self, text: str) -> str | None:
        """The words that are shared first, None where none are."""
        sentences = [gram for s in _sentences(text) if _SHORTEST_SENTENCE <= len(gram := _words(s)) < self.size]
        return next((" ".join(gram) for gram in [*self._grams(text), *sentences] if gram in self._known), None)

    def _grams(self, text: str) -> list[tuple[str, ...]]:
        """The text as a whole, options included, then its own words: all where they are few, else each run of them."""
        whole, own = _words("\n".join(_sentences(text, options=True))), _words(own_text(text))
        runs = [own[start : start + self.size] for start in range(max(1, len(own) - self.size + 1))]
        return [gram for gram in dict.fromkeys([whole, *runs]) if gram]


def own_text(text: str) -> str:
    """A question or prompt without image placeholders, options and instructions.

    As it is where nothing is left, except a request for a caption, which has no words of its own.
    """
    return "\n".join(_sentences(text))


def _sentences(text: str, options: bool = False) -> list[str]:
    text = _PLACEHOLDER.sub(" ", unicodedata.normalize("NFKC", text))
    if (task := _TASK.match(text)) is not None and text[task.end() :].strip():
        text = text[task.end() :]
    shortened = text if options else _without_options(text)
    sentences = [s.strip() for s in _SENTENCE_END.split(shortened) if s.strip()]
    own = [s for s in sentences if not _INSTRUCTION.fullmatch(s) and not _HEADER.fullmatch(s)]
    return own or [s for s in sentences if not _CAPTION.fullmatch(s)]


def _without_options(text: str) -> str:
    """The text up to the first option's label, and later lines that begin with no label."""
    for first, second in _LABELS:
        start = first.search(text)
        if start is not None and second.search(text, start.end()):
            _, *lines = text[start.end() :].split("\n")
            left = [text[: start.start()], *(line for line in lines if not _LABELLED.match(line))]
            return "\n".join(left) if any(line.strip() for line in left) else text
    return text


def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(text.lower()))
