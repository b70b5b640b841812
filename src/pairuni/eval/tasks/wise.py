"""WISE: 1,000 prompts that need knowledge of the world; a judge scores each image (arXiv 2503.07265).

The judge sees the image, the prompt and what it should show, under our own wording of the published rubric: with the
judge's model named in eval.json, and not with the authors' words, scores compare between models judged here.
"""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from string import Template

import numpy as np
from PIL import Image

from pairuni.config import EvalConfig
from pairuni.errors import InputError
from pairuni.eval import judged
from pairuni.eval.base import Answer, Item, Score
from pairuni.eval.tasks.items import field_of, place
from pairuni.files import read_text
from pairuni.llm import BadReply, Chat, Ledger, Picture, Question, Unanswered
from pairuni.policies.base import SamplingSpec
from pairuni.records import Side

_TRIES = 3
"""Replies that cannot be parsed are asked for again, as by the authors' script."""
_KEYS = {"legacy": judged.LEGACY_KEYS, "verified": ("score",)}
_FILES = ("cultural_common_sense.json", "spatio-temporal_reasoning.json", "natural_science.json")


@dataclass(frozen=True)
class Wise:
    """Items: the authors' three JSON files in a folder."""

    config: EvalConfig
    chat: Chat = field(init=False, compare=False)
    side: Side = Side.GENERATION
    unit: str = "0 to 1"
    factor: float | None = None
    keeps_images: bool = True
    recorded: bool = False

    def __post_init__(self) -> None:
        """Raises InputError: no judge is named."""
        judge = self.config.judge
        if not judge.model:
            raise InputError("is needed for wise", field=f"{self.config.group}judge.model")
        if not judge.ledger:
            raise InputError("is needed for wise: the folder of the replies", field=f"{self.config.group}judge.ledger")
        object.__setattr__(self, "chat", Chat(judge, Ledger(Path(judge.ledger))))

    @property
    def judge(self) -> str | None:
        return self.config.judge.model

    @property
    def protocol(self) -> str:
        return self.config.wise

    def spec(self) -> SamplingSpec:
        return SamplingSpec(temperature=1.0, guidance=self.config.guidance)

    def items(self) -> Sequence[Item]:
        folder = Path(place(self.config, "wise"))
        items = [item for name in _FILES for item in _from_file(folder / name, self.config.images_per_prompt or 1)]
        return sorted(items, key=lambda item: item.gold["prompt_id"])

    def answer(self, item: Item, output: str | np.ndarray) -> Answer:
        fields = {name.lower(): str(item.gold.get(name, "")) for name in ("Prompt", "Explanation")}
        text, picture = _rubric(self.protocol).substitute(fields), _png(np.asarray(output))
        reply, found = "", {}
        for attempt in range(_TRIES):
            try:
                reply = self.chat.say(Question(text, [picture], attempt))
            except (BadReply, Unanswered) as err:
                reply = f"({err})"
                continue
            found = judged.parse_wise(reply, self.protocol)
            if set(found) == set(_KEYS[self.protocol]):
                break
        parsed = set(found) == set(_KEYS[self.protocol])
        scores = [found[key] if parsed else 0.0 for key in _KEYS[self.protocol]]
        points = judged.WISE_VERSIONS[self.protocol].points(scores)
        record = {"prompt_id": item.gold["prompt_id"], "prompt": item.text, "scores": scores, "reply": reply}
        return Answer(item.id, item.part, points, parsed, record, item.group)

    def total(self, answers: Sequence[Answer]) -> Score:
        records = [[a.record["prompt_id"], *a.record["scores"]] for a in answers]
        parts = judged.wise_score(records, self.protocol)["parts"]
        # Where whole categories are missing, as in a try with a few prompts, the others' weights are scaled up.
        weights = {name: judged.WISE_VERSIONS[self.protocol].ranges[name][2] for name in parts}
        return Score(sum(weights[name] * parts[name] for name in parts) / sum(weights.values()), parts)


def _rubric(version: str) -> Template:
    return Template((resources.files("pairuni.eval") / "prompts" / f"wise_{version}.txt").read_text(encoding="utf-8"))


def _png(image: np.ndarray) -> Picture:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    content = buffer.getvalue()
    return Picture(hashlib.sha256(content).hexdigest(), lambda: content, "png")


def _from_file(path: Path, per_prompt: int) -> list[Item]:
    try:
        rows = json.loads(read_text(path))
    except json.JSONDecodeError as err:
        raise InputError(f"is not JSON ({err.msg})", file=path, line=err.lineno) from None
    items = []
    for n, row in enumerate(rows if isinstance(rows, list) else [], 1):
        prompt, id = field_of(row, "Prompt", str(path), n), field_of(row, "prompt_id", str(path), n)
        for k in range(per_prompt):
            name = f"{int(id):04d}" if per_prompt == 1 else f"{int(id):04d}-{k}"
            items.append(Item(name, str(row.get("Subcategory", "")), str(prompt), None, row, f"{int(id):04d}"))
    if not items:
        raise InputError("is no list of prompts", file=path)
    return items
