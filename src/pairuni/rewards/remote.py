"""The `http` reward: scores that another process or machine computes, asked for in batches.

What may pass by itself (no connection, time-out, server error, a reply that is cut off) is tried again a bounded number
of times and then NaN, "missing": the run goes on, the score is left out and counted. What will not (an address that
refuses, a reply of another form) is the user's mistake and stops the run. What is said is wire.py.
"""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from pairuni.config import RewardOptions
from pairuni.errors import InputError
from pairuni.progress import say
from pairuni.rewards.base import RewardInput
from pairuni.rewards.wire import BadReply, decode_reply, encode_request
from pairuni.types import Side

_BATCH, _TIMEOUT, _RETRIES = 32, 60.0, 3
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 8.0
"""Seconds before the first retry, doubled for each further one."""
_HOPELESS = 20
"""Batches in a row without an answer after which the run stops: it would only go on to learn nothing."""
_PASSING = (408, 425, 429)
"""Client errors that say "later"; every status from 500 on does too."""
_LONGEST_REPLY = 2**24
_CHUNK = 2**16


class _Unanswered(Exception):
    """One try without a usable reply; another may have one."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """urllib would send a GET without the items to the new address."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        return None


@dataclass
class HttpReward:
    """Asks a server of the user's, or `python -m pairuni.rewards.serve`, for scores."""

    options: RewardOptions
    name: str = "http"
    sides: frozenset[Side] = frozenset(Side)
    remote: bool = True
    _failed: int = field(default=0, init=False, repr=False, compare=False)
    """Batches in a row without an answer."""

    def __post_init__(self) -> None:
        """Raises InputError: there is no address, or it cannot be one."""
        address = urlsplit(self.options.url or "")
        if not self.options.url:
            raise InputError("is needed: the address of the server", field=self._field("url"))
        if address.scheme not in ("http", "https") or not address.hostname:
            raise InputError("must be an http(s) address such as http://host:8000", field=self._field("url"))
        if address.username or address.password:
            raise InputError("must not hold a user name or password", field=self._field("url"))

    def __call__(self, items: Sequence[RewardInput]) -> Sequence[float]:
        """One number per item, NaN where the server has not answered.

        Raises:
            InputError: the server refuses, answers in another form, or has answered nothing for long.
        """
        size = self.options.batch or _BATCH
        scores: list[float] = []
        reason = ""
        for start in range(0, len(items), size):
            batch = items[start : start + size]
            try:
                # Once a batch has failed with all its tries, the rest of a step does not wait as long again for each.
                scores += self._ask(batch, tries=1 if reason else 1 + self._retries)
                self._failed = 0
            except _Unanswered as err:
                reason = str(err)
                self._failed += 1
                scores += [float("nan")] * len(batch)
            if self._failed >= _HOPELESS:
                message = f"answers nothing: {reason}, {_HOPELESS} batches in a row"
                raise InputError(f"{self.options.url} {message}", field=f"reward {self.name}")
        if reason:
            missing = sum(score != score for score in scores)
            say(f"warning: reward {self.name}: {missing} of {len(items)} scores are missing: {reason}")
        return scores

    @property
    def _retries(self) -> int:
        return _RETRIES if self.options.retries is None else self.options.retries

    def _ask(self, items: Sequence[RewardInput], tries: int) -> list[float]:
        body = encode_request(items)
        for attempt in range(tries):
            try:
                return self._decoded(self._post(body), len(items))
            except _Unanswered:
                if attempt + 1 == tries:
                    raise
                time.sleep(min(_FIRST_WAIT * 2**attempt, _LONGEST_WAIT))
        raise AssertionError("there is at least one try")

    def _decoded(self, reply: bytes, count: int) -> list[float]:
        try:
            return decode_reply(reply, count)
        except BadReply as err:
            raise _Unanswered(str(err)) from None
        except InputError as err:
            where = f"reward {self.name}: {self.options.url}"
            raise InputError(err.message, field=f"{where}: {err.field}") from None

    def _post(self, body: bytes) -> bytes:
        """The reply's body. Raises _Unanswered for what may pass, InputError for what will not."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.options.url or "", body, headers, method="POST")
        timeout = self.options.timeout or _TIMEOUT
        # A socket's time-out is that of one read; a server that sends a byte now and then would never exceed it.
        deadline = time.monotonic() + timeout
        try:
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=timeout) as response:
                return _read(response, deadline)
        except urllib.error.HTTPError as err:
            with err:
                words = f"HTTP {err.code} {_words(err)}".strip()
            if err.code >= 500 or err.code in _PASSING:
                raise _Unanswered(words) from None
            raise InputError(f"{self.options.url} refuses: {words}", field=f"reward {self.name}") from None
        except TimeoutError:
            raise _Unanswered(f"no reply within {timeout:g} s") from None
        except (urllib.error.URLError, http.client.HTTPException, OSError) as err:
            reason = err.reason if isinstance(err, urllib.error.URLError) else err
            if isinstance(reason, TimeoutError):
                raise _Unanswered(f"no reply within {timeout:g} s") from None
            raise _Unanswered(f"connection failed ({' '.join(str(reason).split())[:100]})") from None

    def _field(self, option: str) -> str:
        return f"rewards.options.{self.name}.{option}"


def _read(response: http.client.HTTPResponse, deadline: float) -> bytes:
    parts, size = [], 0
    while part := response.read1(_CHUNK):
        parts.append(part)
        size += len(part)
        if time.monotonic() > deadline:
            raise TimeoutError
        if size > _LONGEST_REPLY:
            raise http.client.HTTPException("the reply is too long for scores")
    return b"".join(parts)


def _words(err: urllib.error.HTTPError) -> str:
    """What the server says is wrong, cut short."""
    try:
        text = err.read(_CHUNK).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return ""
    try:
        said = json.loads(text)
    except ValueError:
        said = text
    if isinstance(said, dict):
        said = said.get("error", said)
    return " ".join(str(said).split())[:200]
