"""Generate-then-verify (paper 2.1): the loop, and the protocols of completers and verifiers.

The completer writes the missing half, the verifier checks the whole against the original half and the image, and a
sample that fails is tried again, with the complaint, and then rejected with the reason. There are two completers: one
for the Shapes world (shapes_completion.py), and one that asks a language model (llm_completer.py).
"""

from dataclasses import dataclass
from typing import Protocol

from pairuni.data.images import LoadedImage
from pairuni.types import Quadruple, Sample, Side


@dataclass(frozen=True)
class Attempt:
    """One try at one sample."""

    position: int = 0
    """The sample's place among those of its side; a completer spreads its choices evenly by it."""
    number: int = 0
    """From 0."""
    complaint: str = ""
    """Why the try before was refused."""


class Completer(Protocol):
    """Writes missing halves. Each attempt at a sample is a new one; the same attempt writes the same."""

    def caption(self, sample: Sample, image: LoadedImage, attempt: Attempt) -> str | None:
        """A caption of an understanding sample, with the evidence its question needs; None where it cannot tell."""
        ...

    def question(self, sample: Sample, image: LoadedImage, attempt: Attempt) -> tuple[str, str] | None:
        """(question with inline options, answer letter) on a generation sample's caption; None where it cannot."""
        ...


class Verifier(Protocol):
    """Finds contradictions."""

    def contradiction(self, quadruple: Quadruple, image: LoadedImage, attempt: Attempt) -> str | None:
        """The contradiction in the quadruple, None where there is none."""
        ...


class Rejected(Exception):
    """This attempt came to nothing, for the reason in its message; `final` ones are not worth another."""

    def __init__(self, reason: str, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


@dataclass(frozen=True)
class Completion:
    """The result of completing a sample."""

    quadruple: Quadruple | None
    reason: str
    """Why the last attempt failed; the text before a colon is the kind of reason. Empty where it succeeded."""
    attempts: int
    notes: tuple[str, ...] = ()
    """Unusual features of the image that were corrected."""


def complete_sample(
    sample: Sample, image: LoadedImage, completer: Completer, verifier: Verifier, attempts: int, position: int = 0
) -> Completion:
    """Up to `attempts` tries: generate, verify, and again with the complaint."""
    reason = ""
    for number in range(attempts):
        attempt = Attempt(position, number, reason)
        try:
            prompt, question, answer = sample.prompt, sample.question, sample.answer
            if sample.side is Side.UNDERSTANDING:
                prompt = completer.caption(sample, image, attempt)
            else:
                question, answer = completer.question(sample, image, attempt) or (None, None)
            if prompt is None or question is None or answer is None:
                raise Rejected("the completer finds nothing to write")
            if any(text != text.encode("utf-8", "replace").decode() for text in (prompt, question, answer)):
                raise Rejected("the completer writes a lone surrogate")  # no file could be written with it
            given = sample.id, sample.side, sample.image_path
            quadruple = Quadruple(*given, prompt, question, answer, sample.tag, sample.extra)
            reason = verifier.contradiction(quadruple, image, attempt) or ""
        except Rejected as err:
            reason = str(err)
            if err.final:
                return Completion(None, reason, number + 1)
            continue
        if not reason:
            return Completion(quadruple, "", number + 1)
    return Completion(None, reason, attempts)
