"""POPE: is there a ... in the image? Three splits of 3,000 questions on COCO photographs (arXiv 2305.10355).

The score is the F1 of "yes", as published: the mean of the three splits' F1 under the official rules, the pooled one
under VLMEvalKit's. Accuracy, precision, recall and the share of "yes" are among the parts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pairuni.errors import InputError
from pairuni.eval import yes_no
from pairuni.eval.base import Answer, Item, Score
from pairuni.eval.tasks.items import Questions, field_of, place, rows_of, stored, with_images
from pairuni.files import read_jsonl

SPLITS = ("random", "popular", "adversarial")
HUB = "lmms-lab-encoder/POPE"
SHORT = "\nAnswer the question using a single word or phrase."
"""After the question, under all three protocols."""


@dataclass(frozen=True)
class Pope(Questions):
    """Items: JSON Lines coco_pope_<split>.json of the authors in a folder, or the hub's rows, also as JSON Lines."""

    answer_tokens: int = 128

    def items(self) -> Sequence[Item]:
        where = place(self.config, "pope", HUB)
        if not list(Path(where).glob("coco_pope_*.json")):
            return list(_from_rows(where))
        listed = [entry for split in SPLITS for entry in _from_file(Path(where), split)]
        return with_images(listed, self.config, "pope", Path(where) / "images")

    def answer(self, item: Item, output: str | np.ndarray) -> Answer:
        rule = {"official": "pope_official", "lmms_eval": "lmms_pope_pred"}.get(self.protocol, self.protocol)
        said = yes_no.parse(str(output), rule)
        record = {"question": item.text, "gold": item.gold, "answer": str(output), "said": said}
        return Answer(item.id, item.part, float(said == item.gold), said != "other", record, item.group)

    def total(self, answers: Sequence[Answer]) -> Score:
        parts: dict[str, float] = {}
        for split in dict.fromkeys(answer.part for answer in answers):
            rated = self._rated([answer for answer in answers if answer.part == split])
            parts |= {f"{split} {name}": 100 * value for name, value in rated.items()}
        pooled = {name: 100 * value for name, value in self._rated(answers).items()}
        splits = [value for name, value in parts.items() if name.endswith(" f1")]
        score = pooled["f1"] if self.protocol == "vlmevalkit" else sum(splits) / len(splits)
        return Score(score, {**parts, **{f"all {name}": value for name, value in pooled.items()}})

    def _rated(self, answers: Sequence[Answer]) -> dict[str, float]:
        texts, labels = ([a.record[key] for a in answers] for key in ("answer", "gold"))
        return yes_no.pope(texts, labels, self.protocol)


def _from_file(folder: Path, split: str) -> Iterator[tuple[Item, str]]:
    path = folder / f"coco_pope_{split}.json"
    for n, row in read_jsonl(path):
        question, image, label = (field_of(row, name, str(path), n) for name in ("text", "image", "label"))
        if label not in ("yes", "no"):
            raise InputError(f"must be yes or no, not {label!r}", file=path, line=n, field="label")
        yield Item(f"{split}-{row.get('question_id', n)}", split, question + SHORT, (), label), str(image)


def _from_rows(where: str) -> Iterator[Item]:
    for n, row in rows_of(where, "test"):
        question, label, split = (field_of(row, name, where, n) for name in ("question", "answer", "category"))
        label, image = str(label).strip().lower(), stored(row.get("image"), where, n)
        yield Item(f"{split}-{n}", split, question + SHORT, (image,), label, str(row.get("image_source", n)))
