"""Chat with any OpenAI-compatible endpoint: pictures in, validated objects out, every paid reply on disk.

The only network code beside rewards/remote.py. A call is keyed by the hash of everything that its reply depends on. A
reply is written to the ledger before it is used, so that a killed run continues without asking or paying for it again.
Several processes or hosts may share a ledger folder: each appends to a file of its own and all read all files.
Retries of rate limits, server errors, time-outs and cut connections are the openai SDK's.
"""

import base64
import hashlib
import json
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from pairuni.config import LlmConfig
from pairuni.errors import InputError
from pairuni.files import check_folder

_FATAL_STATUS = (401, 402, 403, 404)
"""No later call can fare better: wrong key, no money, no such model."""
_HOPELESS = 20
"""Calls in a row that end in an error before the endpoint counts as unreachable and the run stops."""
_KEY_BYTES = 16
_FENCE = "```"


class Reply(BaseModel):
    """Base of reply schemas. Unknown keys are an error, so that a reply to another question is not taken for one."""

    model_config = ConfigDict(extra="forbid")


Answer = TypeVar("Answer", bound=Reply)


class BadReply(Exception):
    """The reply does not fit its schema. It was paid for and is in the ledger; asking again needs a new attempt."""


class Unanswered(Exception):
    """No reply after all retries. Not in the ledger: a later run asks again."""


@dataclass(frozen=True)
class Picture:
    """An image of a message: what identifies it, and its bytes when they are needed."""

    content_hash: str
    content: Callable[[], bytes]
    kind: Literal["jpeg", "png"] = "jpeg"


@dataclass(frozen=True)
class Question:
    """One call. `attempt` tells repeated calls with the same words apart."""

    text: str
    pictures: Sequence[Picture] = ()
    attempt: int = 0
    pictures_last: bool = False
    """Whether the pictures come after the text, not before it."""


@dataclass
class Usage:
    """What calls came to. Replayed calls cost nothing."""

    calls: int = 0
    replayed: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def cost(self, config: LlmConfig) -> float:
        """In the currency of the configured prices."""
        million = 1e6
        return (self.prompt_tokens * config.price_prompt + self.completion_tokens * config.price_completion) / million


class Ledger:
    """Replies by key, kept in `folder`/*.jsonl. Safe for threads; a torn last line of a killed writer is passed over.

    The replies themselves stay on disk: memory holds 16 bytes of key and a position per reply.
    """

    def __init__(self, folder: Path) -> None:
        """Raises InputError where the folder cannot be used."""
        check_folder(folder)
        self._folder, self._lock = folder, threading.Lock()
        self._places: dict[bytes, tuple[Path, int]] = {}
        self._own: Any = None
        self._size = 0
        for path in sorted(folder.glob("*.jsonl")):
            for start, row in _rows(path):
                self._places.setdefault(bytes.fromhex(row["key"])[:_KEY_BYTES], (path, start))

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return bytes.fromhex(key)[:_KEY_BYTES] in self._places

    def find(self, key: str) -> dict[str, Any] | None:
        """The recorded reply, None where there is none."""
        place = self._places.get(bytes.fromhex(key)[:_KEY_BYTES])
        if place is None:
            return None
        with place[0].open("rb") as file:
            file.seek(place[1])
            return json.loads(file.readline())

    def add(self, key: str, row: Mapping[str, Any]) -> None:
        """Appends a reply and hands it to the operating system, before anything is made of it."""
        line = (json.dumps({"key": key, **row}, ensure_ascii=True) + "\n").encode()
        with self._lock:
            if self._own is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
                self._own = (self._folder / name).open("ab")
            self._own.write(line)
            self._own.flush()  # a killed process loses nothing more; syncing each reply would wait for the disk
            self._places.setdefault(bytes.fromhex(key)[:_KEY_BYTES], (Path(self._own.name), self._size))
            self._size += len(line)

    def close(self) -> None:
        if self._own is not None:
            self._own.close()


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    start = 0
    with path.open("rb") as lines:
        for n, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                return  # torn: its writer was killed, so the reply was never used
            try:
                row = json.loads(line)
                bytes.fromhex(row["key"])
            except (ValueError, KeyError, TypeError):
                raise InputError("is not a ledger line, delete it", file=path, line=n) from None
            yield start, row
            start += len(line)


class Chat:
    """Asks an endpoint through a ledger. Safe for threads."""

    def __init__(self, config: LlmConfig, ledger: Ledger) -> None:
        """Raises InputError: the address or the environment variable with the key is unusable."""
        self.config, self.ledger, self.usage = config, ledger, Usage()
        self._lock, self._errors_in_a_row = threading.Lock(), 0
        self._client: Any = None
        address = urlsplit(config.base_url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise InputError("must be an http(s) address such as https://host/v1", field="llm.base_url")
        if address.username or address.password:
            raise InputError("must not hold a user name or password", field="llm.base_url")

    def ask(self, question: Question, schema: type[Answer]) -> Answer:
        """The reply as a `schema`.

        Raises:
            BadReply: empty, cut off, refused, not JSON, or not of the schema.
            Unanswered: no reply after all retries, or, with `llm.replay`, none in the ledger.
            InputError: the endpoint refuses every call (key, model, address).
        """
        return _parse(self._recorded(question, schema), schema)

    def say(self, question: Question) -> str:
        """The reply as the model worded it. Raises as `ask`."""
        row = self._recorded(question, None)
        if row["fault"]:
            raise BadReply(row["fault"])
        return row["text"]

    def _recorded(self, question: Question, schema: type[Reply] | None) -> dict[str, Any]:
        """The row of the ledger, asked for where there is none."""
        key = self.key(question, schema)
        row = self.ledger.find(key)
        if row is not None:
            with self._lock:
                self.usage.replayed += 1
            return row
        if self.config.replay:
            raise Unanswered("no recorded reply")
        row = self._call(question, schema, key)
        self.ledger.add(key, row)
        with self._lock:
            self.usage.calls += 1
            self.usage.prompt_tokens += row["prompt_tokens"]
            self.usage.completion_tokens += row["completion_tokens"]
        return row

    def key(self, question: Question, schema: type[Reply] | None) -> str:
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

    def _call(self, question: Question, schema: type[Reply] | None, key: str) -> dict[str, Any]:
        import openai  # here, since everything but a real call does without

        client = self._connect()
        try:
            # The key lets an endpoint that knows such headers answer a call again that was in flight at a kill.
            reply = client.chat.completions.create(
                **self._request(question, schema), extra_headers={"Idempotency-Key": key}
            )
        except (json.JSONDecodeError, UnicodeDecodeError):
            return _useless("the reply is not JSON")
        except openai.APIStatusError as err:
            if err.status_code in _FATAL_STATUS:
                raise InputError(f"{self._where()} refuses: {self._status(err)}", field="llm") from None
            raise self._failed(self._status(err)) from None
        except openai.APITimeoutError:
            raise self._failed("time-out") from None
        except openai.APIConnectionError:
            raise self._failed("connection failed") from None
        with self._lock:
            self._errors_in_a_row = 0
        try:
            return _row(reply)
        except (AttributeError, TypeError):  # the SDK takes any JSON for a reply
            return _useless("the reply is not one of the chat protocol")

    def _request(self, question: Question, schema: type[Reply] | None) -> dict[str, Any]:
        urls = [f"data:image/{p.kind};base64,{base64.b64encode(p.content()).decode()}" for p in question.pictures]
        content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        content.insert(0 if question.pictures_last else len(content), {"type": "text", "text": question.text})
        request: dict[str, Any] = {
            "model": self.config.model,
            "temperature": self.config.temperature,
            "max_tokens": self.config.max_tokens,
            "messages": [{"role": "user", "content": content}],
        }
        if schema is None:
            return request
        if self.config.structured == "json_schema":
            described = {"name": schema.__name__, "strict": True, "schema": schema.model_json_schema()}
            request["response_format"] = {"type": "json_schema", "json_schema": described}
        elif self.config.structured == "json_object":
            request["response_format"] = {"type": "json_object"}
        return request

    def _connect(self) -> Any:
        import openai

        with self._lock:
            if self._client is None:
                self._client = openai.OpenAI(
                    base_url=self.config.base_url,
                    # Local servers ask for no key, but the SDK does.
                    api_key=os.environ.get(self.config.api_key_env) or "none",
                    timeout=self.config.timeout,
                    max_retries=self.config.retries,
                )
            return self._client

    def _failed(self, what: str) -> Exception:
        with self._lock:
            self.usage.failed += 1
            self._errors_in_a_row += 1
            hopeless = self._errors_in_a_row >= _HOPELESS
        if hopeless:
            return InputError(f"{self._where()} answers nothing: {what}, {_HOPELESS} calls in a row", field="llm")
        return Unanswered(f"the endpoint does not answer: {what}")

    def _status(self, err: Any) -> str:
        """Status and the server's words, cut short: never the request, nor the key, which servers may repeat."""
        body = err.body if isinstance(err.body, dict) else {}
        words, key = str(body.get("message") or ""), os.environ.get(self.config.api_key_env)
        words = words.replace(key, "(the key)") if key else words
        return f"HTTP {err.status_code} {words[:200]}".strip()

    def _where(self) -> str:
        return f"{self.config.base_url} ({self.config.model})"


def _useless(fault: str) -> dict[str, Any]:
    """What the ledger keeps of a reply without a text."""
    return {"text": None, "fault": fault, "prompt_tokens": 0, "completion_tokens": 0}


def _row(reply: Any) -> dict[str, Any]:
    """What the ledger keeps of a reply. Servers differ in what they leave out."""
    choice = reply.choices[0] if reply.choices else None
    text = choice.message.content if choice is not None and choice.message is not None else None
    fault = None
    if choice is not None and choice.finish_reason == "length":
        fault = "the reply is cut off at max_tokens"
    elif choice is not None and choice.message is not None and choice.message.refusal:
        fault = "the model refuses"
    elif not (text or "").strip():
        fault = "the reply is empty"
    used = reply.usage
    return {
        "text": text,
        "fault": fault,
        "prompt_tokens": used.prompt_tokens if used else 0,
        "completion_tokens": used.completion_tokens if used else 0,
    }


def _parse(row: Mapping[str, Any], schema: type[Answer]) -> Answer:
    if row["fault"]:
        raise BadReply(row["fault"])
    text = row["text"].strip()
    if text.startswith(_FENCE) and text.endswith(_FENCE):  # some servers wrap JSON in a Markdown block
        text = text.removesuffix(_FENCE).partition("\n")[2]
    try:
        return schema.model_validate_json(text)
    except ValidationError as err:
        first = err.errors()[0]
        place = ".".join(str(p) for p in first["loc"])
        raise BadReply(f"the reply is not as asked for: {place}{': ' if place else ''}{first['msg']}") from None
