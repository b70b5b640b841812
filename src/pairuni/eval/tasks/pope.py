"""POPE: is there a ... in the image? Three splits of 3,000 questions on COCO photographs (arXiv 2305.10355).

The score is the F1 of "yes", as published: the mean of the three splits' F1 under the official rules, the pooled one
under VLMEvalKit's. Accuracy, precision, recall and the share of "yes" are among the parts.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pairuni.errors import InputError
from pairuni.eval import yes_no
from pairuni.eval.base import Answer, Benchmark, Item, Score
from pairuni.eval.tasks.items import read_rows, rows_of, with_images

SPLITS = ("random", "popular", "adversarial")
HUB = "lmms-lab-encoder/POPE"
SHORT = "\nAnswer the question using a single word or phrase."
"""After the question, under all three protocols."""


def yes_no_answer(item: Item, output: str, parser: str) -> Answer:
    """An answer to a yes-no question, read by the parser of that name (`yes_no.PARSERS`)."""
    said = yes_no.parse(output, parser)
    record = {"question": item.text, "gold": item.gold, "answer": output, "said": said}
    return Answer(item.id, item.part, float(said == item.gold), said != "other", record, item.group)


class Pope(Benchmark):
    """Items: JSON Lines coco_pope_<split>.json of the authors in a folder, or the hub's rows, also as JSON Lines."""

    answer_tokens = 128

    def items(self) -> Sequence[Item]:
        where = self.source("pope", HUB)
        if not list(Path(where).glob("coco_pope_*.json")):
            return list(_from_rows(where))
        listed = [entry for split in SPLITS for entry in _from_file(Path(where), split)]
        return with_images(listed, self.config, "pope", Path(where) / "images")

    def answer(self, item: Item, output: str | np.ndarray) -> Answer:
        return yes_no_answer(item, str(output), yes_no.POPE_PARSERS[self.protocol])

    def total(self, answers: Sequence[Answer]) -> Score:
        parts: dict[str, float] = {}
        splits = list(dict.fromkeys(answer.part for answer in answers))
        for split in (*splits, "all"):
            of_split = [answer.record for answer in answers if split in (answer.part, "all")]
            texts, labels = ([record[key] for record in of_split] for key in ("answer", "gold"))
            rated = yes_no.pope(texts, labels, self.protocol)
            parts |= {f"{split} {name}": 100 * value for name, value in rated.items()}
        if self.protocol == "vlmevalkit":
            return Score(parts["all f1"], parts)
        return Score(sum(parts[f"{split} f1"] for split in splits) / len(splits), parts)


def _from_file(folder: Path, split: str) -> Iterator[tuple[Item, str]]:
    for row in read_rows(folder / f"coco_pope_{split}.json"):
        question, image, label = row["text"], row["image"], row["label"]
        if label not in ("yes", "no"):
            raise InputError(f"must be yes or no, not {label!r}", file=row.file, line=row.line, field="label")
        id = row.values.get("question_id", row.line)
        yield Item(f"{split}-{id}", split, question + SHORT, (), label), str(image)


def _from_rows(where: str) -> Iterator[Item]:
    for row in rows_of(where, "test"):
        question, label, split = row["question"], str(row["answer"]).strip().lower(), row["category"]
        group = str(row.values.get("image_source", row.line))
        yield Item(f"{split}-{row.line}", split, question + SHORT, (row.image(),), label, group)
