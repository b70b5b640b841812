"""MMStar: 1,500 questions with four options that need the image, six capabilities of 250 (arXiv 2403.20330).

The score is accuracy in per cent; under lmms_eval it is the mean of the 18 finer axes' accuracies, as that library
prints it, which is another number where axes are of unequal size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pairuni.eval import choice
from pairuni.eval.base import Answer, Item, Score
from pairuni.eval.tasks.items import Questions, field_of, place, rows_of, stored

HUB = "Lin-Chen/MMStar"
_LETTER = "\nAnswer with the option's letter from the given choices directly."


@dataclass(frozen=True)
class MmStar(Questions):
    """Items: the hub's rows, or local parquet or JSON Lines of the same columns; options stand in the question."""

    @property
    def factor(self) -> float | None:
        return None if self.protocol == "lmms_eval" else 100.0

    def items(self) -> Sequence[Item]:
        return list(self._items(place(self.config, "mmstar", HUB)))

    def _items(self, where: str) -> Iterator[Item]:
        ask = _LETTER.rstrip(".") if self.protocol == "lmms_eval" else _LETTER
        for n, row in rows_of(where, "val"):
            question, gold, part, axis = (
                str(field_of(row, name, where, n)) for name in ("question", "answer", "category", "l2_category")
            )
            image = stored(row.get("image"), where, n)
            yield Item(str(row.get("index", n)), part, question + ask, (image,), (gold.strip(), axis))

    def answer(self, item: Item, output: str | np.ndarray) -> Answer:
        gold, axis = item.gold
        right = choice.mmstar(str(output), gold, self.protocol)
        record = {"question": item.text, "gold": gold, "axis": axis, "answer": str(output)}
        read = any(choice.mmstar(str(output), letter, self.protocol) for letter in "ABCD")
        return Answer(item.id, item.part, float(right), read, record)

    def total(self, answers: Sequence[Answer]) -> Score:
        records = [(answer.part, answer.record["axis"], answer.score == 1) for answer in answers]
        scored = choice.score_mmstar(records, self.protocol)
        axes: dict[str, list[float]] = {}
        for part, axis, right in records:
            axes.setdefault(f"{part}: {axis}", []).append(right)
        finer = {name: 100 * sum(rights) / len(rights) for name, rights in axes.items()}
        return Score(scored["score"], {**scored["parts"], **finer})
