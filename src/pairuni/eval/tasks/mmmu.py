"""MMMU: college questions of 30 subjects with one to seven images, 847 of the 900 with options (arXiv 2311.16502).

The score is accuracy over items in per cent; an answer in which no letter can be read is wrong and counted, where the
authors' script would draw one. Images stand before the question, whose <image 1> stays in the text.
"""

import ast
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pairuni.config import EvalConfig
from pairuni.errors import InputError
from pairuni.eval import multiple_choice
from pairuni.eval.base import Answer, Benchmark, Item, Score, mean_score
from pairuni.eval.tasks.items import Row, rows_of

HUB = "lmms-lab-encoder/MMMU"
_LETTER = "Answer with the option's letter from the given choices directly."
_SHORT = "Answer the question using a single word or phrase."
_IMAGES = [f"image_{k}" for k in range(1, 8)]
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


class Mmmu(Benchmark):
    """Items: the hub's rows, or local parquet or JSON Lines of the same columns."""

    factor = 100.0

    def __init__(self, config: EvalConfig) -> None:
        super().__init__(config)
        self.answer_tokens = _TOKENS[self.protocol]

    def items(self) -> Sequence[Item]:
        items = []
        for row in rows_of(self.source("mmmu", HUB), "validation"):
            id, question, kind, gold = (row[name] for name in ("id", "question", "question_type", "answer"))
            options = {}
            if kind == "multiple-choice":
                options = {chr(ord("A") + place): text for place, text in enumerate(_listed(row, "options"))}
            golds = _listed(row, "answer") if str(gold).startswith("[") else str(gold)
            images = tuple(row.image(name) for name in _IMAGES if row.values.get(name) is not None)
            if not images:
                raise InputError("is missing", file=row.file, line=row.line, field=_IMAGES[0])
            form = "({}) {}" if self.protocol == "official" else "{}. {}"
            if options:
                ask = "\n".join([*(form.format(*option) for option in options.items()), "", _LETTER])
            else:
                ask = "Answer the question directly. " if self.protocol == "vlmevalkit" else f"\n{_SHORT}"
            subject = multiple_choice.subject(str(id))
            items.append(Item(str(id), subject, f"{question}\n{ask}", images, (golds, options)))
        return items

    def answer(self, item: Item, output: str | np.ndarray) -> Answer:
        golds, options = item.gold
        # That library ends an answer at its first blank line.
        said = str(output).split("\n\n")[0] if self.protocol == "lmms_eval" else str(output)
        kind = "multiple-choice" if options else "open"
        right, read = multiple_choice.mmmu_item(
            {"response": said, "index2ans": options}, {"question_type": kind, "ground_truth": golds}, self.protocol
        )
        record = {"question": item.text, "gold": golds, "options": options, "answer": str(output)}
        return Answer(item.id, item.part, float(right), read, record)

    def total(self, answers: Sequence[Answer]) -> Score:
        of_subjects = mean_score(answers, 100.0)
        domain_of = {subject: domain for domain, names in _DOMAINS.items() for subject in names.split()}
        known = [replace(a, part=domain_of[a.part]) for a in answers if a.part in domain_of]
        found = mean_score(known, 100.0).parts if known else {}
        domains = {name: found[name] for name in _DOMAINS if name in found}
        return Score(of_subjects.value, domains | of_subjects.parts)


def _listed(row: Row, field: str) -> list[str]:
    """A list, which the hub's rows hold as Python's text of it. Raises InputError."""
    value = row[field]
    try:
        listed = ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError):
        listed = None
    if not isinstance(listed, list) or not listed:
        raise InputError(f"must be a list, not {value!r:.80}", file=row.file, line=row.line, field=field)
    return [str(each) for each in listed]
