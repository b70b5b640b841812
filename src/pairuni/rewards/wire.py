"""What the `http` reward and its server say to each other, version 1: JSON in both directions (docs/rewards.md).

Request: {"protocol": 1, "items": [{"side", "half", "text" or "image"}]}, where `half` is the half of the pair as in
pairs.jsonl and `image` a PNG in base64. Reply: {"scores": [...]}, one per item, null where an item has no score.
No network here.
"""

import base64
import binascii
import io
import json
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from pairuni.errors import InputError
from pairuni.rewards.base import RewardInput
from pairuni.types import Quadruple, Side

PROTOCOL = 1
_WORDS = 80
"""Characters of a server's words that are passed on."""


class _Half(BaseModel):
    model_config = ConfigDict(extra="allow")
    id: str
    prompt: str
    question: str
    answer: str
    image_path: str = ""
    tag: str = ""
    side: Side | None = None


class _Item(BaseModel):
    model_config = ConfigDict(extra="forbid")
    side: Side
    half: _Half
    text: str | None = None
    image: str | None = None


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")
    protocol: Literal[1]
    items: list[_Item]


class BadReply(ValueError):
    """A reply that is not JSON, as one that was cut off, or an error sent as HTTP 200: asking again may help."""


def encode_request(items: Sequence[RewardInput]) -> bytes:
    """The body of a request."""
    rows = []
    for item in items:
        row: dict[str, Any] = {"side": str(item.side), "half": item.quadruple.to_json()}
        if item.image is None:
            row["text"] = item.text
        else:
            row["image"] = base64.b64encode(_png(item.image)).decode()
        rows.append(row)
    return json.dumps({"protocol": PROTOCOL, "items": rows}).encode()


def decode_request(body: bytes) -> list[RewardInput]:
    """The items of a request. Raises InputError, in the client's words, for whatever is not as version 1 has it."""
    try:
        request = _Request.model_validate_json(body)
    except ValidationError as err:
        first = err.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{first['msg']} (this server speaks protocol {PROTOCOL})", field=place or None) from None
    return [_item(item, f"items.{n}") for n, item in enumerate(request.items)]


def encode_reply(scores: np.ndarray) -> bytes:
    """The body of a reply; NaN, a missing score, becomes null."""
    known = [None if math.isnan(score) else score for score in scores.tolist()]
    return json.dumps({"protocol": PROTOCOL, "scores": known}, allow_nan=False).encode()


def decode_reply(body: bytes, count: int) -> list[float]:
    """The scores of a reply to `count` items, NaN for null and for NaN, which is no JSON but common.

    Raises:
        BadReply: it is not JSON, or {"error": ...} without scores.
        InputError: it is JSON but not as version 1 has it: the server does something else than this.
    """
    try:
        reply = json.loads(body)
    except (ValueError, RecursionError):
        said = " ".join(body.decode(errors="replace").split())[:_WORDS]
        raise BadReply(f"the reply is not JSON{f': {said}' if said else ''}") from None
    scores = reply.get("scores") if isinstance(reply, dict) else None
    if scores is None and isinstance(reply, dict) and reply.get("error"):
        raise BadReply(f"HTTP 200 with an error: {reply['error']!r:.{_WORDS}}")
    if not isinstance(scores, list):
        raise InputError(f'must be {{"scores": [...]}}, not {reply!r:.80}', field="reply")
    if reply.get("protocol", PROTOCOL) != PROTOCOL:
        raise InputError(f"is {reply['protocol']!r:.20}, not {PROTOCOL}", field="reply.protocol")
    if len(scores) != count:
        raise InputError(f"has {len(scores)} scores for {count} items", field="reply.scores")
    for n, score in enumerate(scores):
        number = score is None or (isinstance(score, int | float) and not isinstance(score, bool))
        if not number or score in (math.inf, -math.inf):
            raise InputError(f"must be a finite number or null, not {score!r:.80}", field=f"reply.scores.{n}")
    return [math.nan if score is None else float(score) for score in scores]


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=1)  # seven times faster, a tenth larger
    return buffer.getvalue()


def _item(row: _Item, place: str) -> RewardInput:
    half = row.half
    known = {name: value for name, value in half if name in _Half.model_fields}
    image = None if row.image is None else _pixels(row.image, f"{place}.image")
    try:
        return RewardInput(row.side, Quadruple(**known, extra=half.model_extra or {}), text=row.text, image=image)
    except ValueError as err:
        raise InputError(str(err), field=place) from None


def _pixels(text: str, place: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(base64.b64decode(text)), formats=["PNG"]) as picture:
            return np.asarray(picture.convert("RGB"))
    except (binascii.Error, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as err:
        raise InputError(f"is not a PNG in base64 ({' '.join(str(err).split())[:80]})", field=place) from None
