"""Chat with any OpenAI-compatible endpoint: pictures in, validated objects out, every paid reply on disk.

The only network code beside rewards/remote.py. The key of a call is the hash of everything that its reply depends on.
Each reply goes into the ledger before it is used, so a killed run continues without asking or paying for it again.
Several processes or hosts may share a ledger folder: each appends to its own file, reads all files, and waits for a
call that another one has in flight.
The openai SDK retries rate limits, server errors, time-outs and cut connections, also failures that come as HTTP 200
(replies.py).
"""

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from pairuni.config import LlmConfig
from pairuni.errors import InputError
from pairuni.ledger import Ledger
from pairuni.progress import say
from pairuni.replies import check_address, json_object, unmask, words_of
from pairuni.validation import input_error

_FATAL_STATUS = (401, 402, 403, 404)
"""No later call can succeed: wrong key, no money, no such model."""
_FATAL_CODES = ("insufficient_quota", "unsupported_parameter", "unsupported_value", "unknown_parameter")
"""The same, whatever the status of the response."""
_PARAMETERS = ("max_tokens", "max_completion_tokens", "temperature", "response_format", "json_schema", "model")
"""Parameters that all calls of a run share. A 400 about one of these comes back at every call."""
_ABOUT_THE_REQUEST = (400, 422)
_REFUSES = re.compile(
    r"unsupported|not supported|(?:does|do) not support|unknown|unrecognized|not permitted|not allowed|invalid|must be",
    re.IGNORECASE,
)
_ONLY_VALUE = re.compile(r"default \((\d+(?:\.\d+)?)\)")
"""The one temperature that a model takes, in its provider's words."""
_OF_ONE_CALL = re.compile(r"context length|context window|too long|filter|policy", re.IGNORECASE)
"""Complaints about the content of this call. Another call may be shorter or harmless."""
_HOPELESS = 20
"""Consecutive failed calls after which the endpoint counts as unreachable and the run stops."""


class Reply(BaseModel):
    """Base of reply schemas. Unknown keys are an error, so that a reply to another question is refused."""

    model_config = ConfigDict(extra="forbid")


Answer = TypeVar("Answer", bound=Reply)


class BadReply(Exception):
    """The reply does not fit its schema. It is paid for and in the ledger; to ask again, raise `attempt`."""


class Unanswered(Exception):
    """No reply after all retries. Not in the ledger: a later run asks again."""


@dataclass(frozen=True)
class SentImage:
    """An image of a message: its hash, and a function that gives its bytes."""

    content_hash: str
    content: Callable[[], bytes]
    kind: Literal["jpeg", "png"] = "jpeg"


@dataclass(frozen=True)
class ChatRequest:
    """One call. `attempt` distinguishes repeated calls with equal text."""

    text: str
    pictures: Sequence[SentImage] = ()
    attempt: int = 0
    pictures_last: bool = False
    """Whether the pictures come after the text, not before it."""


@dataclass
class Usage:
    """Counts of calls and tokens. Replayed calls cost nothing."""

    calls: int = 0
    replayed: int = 0
    failed: int = 0
    healed: int = 0
    """Ledger rows that hold a failure in place of a reply, and are skipped."""
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def cost(self, config: LlmConfig) -> float:
        """In the currency of the configured prices."""
        million = 1e6
        return (self.prompt_tokens * config.price_prompt + self.completion_tokens * config.price_completion) / million


class Chat:
    """Asks an endpoint through a ledger. Safe for threads."""

    def __init__(self, config: LlmConfig, ledger: Ledger) -> None:
        """Raises InputError: the address or the environment variable with the key is unusable."""
        self.config, self.ledger, self.usage = config, ledger, Usage(healed=ledger.failures)
        self._lock, self._errors_in_a_row = threading.Lock(), 0
        self._limit_name, self._temperature = config.max_tokens_name, config.temperature
        self._client: Any = None
        check_address(config.base_url, "llm.base_url", "https://host/v1")
        if ledger.failures:
            say(f"note: {ledger.failures} recorded replies are failures of the endpoint; pairuni asks again")

    def ask(self, question: ChatRequest, schema: type[Answer]) -> Answer:
        """The reply as a `schema`.

        Raises:
            BadReply: without text, cut off, refused, or without one JSON object of the schema.
            Unanswered: no reply after all retries, or, with `llm.replay`, none in the ledger. HTTP 200 with an error,
                without choices or with a page that is not JSON is no reply.
            InputError: the endpoint refuses every call (key, model, address, a parameter that it does not take).
        """
        row = self._recorded(question, schema)
        if row["fault"]:
            raise BadReply(row["fault"])
        try:
            return schema.model_validate_json(json_object(row["text"]))
        except ValidationError as err:
            raise BadReply(f"the reply is not as asked for: {input_error(err)}") from None
        except ValueError as err:
            raise BadReply(str(err)) from None

    def say(self, question: ChatRequest) -> str:
        """The reply as plain text. Raises as `ask`."""
        row = self._recorded(question, None)
        if row["fault"]:
            raise BadReply(row["fault"])
        return row["text"]

    def _recorded(self, question: ChatRequest, schema: type[Reply] | None) -> dict[str, Any]:
        """The call's row of the ledger; calls the endpoint if there is none."""
        key = self.key(question, schema)
        row = self.ledger.find(key)
        if row is None and self.config.replay:
            raise Unanswered("no recorded reply")
        if row is None:
            with self.ledger.asking(key):
                row = self.ledger.find(key)  # another process may have asked meanwhile
                if row is None:
                    row = self._call(question, schema, key)
                    self.ledger.add(key, row)
                    with self._lock:
                        self.usage.calls += 1
                        self.usage.prompt_tokens += row["prompt_tokens"]
                        self.usage.completion_tokens += row["completion_tokens"]
                    return row
        with self._lock:
            self.usage.replayed += 1
        return row

    def key(self, question: ChatRequest, schema: type[Reply] | None) -> str:
        """SHA-256 of all that the reply depends on: pictures by their content, not by their path."""
        config = self.config
        what: dict[str, Any] = {
            "model": config.model,
            "temperature": config.temperature,
            "max_tokens": config.max_tokens,
            "structured": config.structured,
            "image_side": config.image_side if question.pictures else 0,
            "text": question.text,
            "pictures": [p.content_hash for p in question.pictures],
            "attempt": question.attempt,
            "schema": None if schema is None else schema.model_json_schema(),
        }
        if question.pictures_last:  # else absent, so that the keys of older ledgers stay what they were
            what["pictures_last"] = True
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    def _call(self, question: ChatRequest, schema: type[Reply] | None, key: str) -> dict[str, Any]:
        import openai  # here: only a real call needs it

        with self._lock:
            if self._client is None:
                self._client = openai.OpenAI(
                    base_url=self.config.base_url,
                    # Local servers ask for no key, but the SDK does.
                    api_key=os.environ.get(self.config.api_key_env) or "none",
                    timeout=self.config.timeout,
                    max_retries=self.config.retries,
                    http_client=openai.DefaultHttpxClient(event_hooks={"response": [unmask]}),
                )
        while True:
            request = self._request(question, schema)
            try:
                # With this key an endpoint can repeat its reply to a call that a kill cut off.
                reply = self._client.chat.completions.create(**request, extra_headers={"Idempotency-Key": key})
                row = _row(reply)
                break
            except openai.APIStatusError as err:
                words, secret = words_of(err), os.environ.get(self.config.api_key_env)
                words = words.replace(secret, "(the key)") if secret else words  # servers may repeat it
                if err.status_code in _ABOUT_THE_REQUEST and self._spelled_otherwise(request, words):
                    continue
                if _is_final(err, words):
                    raise InputError(f"{self._where()} refuses: {words}", field="llm") from None
                raise self._failed(words) from None
            except openai.APITimeoutError:
                raise self._failed("time-out") from None
            except openai.APIConnectionError:
                raise self._failed("connection failed") from None
            except (AttributeError, TypeError, ValueError):  # the SDK takes any JSON for a reply
                raise self._failed("the reply is not one of the chat protocol") from None
        with self._lock:
            self._errors_in_a_row = 0
        return row

    def _spelled_otherwise(self, request: Mapping[str, Any], words: str) -> bool:
        """Whether to try again with another spelling of a parameter, which all later calls then use."""
        with self._lock:
            if "max_tokens" in request and "max_completion_tokens" in words:
                changed, self._limit_name = self._limit_name == "max_tokens", "max_completion_tokens"
                note = "max_completion_tokens is sent in place of max_tokens (llm.max_tokens_name)"
            elif "temperature" in request and "temperature" in words and _REFUSES.search(words):
                only = _ONLY_VALUE.search(words)
                other = float(only[1]) if only and request["temperature"] != float(only[1]) else None
                changed, self._temperature = self._temperature == request["temperature"], other
                note = f"{'no temperature' if other is None else f'temperature {other:g}'} is sent (llm.temperature)"
            else:
                return False
        if changed:  # not by another thread whose call was under way too
            say(f"note: {self._where()} refuses a parameter: {words}; {note}")
        return True

    def _request(self, question: ChatRequest, schema: type[Reply] | None) -> dict[str, Any]:
        urls = [f"data:image/{p.kind};base64,{base64.b64encode(p.content()).decode()}" for p in question.pictures]
        content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        content.insert(0 if question.pictures_last else len(content), {"type": "text", "text": question.text})
        request: dict[str, Any] = {
            "model": self.config.model,
            self._limit_name: self.config.max_tokens,
            "messages": [{"role": "user", "content": content}],
        }
        if self._temperature is not None:
            request["temperature"] = self._temperature
        if schema is None:
            return request
        if self.config.structured == "json_schema":
            described = {"name": schema.__name__, "strict": True, "schema": schema.model_json_schema()}
            request["response_format"] = {"type": "json_schema", "json_schema": described}
        elif self.config.structured == "json_object":
            request["response_format"] = {"type": "json_object"}
        return request

    def _failed(self, what: str) -> Exception:
        with self._lock:
            self.usage.failed += 1
            self._errors_in_a_row += 1
            hopeless = self._errors_in_a_row >= _HOPELESS
        if hopeless:
            return InputError(f"{self._where()} answers nothing: {what}, {_HOPELESS} calls in a row", field="llm")
        return Unanswered(f"the endpoint does not answer: {what}")

    def _where(self) -> str:
        return f"{self.config.base_url} ({self.config.model})"


def _is_final(err: Any, words: str) -> bool:
    """Whether, by the server's words, no later call can succeed."""
    body = err.body if isinstance(err.body, dict) else {}
    code, about = str(body.get("code")), str(body.get("param") or "")
    if err.status_code in _FATAL_STATUS or (code in _FATAL_CODES and not about.startswith("messages")):
        return True
    if err.status_code not in _ABOUT_THE_REQUEST or _OF_ONE_CALL.search(words):
        return False
    named = about in _PARAMETERS or any(re.search(rf"\b{name}\b", words) for name in _PARAMETERS[:-1])
    return named and _REFUSES.search(words) is not None


def _row(reply: Any) -> dict[str, Any]:
    """The parts of a reply that the ledger keeps. Servers leave out different fields."""
    choice, used = reply.choices[0], reply.usage
    text = choice.message.content
    if isinstance(text, list):  # parts, as requests have them
        text = "".join(part["text"] for part in text if part.get("type") == "text")
    fault = None
    if choice.finish_reason == "length":
        fault = "the reply is cut off at max_tokens"
    elif choice.message.refusal:
        fault = "the model refuses"
    elif not (text or "").strip():
        fault = "the reply has no text"
    tokens = {name: getattr(used, name, None) or 0 for name in ("prompt_tokens", "completion_tokens")}
    return {"text": text, "fault": fault, **tokens}
