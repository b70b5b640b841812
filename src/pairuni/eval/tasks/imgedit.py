"""ImgEdit Basic: 737 edits of photographs, of nine types; a judge sees original and edit (arXiv 2505.20275).

The model edits, or a folder of what any model edited is judged (`edits`). Under our own wording of the rubric scores
compare between models judged here; with the authors' prompts.json (`imgedit_prompts`) the protocol is theirs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any, ClassVar

import numpy as np

from pairuni.data.images import load_image
from pairuni.errors import InputError
from pairuni.eval import judged
from pairuni.eval.base import Answer, Item, Score
from pairuni.eval.tasks.items import place, with_images
from pairuni.eval.tasks.judging import Judged
from pairuni.files import read_json

PROTOCOLS = ("official", "lmms_eval")
_FILE = "basic_edit.json"
_INSTRUCTION = "<edit_prompt>"
"""Where the instruction goes, in the authors' prompts as in ours."""
_CRITERIA = {
    "add": (
        "what was to be added is there, of the right kind, number and attributes, where it was asked for",
        "it fits in: size, perspective, sharpness, light and colour are the picture's, and no edge looks pasted",
        "where it touches, hides or shades other things this is right, and all else is as it was",
    ),
    "adjust": (
        "exactly what is named has the new attribute, all of it and to the degree that was asked for",
        "the new attribute looks real on it: clean edges, believable light and texture",
        "its shape and identity are kept, and all else is as it was",
    ),
    "background": (
        "the surroundings are those that were asked for, wherever the old ones were",
        "subject and surroundings look like one photograph: light, scale, perspective, edges",
        "the subject and whatever else was to stay are whole and the same",
    ),
    "replace": (
        "the named thing is gone, and what was asked for stands in its place, as described",
        "it fits in: size, perspective, sharpness, light and colour are the picture's, and nothing of the old shows",
        "where it touches, hides or shades other things this is right, and all else is as it was",
    ),
    "remove": (
        "the named thing is gone altogether, and nothing else is",
        "where it was, the picture goes on as it would have: no smears, seams or repeated patches",
        "its shadows and reflections are gone too, and all else is as it was",
    ),
    "extract": (
        "what is named is shown by itself, all of it, and nothing else is",
        "it is cut out along its outline on a plain ground: no fringes, holes or leftovers",
        "it is the one in the picture: same shape, colours and details",
    ),
    "style": (
        "the whole picture is plainly in the style that was asked for",
        "the style is carried through with skill: even strokes and textures, no broken parts",
        "what the picture shows is still there and to be recognised: things, persons, layout",
    ),
    "action": (
        "the one who is named does what was asked for: movement, posture, gaze or expression",
        "the body is possible and well drawn: joints, hands, face",
        "it is the same one, in the same clothes or coat, and all else is as it was",
    ),
    "compose": (
        "every change that the instruction lists is made, each on the right thing",
        "the changes fit the picture and each other: light, colour, perspective, edges",
        "what no part of the instruction names is as it was",
    ),
}
"""Edit type -> what Instruction, Appearance and Faithfulness ask."""


@dataclass(frozen=True)
class ImgEdit(Judged):
    """Items: basic_edit.json of the authors (or its folder); the score is the mean over edits."""

    name: ClassVar[str] = "imgedit"
    unit: str = "1 to 5"
    factor: float | None = 1.0

    def __post_init__(self) -> None:
        """Raises InputError: no judge is named, or rules that ImgEdit does not have."""
        super().__post_init__()
        if self.config.protocol not in PROTOCOLS:
            message = f"imgedit has {' and '.join(PROTOCOLS)}, not {self.config.protocol}"
            raise InputError(message, field=f"{self.config.group}protocol")

    @property
    def recorded(self) -> bool:
        return bool(self.config.edits)

    @property
    def keeps_images(self) -> bool:
        return not self.recorded

    @property
    def protocol(self) -> str:
        return self.config.protocol if self.config.imgedit_prompts else f"{self.config.protocol} rules, own rubric"

    def items(self) -> Sequence[Item]:
        where = Path(place(self.config, self.name))
        path = where / _FILE if where.is_dir() else where
        listed = [self._item(key, row, path) for key, row in read_json(path).items()]
        items = with_images(listed, self.config, self.name, path.parent / "images")
        return self._edited(items) if self.recorded else items

    def answer(self, item: Item, output: str | np.ndarray) -> Answer:
        (original,) = item.images
        assert not isinstance(original, np.ndarray)
        edited = load_image(self._edit(item)) if self.recorded else np.asarray(output)
        text = self._rubrics[item.part].replace(_INSTRUCTION, item.text)
        # A failure's zeros, which lmms-eval counts, are no numbers of the judge's: it is asked again.
        reply, scores = self.ask(text, [load_image(original), edited], self._read, text_first=True)
        (points,) = judged.imgedit_score([(item.part, scores or [0.0])], self.config.protocol)["parts"].values()
        record = {"prompt": item.text, "scores": list(scores), "reply": reply}
        return Answer(item.id, item.part, points, bool(scores), record, item.group)

    def total(self, answers: Sequence[Answer]) -> Score:
        records = [(answer.part, [answer.score]) for answer in answers]
        means = judged.imgedit_score(records, self.config.protocol)
        return Score(means["overall"], {**means["parts"], "mean of types": means["type_mean"]})

    def _read(self, reply: str) -> list[float]:
        numbers = judged.parse_imgedit(reply, self.config.protocol)
        return numbers if any(numbers) else []

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
        """What the judge is told, by edit type. Raises InputError: the user's file is missing or broken."""
        path = self.config.imgedit_prompts
        if not path:
            return {kind: _own_rubric(*criteria) for kind, criteria in _CRITERIA.items()}
        rubrics = read_json(path)
        for kind, text in rubrics.items():
            if not isinstance(text, str) or _INSTRUCTION not in text:
                raise InputError(f"must be a text with {_INSTRUCTION}", file=path, field=kind)
        return rubrics


def _own_rubric(instruction: str, appearance: str, faithfulness: str) -> str:
    template = Template((resources.files("pairuni.eval") / "prompts" / "imgedit.txt").read_text(encoding="utf-8"))
    return template.substitute(instruction=instruction, appearance=appearance, faithfulness=faithfulness)
