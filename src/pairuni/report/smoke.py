"""The page of `pairuni smoke`: what was checked, what was measured, and what the model drew and said.

The page refers to nothing outside itself; all text is escaped by the template.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pairuni.data.pictures import Picture, embed
from pairuni.files import write_text
from pairuni.report.html import templates


@dataclass(frozen=True)
class Drawn:
    """A prompt with the images it gave, by their names in the page's folder."""

    prompt: str
    images: Sequence[str]


@dataclass(frozen=True)
class Said:
    """A question about an image with the answers it gave."""

    question: str
    image: str
    answers: Sequence[str]


@dataclass(frozen=True)
class _Card:
    text: str
    pictures: list[Picture]
    answers: Sequence[str]


def write_smoke(
    folder: Path, model: str, found: Mapping[str, Any], drawn: Sequence[Drawn], said: Sequence[Said]
) -> Path:
    """Writes smoke.html into `folder`, where the images are.

    Args:
        found: `train.smoke.summary`.
    """
    cards = [_Card(each.prompt, [embed(i, folder, each.prompt) for i in each.images], ()) for each in drawn]
    cards += [_Card(each.question, [embed(each.image, folder, each.question)], each.answers) for each in said]
    page = templates().get_template("smoke.html").render(model=model, found=found, cards=cards)
    write_text(folder / "smoke.html", page.encode("utf-8", "replace").decode("utf-8"))
    return folder / "smoke.html"
