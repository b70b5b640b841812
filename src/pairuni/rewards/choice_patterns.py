"""The table of phrases.yaml, all languages at once, as the expressions that find and judge options in an answer."""

import re
from importlib import resources

import yaml

LANGUAGES: dict[str, dict[str, list[str]]] = yaml.safe_load(
    (resources.files("pairuni.rewards") / "phrases.yaml").read_text(encoding="utf-8")
)
"""{language: {kind of phrase: expressions}}."""


def any_of(kind: str) -> str:
    """The phrases of one kind in all languages, as one expression."""
    return "(?:" + "|".join(phrase for language in LANGUAGES.values() for phrase in language[kind]) + ")"


_WIDE = r"[\u3040-\u9fff\uac00-\ud7af]"
_EDGE = rf"(?:\b|(?<={_WIDE}))"
_FILL = rf"(?:{_EDGE}{any_of('fill')}(?:\s+|(?=[\"'(\[])|(?<=')|$|(?:(?<={_WIDE})|(?<=:))\s*))*"
_OPEN = r"[\"'(\[{]*\s*$"
_LEAD = r"\s*[\])\"']?\s*[:=\u2013-]?\s*"

NOT_BUT = r"(?:\bnot\s+(?:option\s+|choice\s+)?[(\[]?[A-Za-z][)\]]?\s*,?\s*but\s+(?:rather\s+)?)?"
ANNOUNCED = re.compile(rf"{any_of('announce')}{_LEAD}{NOT_BUT}{_FILL}{_OPEN}", re.IGNORECASE)
HINTED = re.compile(rf"{any_of('hint')}{_LEAD}{NOT_BUT}{_FILL}{_OPEN}", re.IGNORECASE)
CORRECTED = re.compile(
    rf"(?:^|[.,;:!?\n(\u2013\u2014-]|\b(?:but|and|mais|aber|pero)\b)\s*"
    rf"(?:(?:and|but|oh|ah|hmm+|hm|um|well|no|yes|so|okay|ok|ach|euh|ay|ah)[\s,.!]+)*{any_of('correct')}",
    re.IGNORECASE,
)
REPLACED = re.compile(rf"{CORRECTED.pattern}[\s,.:!;\u2013\u2014-]*{_FILL}{_OPEN}", re.IGNORECASE)
AFFIRMED = re.compile(any_of("affirm"), re.IGNORECASE)
DENIED_BEFORE = re.compile(rf"{any_of('deny_before')}\s*{_FILL}{_OPEN}", re.IGNORECASE)
DENIED_AFTER = re.compile(any_of("deny_after"), re.IGNORECASE)
DOUBTED_BEFORE = re.compile(any_of("doubt_before"), re.IGNORECASE)
DOUBTED_AFTER = re.compile(any_of("doubt_after"), re.IGNORECASE)
ONLY = re.compile(rf"\bonly\s+{_FILL}{_OPEN}", re.IGNORECASE)
NAMED = re.compile(rf"{any_of('named')}\s*[\"'(\[]*$", re.IGNORECASE)
CLAUSE = re.compile(rf"[.,;:!?\n\u2013\u2014]|{any_of('contrast')}", re.IGNORECASE)
JOINED = re.compile(
    rf"\s*[)\]\"']*\s*(?:,\s*{any_of('join')}|,|/|&|\+|(?<=\s):|{any_of('join')})\s*{_FILL}[\"'(\[]*\s*", re.IGNORECASE
)
BECAUSE = re.compile(any_of("because"), re.IGNORECASE)
DENIED_FROM_AFAR = re.compile(
    r"(?:\b(?:not|never|cannot)|n't)\s+(?:(?!(?:only|just|but|sure|doubt|because|if|that|so)\b)[\w'-]+\s+){1,3}$",
    re.IGNORECASE,
)
CONCLUDED = re.compile(any_of("conclude"), re.IGNORECASE)
IS_IT = re.compile(rf"{any_of('is_it')}{_OPEN}", re.IGNORECASE)
IT_IS = re.compile(r"\s*(?:です|である|だ|입니다|이다)\s*(?:[.!]|$)")
IT_ENDS = re.compile(r"[\"')]*\s*(?:[.!;,\n]|$|(?:because|since|as|with|which|in|on)\b)", re.IGNORECASE)
CUT_OFF = re.compile(
    r"\b(?:is|are|was|were|be|the|an?|of|to|in|on|at|for|with|and|or|but|because|since|that|which|than|from|by|as"
    r"|est|et|le|de|ist|der|die|das|und|oder|es|el|y)\s*$",
    re.IGNORECASE,
)
COUNTED = (
    r"(?:\bthere\s+(?:are|were)|\b(?:i|we)\s+(?:can\s+)?(?:see|count|counted)|\btotal(?:\s+of)?|\b(?:is|are)|:)"
    r"(?:\s+(?:exactly|only|about|a\s+total\s+of|clearly))*\s+"
)
"""Before a number word that counts: "there are three"."""
_AMONG = (
    r"\b(?:among|of|from)\s+(?:the|these|those|all)\s+(?:\w+\s+)*?(?:options|choices|answers)\b"
    r"[^.;:!?\n]{0,40}?"
)


def _place(n: int) -> re.Pattern[str]:
    among = LANGUAGES["en"]["place"][n].replace("(?:option|choice|alternative)", "one")
    listed = "|".join(language["place"][n] for language in LANGUAGES.values())
    return re.compile(rf"(?P<place>{listed})|{_AMONG}(?P<among>{among})", re.IGNORECASE)


PLACES = {n if n < 5 else -1: _place(n) for n in range(6)}
"""{place in the list from 0, -1 for the last: "the first option", or "the first one" where options are spoken of}."""
