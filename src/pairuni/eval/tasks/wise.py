"""WISE: 1,000 prompts that need knowledge of the world; a judge scores each image (arXiv 2503.07265).

The judge sees the image, the prompt and what it should show, under our own wording of the published rubric: with the
judge's model named in eval.json, and not with the authors' words, scores compare between models judged here.
"""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template

import numpy as np

from pairuni.config import EvalConfig
from pairuni.errors import InputError
from pairuni.eval import judged
from pairuni.eval.base import Answer, Item, Score
from pairuni.eval.tasks.items import Row
from pairuni.files import parse_json, read_text

_FILES = ("cultural_common_sense.json", "spatio-temporal_reasoning.json", "natural_science.json")


class Wise(judged.Judged):
    """Items: the authors' three JSON files in a folder."""

    name, unit, keeps_images = "wise", "0 to 1", True

    def __init__(self, config: EvalConfig) -> None:
        super().__init__(config)
        self.protocol = config.wise

    def items(self) -> Sequence[Item]:
        folder = Path(self.source("wise"))
        items = [item for name in _FILES for item in _from_file(folder / name, self.config.images_per_prompt or 1)]
        return sorted(items, key=lambda item: item.gold["prompt_id"])

    def answer(self, item: Item, output: str | np.ndarray) -> Answer:
        fields = {name.lower(): str(item.gold.get(name, "")) for name in ("Prompt", "Explanation")}
        keys = judged.WISE_VERSIONS[self.protocol].keys

        def read(reply: str) -> list[float]:
            found = judged.parse_wise(reply, self.protocol)
            return [found[key] for key in keys] if set(found) == set(keys) else []

        rubric = resources.files("pairuni.eval") / "prompts" / f"wise_{self.protocol}.txt"
        text = Template(rubric.read_text(encoding="utf-8")).substitute(fields)
        reply, found = self.ask(text, [np.asarray(output)], read)
        scores = list(found) or [0.0] * len(keys)
        points = judged.WISE_VERSIONS[self.protocol].points(scores)
        record = {"prompt_id": item.gold["prompt_id"], "prompt": item.text, "scores": scores, "reply": reply}
        return Answer(item.id, item.part, points, bool(found), record, item.group)

    def total(self, answers: Sequence[Answer]) -> Score:
        records = [[a.record["prompt_id"], *a.record["scores"]] for a in answers]
        parts = judged.wise_score(records, self.protocol)["parts"]
        # Where whole categories are missing, as in a try with a few prompts, the others' weights are scaled up.
        weights = {name: judged.WISE_VERSIONS[self.protocol].ranges[name][2] for name in parts}
        return Score(sum(weights[name] * parts[name] for name in parts) / sum(weights.values()), parts)


def _from_file(path: Path, per_prompt: int) -> list[Item]:
    rows = parse_json(read_text(path), path, None)
    items = []
    for n, values in enumerate(rows if isinstance(rows, list) else [], 1):
        row = Row(values, str(path), n)
        prompt, id = str(row["Prompt"]), f"{int(row['prompt_id']):04d}"
        for k in range(per_prompt):
            name = id if per_prompt == 1 else f"{id}-{k}"
            items.append(Item(name, str(values.get("Subcategory", "")), prompt, (), values, id))
    if not items:
        raise InputError("is no list of prompts", file=path)
    return items
