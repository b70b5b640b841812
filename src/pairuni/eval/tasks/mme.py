"""MME: yes-no questions in pairs on one image, 10 perception and 4 cognition categories (arXiv 2306.13394).

The score is perception's: the sum over its categories of accuracy and of the share of images with both answers right,
each in per cent, at most 2,000. A category of which not every image is there is scored on those that are.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pairuni.errors import InputError
from pairuni.eval import yes_no
from pairuni.eval.base import Answer, Benchmark, Item, Score
from pairuni.eval.tasks.items import rows_of, with_images
from pairuni.eval.tasks.pope import SHORT, yes_no_answer
from pairuni.files import read_text

HUB = "lmms-lab-encoder/MME"
_ASK = " Please answer yes or no."


class Mme(Benchmark):
    """Items: <category>.txt of "image, question, Yes or No" in a folder, or the hub's rows, also as JSON Lines.

    images.mme is then a folder with one folder per category, as the authors distribute them.
    """

    unit = "points"

    def items(self) -> Sequence[Item]:
        where = self.source("mme", HUB)
        files = sorted(Path(where).glob("*.txt"))
        if not files:
            return list(_complete(list(self._from_rows(where)), where))
        items: list[Item] = []
        folder = Path(self.config.images.get("mme", Path(where) / "images"))
        for file in files:
            inner = folder / file.stem if (folder / file.stem).is_dir() else folder
            items += with_images(list(self._from_file(file)), self.config, "mme", inner)
        return items

    def answer(self, item: Item, output: str | np.ndarray) -> Answer:
        return yes_no_answer(item, str(output), yes_no.MME_PARSERS[self.protocol])

    def total(self, answers: Sequence[Answer]) -> Score:
        said: dict[str, list[str]] = {}
        gold: dict[str, list[str]] = {}
        for answer in answers:
            said.setdefault(answer.part, []).append(answer.record["answer"])
            gold.setdefault(answer.part, []).append(answer.record["gold"])
        scored = yes_no.mme(said, gold, self.protocol)
        return Score(scored["perception"], {"cognition": scored["cognition"], **scored["parts"]})

    def _asked(self, question: str) -> str:
        """The libraries and the models' own scripts put the wish for yes or no differently."""
        if self.protocol == "vlmevalkit":
            return question + SHORT
        bare = question.replace(_ASK, "")
        return bare + SHORT if self.protocol == "lmms_eval" else f"{question} {SHORT.strip()}"

    def _from_file(self, file: Path) -> Iterator[tuple[Item, str]]:
        for n, line in enumerate(read_text(file).splitlines(), 1):
            cells = line.rstrip("\n").split("\t")
            if len(cells) != 3 or cells[2].strip().lower() not in ("yes", "no"):
                raise InputError("is not: image, question, Yes or No, with tabs between", file=file, line=n)
            image, question, label = cells
            yield Item(f"{file.stem}-{n}", file.stem, self._asked(question), (), label.strip().lower()), image

    def _from_rows(self, where: str) -> Iterator[Item]:
        for row in rows_of(where, "test"):
            id, question, label, part = (str(row[key]) for key in ("question_id", "question", "answer", "category"))
            asked, gold = self._asked(question), label.strip().lower()
            yield Item(f"{part}-{row.line}", part, asked, (row.image(),), gold, f"{part}/{id}")


def _complete(items: list[Item], where: str) -> list[Item]:
    """By category, both questions of an image after one another. Raises InputError where an image has not two."""
    by_image: dict[tuple[str, str], list[Item]] = {}
    for item in items:
        by_image.setdefault((item.part, item.group), []).append(item)
    for (_, image), asked in by_image.items():
        if len(asked) != 2:
            raise InputError(f"has {len(asked)} questions on {image}, not 2", file=where)
    return [item for asked in by_image.values() for item in asked]
