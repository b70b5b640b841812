"""Serves a reward over HTTP, so that a heavy one runs in another process or on another machine:

    python -m pairuni.rewards.serve --reward hps --port 8000 --weights models/HPS_v2.1_compressed.pt

A run then names `http` with the address in its options (docs/rewards.md). There is no authentication and no encryption:
listen on an address that only your machines reach. One request is scored at a time.
"""

import json
import sys
import threading
import traceback
from argparse import ArgumentParser
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, get_args

from pairuni.config import RewardOptions
from pairuni.config.fields import bare
from pairuni.errors import InputError
from pairuni.rewards import load_reward
from pairuni.rewards.base import Reward, score_all
from pairuni.rewards.clip import ClipReward
from pairuni.rewards.wire import PROTOCOL, decode_request, encode_reply

_LONGEST_REQUEST = 2**29
_SOCKET_TIMEOUT = 60.0


class RewardServer(ThreadingHTTPServer):
    """POST scores items, GET says what is served. `serve_forever` runs it."""

    daemon_threads = True

    def __init__(self, reward: Reward, host: str = "127.0.0.1", port: int = 0) -> None:
        """
        Args:
            port: 0 takes a free one, which `url` then names.

        Raises:
            InputError: the address cannot be listened on.
        """
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as err:
            raise InputError(f"cannot listen on {host}:{port} ({err})", field="port") from None
        self.reward, self.lock = reward, threading.Lock()

    @property
    def url(self) -> str:
        return f"http://{self.server_address[0]}:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, after its own time-out perhaps, is no error of the server's; the rest is shown."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: RewardServer  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout = _SOCKET_TIMEOUT

    def do_GET(self) -> None:
        reward = self.server.reward
        about = {"protocol": PROTOCOL, "reward": reward.name, "sides": sorted(str(side) for side in reward.sides)}
        self._send(200, json.dumps(about).encode())

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit():
            return self._refuse(411, "Content-Length is needed")
        if int(length) > _LONGEST_REQUEST:
            return self._refuse(413, f"longer than {_LONGEST_REQUEST} bytes: send smaller batches")
        try:
            items = decode_request(self.rfile.read(int(length)))
        except InputError as err:
            return self._refuse(400, str(err))
        reward = self.server.reward
        wrong = {str(item.side) for item in items} - {str(side) for side in reward.sides}
        if wrong:
            return self._refuse(422, f"{reward.name} does not score the {wrong.pop()} side")
        try:
            with self.server.lock:
                scores = score_all(reward, items)
        except InputError as err:
            return self._refuse(422, str(err))
        except Exception as err:  # the reward's own fault: it is shown here, and the server continues
            traceback.print_exc()
            return self._refuse(500, f"{type(err).__name__} in {reward.name}: {err}")
        self._send(200, encode_reply(scores))

    def _refuse(self, status: int, message: str) -> None:
        self._send(status, json.dumps({"error": message}).encode())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: a line per batch says nothing."""


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0 when interrupted, 2 for a user's mistake."""
    parser = ArgumentParser(prog="python -m pairuni.rewards.serve", description="Serves a reward over HTTP.")
    parser.add_argument("--reward", required=True, help="Name of a reward, or module:function of your own.")
    parser.add_argument("--host", default="127.0.0.1", help="Address to listen on; 0.0.0.0 is all of this machine's.")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one.")
    for option in fields(RewardOptions):
        kind = bare(get_args(option.type)[0])
        parser.add_argument(f"--{option.name}", type=kind, help=f"See RewardOptions.{option.name} in docs/rewards.md.")
    given = vars(parser.parse_args(arguments))
    try:
        options = RewardOptions(**{option.name: given[option.name] for option in fields(RewardOptions)})
        reward = load_reward(given["reward"], options=options)
        if isinstance(reward, ClipReward):
            reward.load()  # before the first request, which would else wait for it
        server = RewardServer(reward, given["host"], given["port"])
    except InputError as err:
        print(f"error: {err}", file=sys.stderr)
        return 2
    print(f"serving {reward.name} on {server.url} (protocol {PROTOCOL})", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("stopped", flush=True)
    finally:
        server.server_close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
