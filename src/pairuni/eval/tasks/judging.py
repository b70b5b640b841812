"""The base class of benchmarks whose images a judge scores: replies that do not parse are asked for again."""

import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pairuni.config import EvalConfig
from pairuni.errors import InputError
from pairuni.eval.base import Benchmark
from pairuni.llm import BadReply, Chat, ChatRequest, Ledger, SentImage, Unanswered
from pairuni.replies import without_thinking
from pairuni.types import Side

_TRIES = 3
"""Replies that cannot be parsed are asked for again, as by WISE's script."""


class Judged(Benchmark):
    """A benchmark of drawn images that the model behind the endpoint of `judge` scores."""

    name: str
    side = Side.GENERATION
    temperature = 1.0

    def __init__(self, config: EvalConfig) -> None:
        """Raises InputError: no judge is named."""
        super().__init__(config)
        for option, value in (("model", config.judge.model), ("ledger", config.judge.ledger)):
            if not value:
                what = ": the folder of the replies" if option == "ledger" else ""
                raise InputError(f"is needed for {self.name}{what}", field=f"{config.group}judge.{option}")
        self.chat = Chat(config.judge, Ledger(Path(str(config.judge.ledger))))
        self.judge = config.judge.model

    def ask(
        self, text: str, images: Sequence[np.ndarray], read: Callable[[str], Sequence[float]], text_first: bool = False
    ) -> tuple[str, Sequence[float]]:
        """The first reply in which `read` finds numbers, and these; after a few tries the last one and none.

        Args:
            images: uint8 [H, W, 3], sent after the text with `text_first`, else before it.

        Raises InputError: the endpoint does not answer.
        """
        reply, pictures, side = "", [], self.config.judge.image_side
        for pixels in images:
            image, buffer = Image.fromarray(pixels), io.BytesIO()
            image.thumbnail((side, side), Image.Resampling.LANCZOS)
            image.save(buffer, "PNG")
            content = buffer.getvalue()
            pictures.append(SentImage(hashlib.sha256(content).hexdigest(), lambda content=content: content, "png"))
        for attempt in range(_TRIES):
            try:
                reply = self.chat.say(ChatRequest(text, pictures, attempt, pictures_last=text_first))
            except BadReply as err:
                reply = f"({err})"
                continue
            except Unanswered as err:
                # Not a score of 0: that would be kept. Replies that came are in the ledger.
                message = f"{err}; the same command continues from here"
                raise InputError(message, field=f"{self.config.group}judge.base_url") from None
            numbers = read(without_thinking(reply))
            if numbers:
                return reply, numbers
        return reply, ()
