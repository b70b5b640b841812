"""The `http` reward: scores that another process or machine computes, asked for in batches.

Failures that may pass by themselves (no connection, time-out, server error, a reply that is cut off) are tried again a
bounded number of times; then the scores are NaN, "missing": the run goes on, leaves them out and counts them. Failures
that will not pass (an address that refuses, a reply of another form) are the user's mistake and stop the run. The
messages are wire.py's.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx

from pairuni.config import RewardOptions
from pairuni.errors import InputError
from pairuni.progress import say
from pairuni.replies import check_address
from pairuni.rewards.base import RewardInput
from pairuni.rewards.wire import NoScores, decode_reply, encode_request
from pairuni.types import Side

_BATCH, _TIMEOUT, _RETRIES = 32, 60.0, 3
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 8.0
"""Seconds before the first retry, doubled for each further one."""
_HOPELESS = 20
"""Batches in a row without an answer after which the run stops, because it no longer learns anything."""
_PASSING = (408, 425, 429)
"""Client errors that say "later"; every status from 500 on does too."""
_LONGEST_REPLY = 2**24


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
        if not self.options.url:
            raise InputError("is needed: the address of the server", field=f"rewards.options.{self.name}.url")
        check_address(self.options.url, f"rewards.options.{self.name}.url", "http://host:8000")

    def __call__(self, items: Sequence[RewardInput]) -> Sequence[float]:
        """One number per item, NaN where the server has not answered.

        Raises:
            InputError: the server refuses, answers in another form, or has answered nothing for long.
        """
        size = self.options.batch or _BATCH
        retries = _RETRIES if self.options.retries is None else self.options.retries
        scores: list[float] = []
        reason = ""
        with httpx.Client(timeout=self.options.timeout or _TIMEOUT) as client:
            for start in range(0, len(items), size):
                batch = items[start : start + size]
                try:
                    # Once a batch has failed with all its tries, the others of this step are tried only once each.
                    scores += self._ask(client, batch, 0 if reason else retries)
                    self._failed = 0
                except NoScores as err:
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

    def _ask(self, client: httpx.Client, items: Sequence[RewardInput], retries: int) -> list[float]:
        """Raises NoScores after the last retry."""
        body = encode_request(items)
        for attempt in range(retries + 1):
            try:
                return decode_reply(self._post(client, body), len(items))
            except NoScores:
                if attempt == retries:
                    raise
                time.sleep(min(_FIRST_WAIT * 2**attempt, _LONGEST_WAIT))
            except InputError as err:
                where = f"reward {self.name}: {self.options.url}"
                raise InputError(err.message, field=f"{where}: {err.field}" if err.field else where) from None
        raise AssertionError("the loop returns or raises")

    def _post(self, client: httpx.Client, body: bytes) -> bytes:
        """The reply's body. Raises NoScores for a failure that may pass, InputError for one that will not."""
        seconds = client.timeout.read or _TIMEOUT
        # httpx's time-out is that of one read; a server that sends a byte now and then would never exceed it.
        deadline, content = time.monotonic() + seconds, bytearray()
        json_headers = {"Content-Type": "application/json"}
        try:
            with client.stream("POST", self.options.url or "", content=body, headers=json_headers) as response:
                for part in response.iter_bytes():
                    content += part
                    if time.monotonic() > deadline:
                        raise httpx.ReadTimeout("")
                    if len(content) > _LONGEST_REPLY:
                        raise NoScores("the reply is too long for scores")
        except httpx.TimeoutException:
            raise NoScores(f"no reply within {seconds:g} s") from None
        except httpx.HTTPError as err:
            raise NoScores(f"connection failed ({' '.join(str(err).split())[:100]})") from None
        if response.is_success:
            return bytes(content)
        said = content.decode(errors="replace")
        try:
            parsed = json.loads(said)
            said = parsed.get("error", parsed) if isinstance(parsed, dict) else parsed
        except ValueError:
            pass  # a page or plain text: passed on as it is
        words = f"HTTP {response.status_code} {' '.join(str(said).split())[:200]}".strip()
        if response.status_code >= 500 or response.status_code in _PASSING:
            raise NoScores(words)
        raise InputError(f"refuses: {words}")
