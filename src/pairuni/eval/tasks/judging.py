"""What the benchmarks share whose images a judge scores: the endpoint, images as they are sent, asking once more."""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from pairuni.config import EvalConfig
from pairuni.errors import InputError
from pairuni.llm import BadReply, Chat, Ledger, Picture, Question, Unanswered
from pairuni.replies import without_thinking
from pairuni.types import SamplingSpec, Side

_TRIES = 3
"""Replies that cannot be parsed are asked for again, as by WISE's script."""


@dataclass(frozen=True)
class Judged:
    """A benchmark of drawn images behind the endpoint of `judge`."""

    name: ClassVar[str]
    config: EvalConfig
    chat: Chat = field(init=False, compare=False)
    side: Side = Side.GENERATION

    def __post_init__(self) -> None:
        """Raises InputError: no judge is named."""
        judge = self.config.judge
        for option, value in (("model", judge.model), ("ledger", judge.ledger)):
            if not value:
                what = ": the folder of the replies" if option == "ledger" else ""
                raise InputError(f"is needed for {self.name}{what}", field=f"{self.config.group}judge.{option}")
        object.__setattr__(self, "chat", Chat(judge, Ledger(Path(str(judge.ledger)))))

    @property
    def judge(self) -> str | None:
        return self.config.judge.model

    def spec(self) -> SamplingSpec:
        return SamplingSpec(temperature=1.0, guidance=self.config.guidance)

    def ask(
        self, text: str, images: Sequence[np.ndarray], read: Callable[[str], Sequence[float]], text_first: bool = False
    ) -> tuple[str, Sequence[float]]:
        """The first reply in which `read` finds numbers, and these; after a few tries the last one and none.

        Args:
            images: uint8 [H, W, 3], sent after the text with `text_first`, else before it.

        Raises InputError: the endpoint does not answer.
        """
        pictures, reply = [_png(image, self.config.judge.image_side) for image in images], ""
        for attempt in range(_TRIES):
            try:
                reply = self.chat.say(Question(text, pictures, attempt, pictures_last=text_first))
            except BadReply as err:
                reply = f"({err})"
                continue
            except Unanswered as err:
                # Not a score of 0: that would be kept. Replies that came are in the ledger.
                message = f"{err}; the same command goes on from here"
                raise InputError(message, field=f"{self.config.group}judge.base_url") from None
            numbers = read(without_thinking(reply))
            if numbers:
                return reply, numbers
        return reply, ()


def _png(pixels: np.ndarray, side: int) -> Picture:
    """The image as it is sent: its longer side at most `side`."""
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    image.save(buffer, "PNG")
    content = buffer.getvalue()
    return Picture(hashlib.sha256(content).hexdigest(), lambda: content, "png")
