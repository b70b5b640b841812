"""The page of `pairuni smoke`: checks, measurements, and the images and answers of the model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pairuni.data.pictures import embed
from pairuni.pages.page import Output, SampleCard, Table, plain, write_page


@dataclass(frozen=True)
class PromptOutputs:
    """A prompt or question with the model's outputs. Images are files in the page's folder."""

    asked: str
    images: Sequence[str] = ()
    """The drawn images, or the image that the question is about."""
    answers: Sequence[str] = ()


def write_smoke(folder: Path, model: str, found: Mapping[str, Any], sampled: Sequence[PromptOutputs]) -> Path:
    """Writes smoke.html into `folder`.

    Args:
        found: what `train.smoke_step.summary` returns.
    """
    passed, failed = Markup('<span class="clear up">ok</span>'), Markup('<span class="clear down">FAILED</span>')
    cards = []
    for each in sampled:
        pictures = [Output(embed(name, folder, each.asked)) for name in each.images]
        label = "Question" if each.answers else "Prompt"
        cards.append(SampleCard(label, each.asked, [("", [*pictures, *(Output(text=text) for text in each.answers)])]))
    values = {
        "title": f"Smoke test: {model}",
        "facts": {
            **found["facts"],
            "peak memory, planned": f"{plain(found['planned_gib'])} GiB",
            "peak memory, measured": f"{plain(found['measured_gib'])} GiB",
            "seconds": plain(found["seconds"]),
        },
        "checks": Table(
            [(passed if check["passed"] else failed, check["name"], check["found"]) for check in found["checks"]],
            ("Result", "Check", "Found"),
            words=(1, 2),
        ),
        "trained": found["trained"],
        "cards": cards,
        "metrics": Table(list(found["metrics"].items()), ("Metric", "Value")),
    }
    write_page(folder / "smoke.html", "smoke.html", values)
    return folder / "smoke.html"
