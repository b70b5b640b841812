"""MMStar: 1,500 questions with four options that need the image, six capabilities of 250 (arXiv 2403.20330).

The score is accuracy in per cent; under lmms_eval it is the mean of the 18 finer axes' accuracies, as that library
prints it, which is another number where axes are of unequal size.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pairuni.config import EvalConfig
from pairuni.eval import multiple_choice
from pairuni.eval.base import Answer, Benchmark, Item, Score, mean_score
from pairuni.eval.tasks.items import rows_of

HUB = "Lin-Chen/MMStar"
_LETTER = "\nAnswer with the option's letter from the given choices directly."


class MmStar(Benchmark):
    """Items: the hub's rows, or local parquet or JSON Lines of the same columns; options stand in the question."""

    def __init__(self, config: EvalConfig) -> None:
        super().__init__(config)
        self.factor = None if self.protocol == "lmms_eval" else 100.0

    def items(self) -> Sequence[Item]:
        ask, items = _LETTER.rstrip(".") if self.protocol == "lmms_eval" else _LETTER, []
        for row in rows_of(self.source("mmstar", HUB), "val"):
            question, gold, part, axis = (str(row[key]) for key in ("question", "answer", "category", "l2_category"))
            id = str(row.values.get("index", row.line))
            items.append(Item(id, part, question + ask, (row.image(),), (gold.strip(), axis)))
        return items

    def answer(self, item: Item, output: str | np.ndarray) -> Answer:
        gold, axis = item.gold
        right = multiple_choice.mmstar(str(output), gold, self.protocol)
        record = {"question": item.text, "gold": gold, "axis": axis, "answer": str(output)}
        read = any(multiple_choice.mmstar(str(output), letter, self.protocol) for letter in "ABCD")
        return Answer(item.id, item.part, float(right), read, record)

    def total(self, answers: Sequence[Answer]) -> Score:
        records = [(answer.part, answer.record["axis"], answer.score == 1) for answer in answers]
        scored = multiple_choice.score_mmstar(records, self.protocol)
        axes = [replace(answer, part=f"{answer.part}: {answer.record['axis']}") for answer in answers]
        return Score(scored["score"], scored["parts"] | mean_score(axes, 100.0).parts)
