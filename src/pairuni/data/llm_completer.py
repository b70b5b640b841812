"""Missing halves from a language model, and a second call that judges them (paper 2.1).

Prompt templates are the text files in prompts/, which a user's folder can replace one by one; $name stands for what is
filled in. The right option's letter is not left to the model, which would favour one: letters are dealt evenly.
"""

import io
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import TypeVar

from PIL import Image

from pairuni.data.completion import Attempt, Rejected
from pairuni.data.images import LoadedImage
from pairuni.errors import InputError
from pairuni.files import read_text
from pairuni.llm import BadReply, Chat, ChatRequest, Reply, SentImage, Unanswered
from pairuni.streams import Stream, generator
from pairuni.types import Quadruple, Sample, Side

LETTERS = "ABCD"
INSTRUCTION = "Answer with the options letter from the given choices directly."
"""The instruction in the published PairUG data (paper 2.3)."""
NO_REPLY = "no reply"
"""Begins the reason of samples that were not answered for; a later run asks again."""
_COMPLAINT = "An earlier try was refused: $complaint Do better."
_FIELDS = {
    "caption": {"question", "answer", "complaint"},
    "question": {"caption", "complaint"},
    "verify_caption": {"question", "answer", "caption"},
    "verify_question": {"question", "answer", "caption"},
}


class CaptionReply(Reply):
    """The caption, its words that answer the question, and the model's own check."""

    caption: str
    evidence: str
    consistent: bool


class QuestionReply(Reply):
    """A question without options, the right option and three wrong ones, and the model's own check."""

    question: str
    right: str
    wrong: list[str]
    consistent: bool


class Verdict(Reply):
    """The reply to the second call."""

    contradiction: bool
    reason: str


Answer = TypeVar("Answer", bound=Reply)


class Templates:
    """The four prompts."""

    def __init__(self, folder: str | None = None) -> None:
        """Raises InputError: the folder holds none of the four, or a template uses a name that it is not given."""
        own = {} if folder is None else {p.stem: p for p in sorted(Path(folder).glob("*.txt"))}
        if folder is not None and not own.keys() & _FIELDS.keys():
            names = ", ".join(f"{name}.txt" for name in _FIELDS)
            raise InputError(f"holds none of {names}", file=folder, field="llm.prompts")
        self._texts: dict[str, Template] = {}
        for name, allowed in _FIELDS.items():
            shipped = resources.files("pairuni.data") / "prompts" / f"{name}.txt"
            template = Template(read_text(own[name]) if name in own else shipped.read_text(encoding="utf-8"))
            if not template.is_valid() or not set(template.get_identifiers()) <= allowed:
                wanted = ", ".join(f"${field}" for field in sorted(allowed))
                raise InputError(f"may use {wanted}; a plain dollar sign is $$", file=own.get(name))
            self._texts[name] = template

    def fill(self, name: str, **fields: str) -> str:
        return self._texts[name].substitute(fields).strip()


class LlmCompleter:
    """Asks for captions with the image and for questions with the caption alone, as the paper does."""

    def __init__(self, chat: Chat, templates: Templates, seed: int) -> None:
        self._chat, self._templates, self.seed = chat, templates, seed

    def caption(self, sample: Sample, image: LoadedImage, attempt: Attempt) -> str:
        fields = {"question": sample.question or "", "answer": sample.answer or "", "complaint": _complaint(attempt)}
        text = self._templates.fill("caption", **fields)
        reply = asked(self._chat, ChatRequest(text, [picture(image, self._chat)], attempt.number), CaptionReply)
        if not reply.consistent:
            raise Rejected("the model finds its own caption wrong")
        if not reply.caption.strip():
            raise Rejected("the caption is empty")
        return reply.caption.strip()

    def question(self, sample: Sample, image: LoadedImage, attempt: Attempt) -> tuple[str, str]:
        text = self._templates.fill("question", caption=sample.prompt or "", complaint=_complaint(attempt))
        reply = asked(self._chat, ChatRequest(text, (), attempt.number), QuestionReply)
        if not reply.consistent:
            raise Rejected("the model finds its own question wrong")
        options = [" ".join(option.split()) for option in (reply.right, *reply.wrong)]
        if len(options) != len(LETTERS) or not all(options) or len({o.casefold() for o in options}) != len(options):
            raise Rejected("the question needs one right and three wrong options, all different")
        if not reply.question.strip():
            raise Rejected("the question is empty")
        return composed(reply.question.strip(), options, dealt_letter(attempt.position, self.seed))


class LlmVerifier:
    """The separate call: does the new half contradict the original data? It sees the image on both sides."""

    def __init__(self, chat: Chat, templates: Templates) -> None:
        self._chat, self._templates = chat, templates

    def contradiction(self, quadruple: Quadruple, image: LoadedImage, attempt: Attempt) -> str | None:
        name = "verify_caption" if quadruple.side is Side.UNDERSTANDING else "verify_question"
        fields = {"caption": quadruple.prompt, "question": quadruple.question, "answer": quadruple.answer}
        text = self._templates.fill(name, **fields)
        verdict = asked(self._chat, ChatRequest(text, [picture(image, self._chat)], attempt.number), Verdict)
        return f"contradiction: {verdict.reason.strip()}" if verdict.contradiction else None


def asked(chat: Chat, question: ChatRequest, schema: type[Answer]) -> Answer:
    """Raises Rejected where no usable reply comes: finally, where none comes at all."""
    try:
        return chat.ask(question, schema)
    except BadReply as err:
        raise Rejected(f"unusable reply: {err}") from None
    except Unanswered as err:
        raise Rejected(f"{NO_REPLY}: {err}", final=True) from None


def texts_of(sample: Sample, templates: Templates) -> tuple[list[str], int]:
    """(the words of the two calls that a sample takes, without the half that is not there yet; pictures sent)."""
    known = {"caption": sample.prompt or "", "question": sample.question or "", "answer": sample.answer or ""}
    if sample.side is Side.UNDERSTANDING:
        written = templates.fill("caption", question=known["question"], answer=known["answer"], complaint="")
        return [written, templates.fill("verify_caption", **known)], 2
    written = templates.fill("question", caption=known["caption"], complaint="")
    return [written, templates.fill("verify_question", **known)], 1


def picture(image: LoadedImage, chat: Chat) -> SentImage:
    """The image as it is sent: JPEG, its longer side at most `llm.image_side`."""

    def jpeg() -> bytes:
        small = Image.fromarray(image.pixels)
        small.thumbnail((chat.config.image_side, chat.config.image_side), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=90)
        return buffer.getvalue()

    return SentImage(image.content_hash, jpeg)


def dealt_letter(position: int, seed: int) -> int:
    """Index of the right option: each block of four samples has each letter once."""
    block, place = divmod(position, len(LETTERS))
    return int(generator(seed, Stream.LETTERS, block).permutation(len(LETTERS))[place])


def composed(question: str, options: Sequence[str], letter: int) -> tuple[str, str]:
    """(question with inline options, answer letter); options[0] is the right one and moves to place `letter`."""
    placed = [*options[1 : letter + 1], options[0], *options[letter + 1 :]]
    inline = " ".join(f"{name}. {option}" for name, option in zip(LETTERS, placed, strict=True))
    return f"{question} {inline}\n{INSTRUCTION}", LETTERS[letter]


def _complaint(attempt: Attempt) -> str:
    return Template(_COMPLAINT).substitute(complaint=attempt.complaint.rstrip(".") + ".") if attempt.complaint else ""
