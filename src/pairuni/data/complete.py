"""Semantic completion: samples with one half -> quadruples (paper 2.1), generate-then-verify, the `complete` stage.

The completer writes the missing half, the verifier checks the whole against the original half and the image, and a
sample that fails is tried again and then rejected with the reason. `ShapesCompleter` works offline on the Shapes
world; a completer that asks a language model is one more class here.
"""

import hashlib
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from pairuni.config import CompleteConfig
from pairuni.data.dataset import load_image
from pairuni.data.sources import image_fault, read_sources
from pairuni.data.verify import ShapesVerifier, Verifier, told
from pairuni.files import file_hash, write_json, write_jsonl
from pairuni.records import Quadruple, Sample, Side
from pairuni.shapes.captions import Requirement, describe, placed, prompt_split, relation_held_out, write
from pairuni.shapes.detector import read_scene
from pairuni.shapes.questions import ask

WORDINGS = 20
"""Tries at a caption whose wording is not held out; one in six is."""


class Completer(Protocol):
    """Writes missing halves. Each attempt at a sample is a new one; the same attempt writes the same."""

    def caption(self, sample: Sample, image: np.ndarray, attempt: int) -> str | None:
        """A caption of an understanding sample, with the evidence its question needs; None where it cannot tell."""
        ...

    def question(self, sample: Sample, image: np.ndarray, attempt: int) -> tuple[str, str] | None:
        """(question with inline options, answer letter) on a generation sample's caption; None where it cannot."""
        ...


class ShapesCompleter:
    """Reads Shapes images with the detector, captions them whole, and asks what a caption can answer.

    It writes training data: captions of the held-out split, which evaluation asks for, are never written.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def caption(self, sample: Sample, image: np.ndarray, attempt: int) -> str | None:
        scene = read_scene(image)
        if scene is None:
            return None
        requirement = describe(scene)
        if (sample.question or "").startswith(("Where is the", "Is the ")):
            requirement = Requirement(tuple(placed(group, scene) for group in requirement.groups))
        if relation_held_out(requirement):
            requirement = Requirement(requirement.groups)
        rng = self._rng(sample, attempt)
        written = (write(requirement, rng) for _ in range(WORDINGS))
        return next((text for text in written if prompt_split(text, requirement) == "train"), None)

    def question(self, sample: Sample, image: np.ndarray, attempt: int) -> tuple[str, str] | None:
        scene = read_scene(image)
        if scene is None:
            return None
        rng, things = self._rng(sample, attempt), told(sample.prompt or "")
        types = ["existence", "comparison", "count"]
        if any(k.colour is not None for k in things):
            types += ["colour", "binding"]
        if any(k.cell is not None for k in things):
            types.append("position")
        drawn = (ask(scene, str(kind), rng) for kind in rng.permutation(types))
        question = next((q for q in drawn if q is not None), None)
        return None if question is None else (question.text, question.answer)

    def _rng(self, sample: Sample, attempt: int) -> np.random.Generator:
        name = int.from_bytes(hashlib.sha256(sample.id.encode()).digest()[:8])
        return np.random.default_rng([self.seed, name, attempt])


def complete_sample(
    sample: Sample, image: np.ndarray, completer: Completer, verifier: Verifier, attempts: int
) -> tuple[Quadruple | None, str, int]:
    """(quadruple or None, why the last attempt failed, attempts made)."""
    reason = ""
    for attempt in range(attempts):
        quadruple = _attempt(sample, image, completer, attempt)
        reason = "the completer finds nothing to write" if quadruple is None else ""
        if quadruple is not None:
            reason = verifier.contradiction(quadruple, image) or ""
            if not reason:
                return quadruple, "", attempt + 1
    return None, reason, attempts


def _attempt(sample: Sample, image: np.ndarray, completer: Completer, attempt: int) -> Quadruple | None:
    prompt, question, answer = sample.prompt, sample.question, sample.answer
    if sample.side is Side.UNDERSTANDING:
        prompt = completer.caption(sample, image, attempt)
    else:
        question, answer = completer.question(sample, image, attempt) or (None, None)
    if prompt is None or question is None or answer is None:
        return None
    return Quadruple(sample.id, sample.side, sample.image_path, prompt, question, answer, sample.tag, sample.extra)


def run_complete(config: CompleteConfig) -> dict[str, Any]:
    """The `complete` stage: writes quadruples.jsonl, rejected.jsonl and completion.json to `config.output`.

    Returns what completion.json holds: options, the image root that paths are relative to, input hashes, and counts
    {inputs, completed and rejected by side, retried, reasons}. Files appear whole or not at all.

    Raises:
        InputError: a source file is wrong (`read_sources`). Broken images are rejections.
    """
    sources = read_sources(config.understanding, config.generation, config.image_root)
    completer, verifier = ShapesCompleter(config.seed), ShapesVerifier()
    done: list[Quadruple] = []
    rejected: list[tuple[Sample, str]] = []
    retried = 0
    for sample in tqdm(sources.samples, desc="complete", unit="sample"):
        path = sources.image_root / sample.image_path
        fault = image_fault(path)
        if fault is not None:
            rejected.append((sample, fault))
            continue
        quadruple, reason, tries = complete_sample(sample, load_image(path), completer, verifier, config.attempts)
        retried += tries > 1
        if quadruple is None:
            rejected.append((sample, reason))
        else:
            done.append(quadruple)
    output = Path(config.output)
    write_jsonl(output / "quadruples.jsonl", (q.to_json() for q in done))
    write_jsonl(output / "rejected.jsonl", (_rejection(sample, reason) for sample, reason in rejected))
    summary = {
        "options": asdict(config),
        "image_root": str(sources.image_root),
        "input_hashes": {name: file_hash(vars(config)[name]) for name in ("understanding", "generation")},
        "counts": {
            "inputs": len(sources.samples),
            "completed": {str(side): sum(q.side is side for q in done) for side in Side},
            "rejected": {str(side): sum(s.side is side for s, _ in rejected) for side in Side},
            "retried": retried,
            "reasons": dict(sorted(Counter(reason for _, reason in rejected).items())),
        },
    }
    write_json(output / "completion.json", summary)
    return summary


def _rejection(sample: Sample, reason: str) -> dict[str, Any]:
    row = {"id": sample.id, "side": str(sample.side), "image_path": sample.image_path, "prompt": sample.prompt}
    row |= {"question": sample.question, "answer": sample.answer, "tag": sample.tag, "reason": reason}
    return {**sample.extra, **{key: value for key, value in row.items() if value is not None}}
