"""ImgEdit Basic: 737 edits of photographs, of nine types; a judge sees original and edit (arXiv 2505.20275).

The model edits, or a folder of what any model edited is judged (`edits`). Under our own wording of the rubric scores
compare between models judged here; with the authors' prompts.json (`imgedit_prompts`) the protocol is theirs.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import yaml

from pairuni.config import EvalConfig
from pairuni.data.images import load_image
from pairuni.errors import InputError
from pairuni.eval import judged
from pairuni.eval.base import Answer, Item, Score
from pairuni.eval.tasks.items import with_images
from pairuni.files import read_json

PROTOCOLS = ("official", "lmms_eval")
_FILE = "basic_edit.json"
_INSTRUCTION = "<edit_prompt>"
"""Where the instruction goes, in the authors' prompts as in ours."""


class ImgEdit(judged.Judged):
    """Items: basic_edit.json of the authors (or its folder); the score is the mean over edits."""

    name, unit, factor = "imgedit", "1 to 5", 1.0

    def __init__(self, config: EvalConfig) -> None:
        """Raises InputError: no judge is named, or rules that ImgEdit does not have."""
        super().__init__(config)
        if config.protocol not in PROTOCOLS:
            message = f"imgedit has {' and '.join(PROTOCOLS)}, not {config.protocol}"
            raise InputError(message, field=f"{config.group}protocol")
        self.recorded = bool(config.edits)
        self.keeps_images = not self.recorded
        if not config.imgedit_prompts:
            self.protocol = f"{config.protocol} rules, own rubric"

    def items(self) -> Sequence[Item]:
        where = Path(self.source(self.name))
        path = where / _FILE if where.is_dir() else where
        listed = [self._item(key, row, path) for key, row in read_json(path).items()]
        items = with_images(listed, self.config, self.name, path.parent / "images")
        return self._edited(items) if self.recorded else items

    def answer(self, item: Item, output: str | np.ndarray) -> Answer:
        (original,) = item.images
        assert not isinstance(original, np.ndarray)
        edited = load_image(self._edit(item)) if self.recorded else np.asarray(output)
        text = self._rubrics[item.part].replace(_INSTRUCTION, item.text)

        def read(reply: str) -> list[float]:
            # Zeros stand for a failure, which lmms-eval counts: the judge did not give them and is asked again.
            numbers = judged.parse_imgedit(reply, self.config.protocol)
            return numbers if any(numbers) else []

        reply, scores = self.ask(text, [load_image(original), edited], read, text_first=True)
        (points,) = judged.imgedit_score([(item.part, scores or [0.0])], self.config.protocol)["parts"].values()
        record = {"prompt": item.text, "scores": list(scores), "reply": reply}
        return Answer(item.id, item.part, points, bool(scores), record, item.group)

    def total(self, answers: Sequence[Answer]) -> Score:
        records = [(answer.part, [answer.score]) for answer in answers]
        means = judged.imgedit_score(records, self.config.protocol)
        return Score(means["overall"], {**means["parts"], "mean of types": means["type_mean"]})

    def _item(self, key: str, row: Any, path: Path) -> tuple[Item, str]:
        """An item and its image's name."""
        if Path(key).name != key:
            raise InputError(f"{key!r} can be no file's name, which edits have their keys as", file=path)
        for name in ("id", "prompt", "edit_type"):
            if not isinstance(row, dict) or not isinstance(row.get(name), str) or not row[name].strip():
                raise InputError("is missing or no text", file=path, field=f"{key}.{name}")
        kind = row["edit_type"]
        if kind not in self._rubrics:
            message = f"there is no rubric for {kind!r}, only for {', '.join(self._rubrics)}"
            raise InputError(message, file=path, field=f"{key}.edit_type")
        return Item(key, kind, row["prompt"]), row["id"]

    def _edited(self, items: Sequence[Item]) -> Sequence[Item]:
        """Those that are in `edits`. Raises InputError where one is missing that must be there, or where all are."""
        found = []
        for item in items:
            if self._edit(item).is_file():
                found.append(item)
            elif self.config.missing_images == "error":
                raise InputError("no such edited image: missing_images: skip leaves it out", file=self._edit(item))
        if not found:
            raise InputError("holds none of the edits of imgedit", file=self.config.edits)
        return found

    def _edit(self, item: Item) -> Path:
        return Path(self.config.edits) / f"{item.id}.png"

    @cached_property
    def _rubrics(self) -> Mapping[str, str]:
        """The instructions of the judge, by edit type. Raises InputError: the user's file is missing or broken."""
        path = self.config.imgedit_prompts
        if not path:
            folder = resources.files("pairuni.eval") / "prompts"
            own = Template((folder / "imgedit.txt").read_text(encoding="utf-8"))
            criteria = yaml.safe_load((folder / "imgedit_criteria.yaml").read_text(encoding="utf-8"))
            names = ("instruction", "appearance", "faithfulness")
            return {kind: own.substitute(dict(zip(names, asked, strict=True))) for kind, asked in criteria.items()}
        rubrics = read_json(path)
        for kind, text in rubrics.items():
            if not isinstance(text, str) or _INSTRUCTION not in text:
                raise InputError(f"must be a text with {_INSTRUCTION}", file=path, field=kind)
        return rubrics
