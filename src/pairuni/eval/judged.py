"""Benchmarks that a judge model scores, WISE and ImgEdit: asking it, reading its reply, and the published means.

Sources: PKU-YuanGroup/WISE (`gpt_eval.py` and `Calculate.py` of the legacy version, `vllm_eval.py` and
`calculate_verified.py` of the verified one), read as lmms-eval 0.7.3 `tasks/WISE` does; PKU-YuanGroup/ImgEdit
`Benchmark/Basic/step1_get_avgscore.py`, `step2_typescore.py`.
"""

import hashlib
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pairuni.config import EvalConfig
from pairuni.errors import InputError
from pairuni.eval.base import Benchmark, rule_of
from pairuni.llm import BadReply, Chat, ChatRequest, Ledger, SentImage, Unanswered
from pairuni.replies import without_thinking
from pairuni.types import Side

# ---- asking ----------------------------------------------------------------------------------------------------------

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

        Raises:
            InputError: the endpoint does not answer.
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


# ---- WISE -----------------------------------------------------------------------------------------------------------

_LEGACY_LABEL = re.compile(r"(consistency|realism|aesthetic quality)\*{0,2}\s*:?\s*(\d)", re.IGNORECASE)
_VERIFIED_LABEL = re.compile(r"score\*{0,2}\s*:?\s*([01])\b", re.IGNORECASE)
"""Asterisks may stand before the colon, not after it, and the colon is the ASCII one: "**Score:** 1" does not parse."""
LEGACY_KEYS = ("consistency", "realism", "aesthetic_quality")


def _parse_legacy(text: str) -> dict[str, float]:
    """Labelled digits, the last of a label, in any range; without any label, the first three lines of a lone 0 to 2."""
    labelled = {name.lower().replace(" ", "_"): float(digit) for name, digit in _LEGACY_LABEL.findall(text)}
    bare = _lone_digits(text, "012")
    if labelled or len(bare) < len(LEGACY_KEYS):
        return labelled
    return dict(zip(LEGACY_KEYS, bare, strict=False))


def _parse_verified(text: str) -> dict[str, float]:
    """The first labelled 0 or 1; without any label, the only line of a lone 0 or 1."""
    labelled = _VERIFIED_LABEL.search(text)
    if labelled:
        return {"score": float(labelled[1])}
    bare = _lone_digits(text, "01")
    return {"score": bare[0]} if len(bare) == 1 else {}


def _lone_digits(text: str, digits: str) -> list[float]:
    lines = (line.strip() for line in text.split("\n"))
    return [float(line) for line in lines if len(line) == 1 and line in digits]


def _verified_points(scores: Sequence[float]) -> float:
    (score,) = scores
    if score not in (0, 1):
        raise ValueError(f"a verified WISE score is 0 or 1, not {score}")
    return float(score)


@dataclass(frozen=True)
class _WiseVersion:
    """One version of WISE."""

    keys: tuple[str, ...]
    """Names of the scores of an image."""
    parse: Callable[[str], dict[str, float]]
    points: Callable[[Sequence[float]], float]
    ranges: dict[str, tuple[int, int, float]]
    """Category -> first id, last id, weight."""


WISE_VERSIONS = {
    "legacy": _WiseVersion(
        LEGACY_KEYS,
        _parse_legacy,
        lambda scores: (0.7 * scores[0] + 0.2 * scores[1] + 0.1 * scores[2]) / 2,
        {
            "culture": (1, 400, 0.4),
            "time": (401, 567, 0.167),
            "space": (568, 700, 0.133),
            "biology": (701, 800, 0.1),
            "physics": (801, 900, 0.1),
            "chemistry": (901, 1000, 0.1),
        },
    ),
    "verified": _WiseVersion(
        ("score",),
        _parse_verified,
        _verified_points,
        {
            "culture": (1, 400, 0.4),
            "time": (401, 520, 0.12),
            "space": (521, 640, 0.12),
            "biology": (641, 760, 0.12),
            "physics": (761, 880, 0.12),
            "chemistry": (881, 1000, 0.12),
        },
    ),
}
"""legacy is the paper's (0 to 2 in three respects); verified is the default since April 2026 (0 or 1)."""


def parse_wise(text: str, version: str) -> dict[str, float]:
    """The scores in a judge's reply: consistency, realism, aesthetic_quality (legacy, those found) or score (verified).

    Empty where nothing parses. Legacy scores are not checked for range, as upstream.

    Raises:
        ValueError: an unknown version.
    """
    return rule_of(version, WISE_VERSIONS, "WISE").parse(text)


def wise_score(records: Iterable[Sequence[float]], version: str) -> dict[str, Any]:
    """WiScore in [0, 1]: `parts` has the mean of each category with records, `overall` their weighted sum.

    Args:
        records: [id, consistency, realism, aesthetic] (legacy) or [id, score] (verified) of each image that was
            judged. Images whose reply did not parse are left out, as upstream; count them beside the score.

    Returns:
        {"overall", "parts"}; overall is None where a category has no record, since the weights then mean nothing.

    Raises:
        ValueError: an unknown version, an id outside 1 to 1000, or a record of another form.
    """
    rules = rule_of(version, WISE_VERSIONS, "WISE")
    points: dict[str, list[float]] = {category: [] for category in rules.ranges}
    for prompt_id, *scores in records:
        if (wanted := len(rules.keys)) != len(scores):
            raise ValueError(f"a {version} WISE record is an id and {wanted} numbers, not {[prompt_id, *scores]}")
        inside = [name for name, (first, last, _) in rules.ranges.items() if first <= prompt_id <= last]
        if not inside:
            raise ValueError(f"WISE has prompts 1 to 1000, not {prompt_id}")
        points[inside[0]].append(rules.points(scores))
    parts = {category: sum(each) / len(each) for category, each in points.items() if each}
    complete = len(parts) == len(rules.ranges)
    overall = sum(weight * parts[name] for name, (_, _, weight) in rules.ranges.items()) if complete else None
    return {"overall": overall, "parts": parts}


# ---- ImgEdit --------------------------------------------------------------------------------------------------------


def _imgedit_official(text: str) -> list[float]:
    """The number of each line "label: number", whatever the label: a reasoning of "3" counts, "5." and "5/5" do not."""
    halves = (line.strip().split(": ") for line in text.splitlines())
    return [int(half[1]) for half in halves if len(half) == 2 and half[1].isdecimal()]


def _imgedit_lmms(text: str) -> list[float]:
    """The last three numbers after a colon, else at the end of a line; three zeros where there are fewer."""
    after_colons = re.findall(r":\s*(\d+)", text)
    endings = (re.search(r"(\d+)$", line.strip()) for line in text.strip().split("\n"))
    at_ends = [ending[1] for ending in endings if ending]
    found = next((numbers for numbers in (after_colons, at_ends) if len(numbers) >= 3), ["0", "0", "0"])
    return [float(number) for number in found[-3:]]


_IMGEDIT = {"official": _imgedit_official, "lmms_eval": _imgedit_lmms}


def parse_imgedit(text: str, protocol: str = "official") -> list[float]:
    """The numbers that are averaged for one edit; empty where the official script finds none and skips the edit.

    Raises:
        ValueError: an unknown protocol.
    """
    return rule_of(protocol, _IMGEDIT, "ImgEdit")(text)


def imgedit_score(records: Iterable[tuple[str, Sequence[float]]], protocol: str = "official") -> dict[str, Any]:
    """ImgEdit's means, 1 to 5.

    The official scripts round each edit and each type to two decimals and name no overall score, so both in use are
    given: `overall`, the mean over edits, and `type_mean`, the mean over types.

    Args:
        records: (edit type, numbers of `parse_imgedit`) of each edit; one without numbers is skipped and counted.

    Returns:
        {"overall", "type_mean", "parts": {type: mean}, "n": edits scored, "skipped"}.

    Raises:
        ValueError: an unknown protocol, or no edit with numbers.
    """
    rule_of(protocol, _IMGEDIT, "ImgEdit")
    digits = 2 if protocol == "official" else None
    types: dict[str, list[float]] = {}
    skipped = 0
    for edit_type, numbers in records:
        if numbers:
            types.setdefault(edit_type, []).append(_mean(numbers, digits))
        else:
            skipped += 1
    if not types:
        raise ValueError("ImgEdit without a judged edit has no score")
    items = [item for each in types.values() for item in each]
    parts = {name: _mean(each, digits) for name, each in types.items()}
    return {
        "overall": _mean(items, None),
        "type_mean": _mean([*parts.values()], None),
        "parts": parts,
        "n": len(items),
        "skipped": skipped,
    }


def _mean(numbers: Sequence[float], digits: int | None) -> float:
    mean = sum(numbers) / len(numbers)
    return mean if digits is None else round(mean, digits)
