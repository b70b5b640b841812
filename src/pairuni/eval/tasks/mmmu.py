"""MMMU: college questions of 30 subjects with one to seven images, 847 of the 900 with options (arXiv 2311.16502).

The score is accuracy over items in per cent; an answer in which no letter can be read is wrong and counted, where the
authors' script would draw one. Images stand before the question, whose <image 1> stays in the text.
"""

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pairuni.errors import InputError
from pairuni.eval import choice
from pairuni.eval.base import Answer, Item, Score
from pairuni.eval.tasks.items import Questions, field_of, place, rows_of, stored
from pairuni.types import SamplingSpec

HUB = "lmms-lab-encoder/MMMU"
_LETTER = "Answer with the option's letter from the given choices directly."
_SHORT = "Answer the question using a single word or phrase."
_IMAGES = range(1, 8)
_TOKENS = {"official": 128, "lmms_eval": 128, "vlmevalkit": 2048}
_DOMAINS = {
    "Art and Design": "Art Art_Theory Design Music",
    "Business": "Accounting Economics Finance Manage Marketing",
    "Science": "Biology Chemistry Geography Math Physics",
    "Health and Medicine": (
        "Basic_Medical_Science Clinical_Medicine Diagnostics_and_Laboratory_Medicine Pharmacy Public_Health"
    ),
    "Humanities and Social Science": "History Literature Psychology Sociology",
    "Tech and Engineering": (
        "Agriculture Architecture_and_Engineering Computer_Science Electronics Energy_and_Power Materials "
        "Mechanical_Engineering"
    ),
}


@dataclass(frozen=True)
class Mmmu(Questions):
    """Items: the hub's rows, or local parquet or JSON Lines of the same columns."""

    @property
    def factor(self) -> float | None:
        return 100.0

    def spec(self) -> SamplingSpec:
        return SamplingSpec(temperature=0.0, max_new_tokens=_TOKENS[self.protocol])

    def items(self) -> Sequence[Item]:
        return list(self._items(place(self.config, "mmmu", HUB)))

    def _items(self, where: str) -> Iterator[Item]:
        for n, row in rows_of(where, "validation"):
            id, question, kind, gold = (
                field_of(row, name, where, n) for name in ("id", "question", "question_type", "answer")
            )
            options = {}
            if kind == "multiple-choice":
                texts = _listed(field_of(row, "options", where, n), where, n, "options")
                options = {chr(ord("A") + place): text for place, text in enumerate(texts)}
            golds = _listed(gold, where, n, "answer") if str(gold).startswith("[") else str(gold)
            images = tuple(
                stored(row[f"image_{k}"], where, n, f"image_{k}") for k in _IMAGES if row.get(f"image_{k}") is not None
            )
            if not images:
                raise InputError("is missing", file=where, line=n, field="image_1")
            yield Item(str(id), choice.subject(str(id)), self._asked(str(question), options), images, (golds, options))

    def _asked(self, question: str, options: Mapping[str, str]) -> str:
        if not options:
            return (
                f"{question}\nAnswer the question directly. "
                if self.protocol == "vlmevalkit"
                else f"{question}\n\n{_SHORT}"
            )
        form = "({}) {}" if self.protocol == "official" else "{}. {}"
        return "\n".join([question, *(form.format(*option) for option in options.items()), "", _LETTER])

    def answer(self, item: Item, output: str | np.ndarray) -> Answer:
        golds, options = item.gold
        # That library ends an answer at its first blank line.
        said = str(output).split("\n\n")[0] if self.protocol == "lmms_eval" else str(output)
        kind = "multiple-choice" if options else "open"
        right, read = choice.mmmu_item(
            {"response": said, "index2ans": options}, {"question_type": kind, "ground_truth": golds}, self.protocol
        )
        record = {"question": item.text, "gold": golds, "options": options, "answer": str(output)}
        return Answer(item.id, item.part, float(right), read, record)

    def total(self, answers: Sequence[Answer]) -> Score:
        subjects: dict[str, list[float]] = {}
        for answer in answers:
            subjects.setdefault(answer.part, []).append(answer.score)
        domains = {
            domain: [score for name in names.split() for score in subjects.get(name, [])]
            for domain, names in _DOMAINS.items()
        }
        parts = {name: 100 * sum(each) / len(each) for name, each in (domains | subjects).items() if each}
        return Score(100 * sum(answer.score for answer in answers) / len(answers), parts)


def _listed(value: Any, where: str, n: int, field: str) -> list[str]:
    """A list, which the hub's rows hold as Python's text of it. Raises InputError."""
    try:
        listed = ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError):
        listed = None
    if not isinstance(listed, list) or not listed:
        raise InputError(f"must be a list, not {value!r:.80}", file=where, line=n, field=field)
    return [str(each) for each in listed]
