"""Options that are written into a question: their letters and texts. Reading an answer is choice.py."""

import re
import unicodedata

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LABELS = (r"\(([A-Z])\)", r"([A-Z])\.", r"([A-Z])\)", r"([A-Z]):", r"([A-Z])\u3001", r"\(([a-z])\)")
_LINE_LABELS = (r"([a-z])[.)]", r"\(?(\d{1,2})[.)\u3001]")
"""Only at the start of lines: sentences have "1." and "a)" too."""
_LINE = r"(?:^|\n)[ \t]*"
_ANYWHERE = r"(?<![^\W\u3040-\u9fff\uac00-\ud7af])(?<![.(])"
"""Not inside a word; Chinese, Japanese and Korean have no spaces before a label."""
_INSTRUCTION = re.compile(
    r"\s*\b(?:please\s+)?(?:answer|respond|reply|choose|select|pick|output|give)\b"
    r"[^.\n]*\b(?:letter|options?|choices?)\b",
    re.IGNORECASE,
)


def parse_options(question: str) -> dict[str, str]:
    """Options written into a question: "... A. x B. y ...", on one line or several, as "A.", "(A)", "A)", "A:", "(a)".

    Read after NFKC, so that full-width labels count; Chinese "A、" too. On lines of their own also "a.", "a)", "1." and
    "(1)"; numbers become letters in their order. Letters start at A and follow each other. The last
    option ends at its line's end or at an instruction such as "Answer with the option's letter". {} where there are
    fewer than two.
    """
    return _found(question)[0]


def is_numbered(question: str) -> bool:
    """Whether the options that `parse_options` finds are labelled 1, 2, ..."""
    return _found(question)[1]


def _found(question: str) -> tuple[dict[str, str], bool]:
    question = unicodedata.normalize("NFKC", question)
    for after in (r"(?=\s)", r"(?=\S)"):
        for anchor in (_LINE, _ANYWHERE):
            best = max((_best_run(question, anchor + label + after) for label in _LABELS), key=len)
            if len(best) > 1:
                return best, False
    for label in _LINE_LABELS:
        best = _best_run(question, _LINE + label + r"(?=\D)")
        if len(best) > 1:
            return best, r"\d" in label
    return {}, False


def _best_run(question: str, pattern: str) -> dict[str, str]:
    """The longest run A, B, C, ... of labels; of equals one that follows a sentence, then the last one."""
    labels: list[tuple[str, int, int]] = []
    for found in re.finditer(pattern, question):
        letter = found[1].upper()  # "a" and "1" are A; a number beyond 26 is no label
        if letter.isdecimal():
            letter = _LETTERS[int(letter) - 1] if 0 < int(letter) <= len(_LETTERS) else ""
        labels.append((letter, found.start(), found.end()))
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
