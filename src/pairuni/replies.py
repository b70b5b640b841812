"""Replies of language models: the JSON object in one, its words without the thinking, and failures sent as HTTP 200.

Gateways answer 200 with {"error": ...}, without choices or with a page of their own where the provider behind them is
busy. Such an answer is no reply. `unmask` gives it the status that it means, so that the SDK retries it as any other
failure. No network here.
"""

import json
import re
from typing import Any
from urllib.parse import urlsplit

from pairuni.errors import InputError

_QUOTA = "insufficient_quota"
_WORDS = 200
"""Characters of a server's words that are passed on."""
_BROKEN = 502
"""Bad gateway: the status of a failure that names none."""


def check_address(url: str, field: str, example: str) -> None:
    """Raises InputError, naming `field`, for what is no http(s) address, or holds a user name or password."""
    address = urlsplit(url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise InputError(f"must be an http(s) address such as {example}", field=field)
    if address.username or address.password:
        raise InputError("must not hold a user name or password", field=field)


def unmask(response: Any) -> None:
    """Event hook of an httpx client. Changes the status of a failed call that came as HTTP 200.

    The server's words go to `response.extensions["pairuni_fault"]`.
    """
    response.read()
    if response.status_code == 429 and _QUOTA in response.text:
        response.headers["x-should-retry"] = "false"  # no money: waiting does not help
    if response.status_code != 200:
        return
    fault = _fault(response.content)
    if fault is not None:
        response.status_code, words = fault
        response.extensions["pairuni_fault"] = words


def _fault(content: bytes) -> tuple[int, str] | None:
    """(status, words) of a body that is no chat completion, None of one that is."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        page = " ".join(content.decode(errors="replace").split())
        return _BROKEN, f"HTTP 200 with something that is not JSON: {page}" if page else "HTTP 200 with nothing"
    if not isinstance(body, dict):
        return _BROKEN, f"HTTP 200 with something that is no chat completion: {body!r}"
    if body.get("error"):
        return _error(body["error"])
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        said = body.get("detail") or body.get("message") or ""
        return _BROKEN, f"HTTP 200 without choices{f': {said}' if said else ''}"
    if not isinstance(choices[0], dict):
        return _BROKEN, "HTTP 200 with choices that are no objects"
    if choices[0].get("error"):  # the provider broke down in the middle of its reply
        return _error(choices[0]["error"])
    if not isinstance(choices[0].get("message"), dict):
        return _BROKEN, "HTTP 200 with a choice without a message"
    return None


def _error(error: Any) -> tuple[int, str]:
    """(status, words) of an error object. Its code is an HTTP status, a word or absent."""
    if not isinstance(error, dict):
        return _BROKEN, f"HTTP 200 with an error: {error}"
    code = error.get("code")
    number = int(code) if isinstance(code, int | str) and re.fullmatch(r"[45]\d\d", str(code)) else None
    words = str(error.get("message") or error.get("type") or "no message")
    words += "" if code is None else f" ({code})"
    metadata = error.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None  # the provider's words, where a gateway has them
    return number or _BROKEN, f"HTTP 200 with an error: {words}{f': {raw}' if isinstance(raw, str) else ''}"


def words_of(error: Any) -> str:
    """The server's explanation in an openai.APIStatusError, cut short. It may repeat the key."""
    fault = error.response.extensions.get("pairuni_fault")
    if fault is not None:
        return fault[:_WORDS]
    body = error.body if isinstance(error.body, dict) else {}
    said = body.get("message") or body.get("detail") or ""
    return f"HTTP {error.status_code} {str(said)[:_WORDS]}".strip()


def without_thinking(text: str) -> str:
    """The text after the last </think>, or before a <think> that never ends."""
    text = re.split(r"</think\s*>", text, flags=re.IGNORECASE)[-1]
    return re.split(r"<think\s*>", text, flags=re.IGNORECASE)[0].strip()


def json_object(text: str) -> str:
    """The one JSON object of a reply, which may stand after </think>, in a fence or between sentences.

    An object inside a broken one is not taken, so that a reply that was cut off is not read in part. Where there is no
    object, the text without the thinking, in which a JSON parser will find what is wrong.

    Raises:
        ValueError: there are several objects that differ.
    """
    text, decoder = without_thinking(text), json.JSONDecoder()
    found: dict[str, str] = {}
    place = text.find("{")
    while place >= 0:
        try:
            value, end = decoder.raw_decode(text, place)
            found[json.dumps(value, sort_keys=True)] = text[place:end]
        except (ValueError, RecursionError):
            end = _closing(text, place)
        place = text.find("{", end)
    if len(found) > 1:
        raise ValueError(f"the reply holds {len(found)} different JSON objects")
    return next(iter(found.values()), text)


def _closing(text: str, start: int) -> int:
    """The place after the brace that closes the one at `start`, the end of the text where none does."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "{") - (text[i] == "}")
        if depth == 0:
            return i + 1
    return len(text)
