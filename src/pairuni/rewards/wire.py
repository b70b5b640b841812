"""The protocol between the `http` reward and its server, version 1: JSON in both directions (docs/rewards.md).

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
from pairuni.validation import input_error

PROTOCOL = 1
_WORDS = 80
"""Characters of a server's words that are passed on."""


class _HalfBody(BaseModel):
    model_config = ConfigDict(extra="allow")
    id: str
    prompt: str
    question: str
    answer: str
    image_path: str = ""
    tag: str = ""
    side: Side | None = None


class _ItemBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    side: Side
    half: _HalfBody
    text: str | None = None
    image: str | None = None


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")
    protocol: Literal[1]
    items: list[_ItemBody]


class NoScores(Exception):
    """One request without a usable reply; asking again may help."""


def encode_request(items: Sequence[RewardInput]) -> bytes:
    """The body of a request."""
    rows = []
    for item in items:
        row: dict[str, Any] = {"side": str(item.side), "half": item.quadruple.to_json()}
        if item.image is None:
            row["text"] = item.text
        else:
            buffer = io.BytesIO()
            # Level 1 is seven times faster, and a tenth larger.
            Image.fromarray(item.image).save(buffer, format="PNG", compress_level=1)
            row["image"] = base64.b64encode(buffer.getvalue()).decode()
        rows.append(row)
    return json.dumps({"protocol": PROTOCOL, "items": rows}).encode()


def decode_request(body: bytes) -> list[RewardInput]:
    """The items of a request. Raises InputError, for the client, where it is not of version 1."""
    try:
        request = _Request.model_validate_json(body)
    except ValidationError as err:
        wrong = input_error(err)
        raise InputError(f"{wrong.message} (this server speaks protocol {PROTOCOL})", field=wrong.field) from None
    items = []
    for n, row in enumerate(request.items):
        half, image = row.half, None
        if row.image is not None:
            try:
                with Image.open(io.BytesIO(base64.b64decode(row.image)), formats=["PNG"]) as picture:
                    image = np.asarray(picture.convert("RGB"))
            except (binascii.Error, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as err:
                message = f"is not a PNG in base64 ({' '.join(str(err).split())[:80]})"
                raise InputError(message, field=f"items.{n}.image") from None
        known = {name: value for name, value in half if name in _HalfBody.model_fields}
        try:
            items.append(RewardInput(row.side, Quadruple(**known, extra=half.model_extra or {}), row.text, image))
        except ValueError as err:
            raise InputError(str(err), field=f"items.{n}") from None
    return items


def encode_reply(scores: np.ndarray) -> bytes:
    """The body of a reply; NaN, a missing score, becomes null."""
    known = [None if math.isnan(score) else score for score in scores.tolist()]
    return json.dumps({"protocol": PROTOCOL, "scores": known}, allow_nan=False).encode()


def decode_reply(body: bytes, count: int) -> list[float]:
    """The scores of a reply to `count` items, NaN for null and for NaN, which is no JSON but common.

    Raises:
        NoScores: the reply is not JSON (cut off, say), or it is {"error": ...} without scores.
        InputError: the reply is JSON of another form: the server speaks another protocol.
    """
    try:
        reply = json.loads(body)
    except (ValueError, RecursionError):
        said = " ".join(body.decode(errors="replace").split())[:_WORDS]
        raise NoScores(f"the reply is not JSON{f': {said}' if said else ''}") from None
    scores = reply.get("scores") if isinstance(reply, dict) else None
    if scores is None and isinstance(reply, dict) and reply.get("error"):
        raise NoScores(f"HTTP 200 with an error: {reply['error']!r:.{_WORDS}}")
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
