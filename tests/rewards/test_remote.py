"""The `http` reward against real servers on this machine: ours, and one that fails in scripted ways."""

import json
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from clip_world import make_tensors, save_hps

from pairuni.config import RewardOptions
from pairuni.errors import InputError
from pairuni.rewards import load_reward, remote
from pairuni.rewards.base import FunctionReward, RewardInput, score_all
from pairuni.rewards.serve import RewardServer, main
from pairuni.rewards.wire import decode_request, encode_request
from pairuni.types import Quadruple, Side

HALF = Quadruple("q7", Side.GENERATION, "images/7.png", "a “red” dog", "What? A. x B. y", "A", "t", {"level": 3})
GOOD = {"scores": [0.0, 1.0, 2.0]}


def images(count=3, side=Side.GENERATION):
    rng = np.random.default_rng(0)
    return [RewardInput(side, HALF, image=rng.integers(0, 256, (5, 7 + n, 3), dtype=np.uint8)) for n in range(count)]


class Scripted(ThreadingHTTPServer):
    """Answers each request with the next of `replies`, (status, body) or what a handler is to do; the last repeats."""

    daemon_threads = True

    def __init__(self, *replies):
        super().__init__(("127.0.0.1", 0), _ScriptedHandler)
        self.replies, self.bodies, self.lock = list(replies), [], threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/score"

    def handle_error(self, request, client_address):
        """A client that gave up is no news."""


class _ScriptedHandler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            self.server.bodies.append(body)
            replies = self.server.replies
            reply = replies.pop(0) if len(replies) > 1 else replies[0]
        if callable(reply):
            return reply(self)
        status, content = reply
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if 300 <= status < 400:
            self.send_header("Location", self.server.url)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format, *args):
        pass


def slow(handler):
    time.sleep(1.5)


def hang_up(handler):
    handler.connection.close()


def cut(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"scores": [0')


def drip(handler):
    handler.send_response(200)
    handler.end_headers()
    for _ in range(40):
        handler.wfile.write(b" ")
        time.sleep(0.1)


@pytest.fixture
def ask(monkeypatch):
    """ask(*replies, **options) -> (scores, the server)."""
    monkeypatch.setattr(remote, "_FIRST_WAIT", 0.01)
    servers = []

    def call(*replies, items=None, **options):
        servers.append(Scripted(*replies))
        options = {"timeout": 0.5, "retries": 2} | options
        reward = load_reward("http", Side.GENERATION, RewardOptions(url=servers[-1].url, **options))
        return score_all(reward, images() if items is None else items), servers[-1]

    yield call
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_good_server(ask):
    scores, server = ask((200, {"protocol": 1, "scores": [1, -2.5, None]}))
    np.testing.assert_array_equal(scores, [1, -2.5, np.nan])
    assert len(server.bodies) == 1, "an item without a score is not asked for again"
    request = json.loads(server.bodies[0])
    assert request["protocol"] == 1 and [item["side"] for item in request["items"]] == ["generation"] * 3
    assert request["items"][0]["half"] == HALF.to_json()
    for sent, item in zip(decode_request(server.bodies[0]), images(), strict=True):
        np.testing.assert_array_equal(sent.image, item.image)
        assert sent.quadruple == item.quadruple and sent.side == item.side and sent.text is None


def test_batches(ask):
    scores, server = ask(
        (200, {"scores": [1, 2]}), (200, {"scores": [3, 4]}), (200, {"scores": [5]}), items=images(5), batch=2
    )
    np.testing.assert_array_equal(scores, [1, 2, 3, 4, 5])
    assert len(server.bodies) == 3
    scores, server = ask((200, GOOD), items=[])
    assert scores.shape == (0,) and not server.bodies


PASSING = [
    (500, b"oops"),
    (503, b""),
    (429, b""),
    (408, b""),
    (200, b'{"scores": [0, 1'),
    (200, b""),
    slow,
    hang_up,
    cut,
    drip,
    (200, {"error": {"message": "busy", "code": 429}}),
    (200, {"scores": None, "error": "out of memory"}),
    (200, b"<html>gateway</html>"),
]
NAMES = ["500", "503", "429", "408", "malformed", "empty", "slow", "hang_up", "cut", "drip", "error", "null", "page"]


@pytest.mark.parametrize("failure", PASSING, ids=NAMES)
def test_what_may_pass_is_tried_again(ask, failure):
    scores, server = ask(failure, failure, (200, GOOD))
    np.testing.assert_array_equal(scores, [0, 1, 2])
    assert len(server.bodies) == 3 and len(set(server.bodies)) == 1


@pytest.mark.parametrize("failure", PASSING, ids=NAMES)
def test_what_does_not_pass_is_missing_after_bounded_tries(ask, failure, capsys):
    began = time.monotonic()
    scores, server = ask(failure, retries=1)
    assert np.isnan(scores).all() and len(server.bodies) == 2
    assert time.monotonic() - began < 5
    assert "3 of 3 scores are missing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("failure", "words"), [(PASSING[-3], "'busy'"), (PASSING[-1], "not JSON: <html>gateway</html>")]
)
def test_a_failure_sent_as_200_is_missing_in_the_server_s_words(ask, failure, words, capsys):
    scores, _ = ask(failure, retries=0)
    assert np.isnan(scores).all() and words in capsys.readouterr().out


def test_a_batch_that_fails_takes_no_other_with_it_and_the_rest_is_tried_once(ask):
    down = (500, b"")
    scores, server = ask(down, down, down, (200, {"scores": [3, 4]}), down, items=images(5), batch=2)
    np.testing.assert_array_equal(scores, [np.nan, np.nan, 3, 4, np.nan])
    assert len(server.bodies) == 3 + 1 + 1


def test_nobody_listens(monkeypatch):
    monkeypatch.setattr(remote, "_FIRST_WAIT", 0.01)
    server = Scripted((200, GOOD))
    server.shutdown()
    server.server_close()
    reward = load_reward("http", options=RewardOptions(url=server.url, retries=1))
    assert np.isnan(score_all(reward, images())).all()


def test_a_server_that_answers_nothing_for_long_stops_the_run(monkeypatch):
    monkeypatch.setattr(remote, "_FIRST_WAIT", 0.001)
    down, good = (500, b"out of memory"), (200, {"scores": [1]})
    server = Scripted(*[down] * 19, good, down)
    reward = load_reward("http", options=RewardOptions(url=server.url, retries=0, batch=1))
    assert np.isnan(score_all(reward, images(19))).all()
    assert score_all(reward, images(1)) == [1], "an answer starts the count again"
    assert np.isnan(score_all(reward, images(19))).all()
    with pytest.raises(InputError, match="answers nothing: HTTP 500 out of memory, 20 batches in a row"):
        score_all(reward, images(5))
    assert len(server.bodies) == 19 + 1 + 20
    server.shutdown()


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((200, {"scores": [1, 2]}), "2 scores for 3 items"),
        ((200, {"scores": [1, 2, 3, 4]}), "4 scores for 3 items"),
        ((200, {"scores": [1, "2", 3]}), "scores.1: must be a finite number or null, not '2'"),
        ((200, {"scores": [1, True, 3]}), "scores.1: must be a finite number or null, not True"),
        ((200, {"scores": [[1], 2, 3]}), "scores.0: must be a finite number"),
        ((200, b'{"scores": [1, 2, Infinity]}'), "scores.2: must be a finite number or null, not inf"),
        ((200, {"score": [1, 2, 3]}), 'must be {"scores"'),
        ((200, {"scores": 3}), 'must be {"scores"'),
        ((200, [1, 2, 3]), 'must be {"scores"'),
        ((200, {"protocol": 2, "scores": [1, 2, 3]}), "reply.protocol: is 2, not 1"),
        ((400, {"error": "no such item"}), "refuses: HTTP 400 no such item"),
        ((401, b"who are you?"), "refuses: HTTP 401 who are you?"),
        ((404, b""), "refuses: HTTP 404"),
        ((422, {"detail": "unprocessable"}), "refuses: HTTP 422 .*unprocessable"),
        ((302, b""), "refuses: HTTP 302"),
    ],
)
def test_what_will_not_pass_stops_the_run(ask, reply, message):
    with pytest.raises(InputError, match=message) as caught:
        ask(reply, (200, GOOD))
    assert "reward http" in str(caught.value) and "http://127.0.0.1" in str(caught.value)


def test_nan_is_missing_as_null_is(ask):
    scores, server = ask((200, b'{"scores": [1, NaN, 3]}'))
    np.testing.assert_array_equal(scores, [1, np.nan, 3])
    assert len(server.bodies) == 1


def test_addresses():
    for url, message in (
        (None, "is needed"),
        ("localhost:8000", "must be an http"),
        ("ftp://host/x", "must be an http"),
        ("http://", "must be an http"),
        ("http://me:secret@host", "must not hold a user name or password"),
    ):
        with pytest.raises(InputError, match=f"rewards.options.http.url: {message}"):
            load_reward("http", Side.GENERATION, RewardOptions(url=url))


# ---- our own server -----------------------------------------------------------------------------------------------


@pytest.fixture
def serve():
    """serve(reward) -> its running server."""
    servers = []

    def start(reward):
        servers.append(RewardServer(reward))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_served_reward_gives_the_scores_of_the_reward(serve):
    local = load_reward("colourfulness")
    served = load_reward("http", Side.GENERATION, RewardOptions(url=serve(local).url, batch=2))
    np.testing.assert_array_equal(score_all(served, images(5)), score_all(local, images(5)))
    answers = [RewardInput(Side.UNDERSTANDING, HALF, text=text) for text in ("A", "B", "I am not sure", "é\n😀")]
    served = load_reward("http", Side.UNDERSTANDING, RewardOptions(url=serve(load_reward("choice")).url))
    np.testing.assert_array_equal(score_all(served, answers), [1, 0, 0, 0])


def test_the_server_keeps_what_is_missing_missing(serve):
    partly = FunctionReward("partly", lambda items: [1.0, float("nan"), 3.0], remote=True)
    served = load_reward("http", options=RewardOptions(url=serve(partly).url))
    np.testing.assert_array_equal(score_all(served, images()), [1, np.nan, 3])


def test_faults_of_a_served_reward(serve, monkeypatch, capsys):
    monkeypatch.setattr(remote, "_FIRST_WAIT", 0.01)

    def raises(items):
        raise ZeroDivisionError("by the reward")

    served = load_reward("http", options=RewardOptions(url=serve(FunctionReward("f", raises)).url, retries=1))
    assert np.isnan(score_all(served, images())).all()
    shown = capsys.readouterr()
    assert "HTTP 500 ZeroDivisionError in f: by the reward" in shown.out and "Traceback" in shown.err
    short = FunctionReward("f", lambda items: [1.0])
    with pytest.raises(InputError, match=r"HTTP 422 reward f: returned 1 numbers for 3 items"):
        score_all(load_reward("http", options=RewardOptions(url=serve(short).url)), images())
    wrong_side = RewardOptions(url=serve(load_reward("choice")).url)
    with pytest.raises(InputError, match="HTTP 422 choice does not score the generation side"):
        score_all(load_reward("http", options=wrong_side), images())


def _post(url, body):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, method="POST")) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as err:
        return err.code, json.loads(err.read())


def test_requests_that_are_not_of_the_protocol(serve):
    url = serve(load_reward("brightness")).url
    good = json.loads(encode_request(images(1)))
    assert _post(url, json.dumps(good).encode())[0] == 200
    item = good["items"][0]

    def changed(**fields):
        return good | {"items": [{k: v for k, v in (item | fields).items() if v is not None}]}

    for wrong, message in (
        (b"{", "invalid JSON"),
        (good | {"protocol": 2}, "protocol: .*speaks protocol 1"),
        ({"items": []}, "protocol: "),
        (good | {"more": 1}, "more: "),
        (changed(side="both"), "items.0.side: "),
        (changed(half={"id": "x"}), "items.0.half.prompt: "),
        (changed(image="?"), "items.0.image: is not a PNG"),
        (changed(image="aGVsbG8="), "items.0.image: is not a PNG"),
        (changed(image=None), "items.0: an input of the generation side"),
        (changed(text="B"), "items.0: an input of the generation side"),
    ):
        status, said = _post(url, wrong if isinstance(wrong, bytes) else json.dumps(wrong).encode())
        assert status == 400
        assert re.search(message, said["error"]), said
    with urllib.request.urlopen(url) as reply:
        assert json.loads(reply.read()) == {"protocol": 1, "reward": "brightness", "sides": ["generation"]}


def test_the_command_serves_hps(tmp_path):
    path = save_hps(tmp_path, make_tensors())
    options = RewardOptions(weights=str(path), tokenizer=str(tmp_path / "tokenizer"), device="cpu")
    arguments = ["--reward", "hps", "--port", "0", "--device", "cpu"]
    arguments += ["--weights", str(path), "--tokenizer", str(tmp_path / "tokenizer")]
    command = [sys.executable, "-m", "pairuni.rewards.serve", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("serving hps on http://127.0.0.1:") and line.endswith("(protocol 1)\n")
        served = load_reward("http", Side.GENERATION, RewardOptions(url=line.split()[3]))
        np.testing.assert_allclose(
            score_all(served, images()), score_all(load_reward("hps", options=options), images())
        )
    finally:
        process.terminate()
        process.wait(10)


def test_the_command_says_what_is_wrong(capsys):
    taken = RewardServer(load_reward("brightness"))
    for arguments, message in (
        (["--reward", "hsp"], "no reward is called 'hsp'"),
        (["--reward", "hps", "--weights", "./gone.pt"], "rewards.options.hps.weights: there is no gone.pt"),
        (["--reward", "brightness", "--device", "cpu"], "rewards.options.brightness.device: .*has no options"),
        (["--reward", "brightness", "--port", str(taken.server_port)], "port: cannot listen on 127.0.0.1"),
    ):
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert re.search(message, said), said
    taken.server_close()
