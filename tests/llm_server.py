"""An endpoint that speaks the OpenAI chat protocol on this machine, with scripted replies and scripted failures.

Replies are those of examples/scripted_endpoint.py, but for verdicts on what is "impossible". Failures are drawn by
the call's key and how often it came, so that they do not depend on timing. A call whose key was answered before is
answered from memory and not charged: what an endpoint that knows idempotency keys does.
"""

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from typing import Any

import scripted_endpoint
from scripted_endpoint import completion, reply

TRANSPORT = ("rate_limit", "server_error", "time_out", "cut")
"""Failures after which the same call is sent again; nothing was charged."""
REPLIES = ("malformed", "contradiction")
"""Replies that are charged and useless."""
FAILURES = (*TRANSPORT, *REPLIES)


class Endpoint(ThreadingHTTPServer):
    """`fail`: share of calls that fail, each way equally often. `say`: the reply to a request, not the scripted one."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        fail: float = 0.0,
        ways: tuple[str, ...] = FAILURES,
        time_out: float = 1.0,
        say: Callable[[dict[str, Any]], str] | None = None,
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.say = say
        self.fail, self.ways, self.time_out = fail, ways, time_out
        self.lock = threading.Lock()
        self.came: Counter[str] = Counter()
        """Requests by key."""
        self.failed: Counter[str] = Counter()
        """Failures by way."""
        self.paid: dict[str, bytes] = {}
        """Charged replies by key; a key can be charged once, so `charges` counts what a kill would have cost."""
        self.again = 0
        """Requests that were answered from memory."""
        self.requests: list[dict[str, Any]] = []
        self.authorizations: set[str] = set()
        self.scripted: list[tuple[int, bytes]] = []
        """(status, body) of the next requests, before anything else."""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no news."""

    def way(self, key: str, number: int) -> str | None:
        """How the `number`-th request with `key` fails, None where it does not."""
        draw = int.from_bytes(hashlib.sha256(f"{key}{number}".encode()).digest()[:8]) / 2**64
        return self.ways[int(draw / self.fail * len(self.ways))] if draw < self.fail else None


class _Handler(scripted_endpoint.Handler):
    server: Endpoint  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_POST(self) -> None:
        server = self.server
        request = self.request_body()
        key = self.headers.get("Idempotency-Key", "")
        with server.lock:
            server.requests.append(request)
            server.authorizations.add(self.headers.get("authorization", ""))
            number = server.came[key]
            server.came[key] += 1
            known, scripted = server.paid.get(key), server.scripted.pop(0) if server.scripted else None
            server.again += known is not None
        if scripted is not None:
            self.send(*scripted)
            return
        if known is not None:
            self.send(200, known)
            return
        way = server.way(key, number)
        if way is not None:
            with server.lock:
                server.failed[way] += 1
        if way in TRANSPORT:
            self._fail(way)
            return
        text = server.say(request) if server.say else json.dumps(_reply(request, way == "contradiction"))
        if way == "malformed":
            text = '{"caption": "it stops he'
        body = completion(text)
        with server.lock:
            server.paid[key] = body
        self.send(200, body)

    def _fail(self, way: str) -> None:
        if way == "time_out":
            time.sleep(self.server.time_out)
            self.close_connection = True
        elif way == "cut":
            self.send_response(200)
            self.send_header("content-length", "1000")
            self.end_headers()
            self.wfile.write(b'{"id": "x", "choi')
            self.close_connection = True
        else:
            headers = {"Retry-After": "0.05"} if way == "rate_limit" else {"retry-after-ms": "10"}
            self.send(429 if way == "rate_limit" else 500, b'{"error": {"message": "busy"}}', headers)


def _reply(request: dict[str, Any], contradiction: bool) -> dict[str, Any]:
    text = " ".join(part["text"] for part in request["messages"][0]["content"] if part["type"] == "text")
    said = reply(request)
    if "contradiction" in said and (contradiction or "impossible" in text):
        return {"contradiction": True, "reason": "it is not so"}
    return said
