"""The network code against a real local endpoint: replies, failures, the ledger, and what must never be written."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llm_server import Endpoint
from pairuni import llm
from pairuni.config import LlmConfig
from pairuni.errors import InputError
from pairuni.llm import BadReply, Chat, Ledger, Picture, Question, Reply, Unanswered


class Verdict(Reply):
    contradiction: bool
    reason: str


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    yield server
    server.shutdown()


def chat(endpoint: Endpoint, folder: Path, **options) -> Chat:
    config = LlmConfig(base_url=endpoint.url, model="scripted", timeout=5, retries=2)
    return Chat(replace(config, **options), Ledger(folder))


def completion(content: str | None, finish: str = "stop", refusal: str | None = None) -> bytes:
    message = {"role": "assistant", "content": content, "refusal": refusal}
    return json.dumps({"choices": [{"index": 0, "finish_reason": finish, "message": message}]}).encode()


def test_a_reply_is_paid_once(endpoint, tmp_path):
    first = chat(endpoint, tmp_path)
    asked = Question("well?")
    assert first.ask(asked, Verdict) == Verdict(contradiction=False, reason="")
    assert first.ask(asked, Verdict) == Verdict(contradiction=False, reason="")
    again = chat(endpoint, tmp_path, replay=True)
    assert again.ask(asked, Verdict).contradiction is False
    assert (first.usage.calls, first.usage.replayed, again.usage.calls, again.usage.replayed) == (1, 1, 0, 1)
    assert first.usage.prompt_tokens == 100 and first.usage.completion_tokens == 20 and len(endpoint.requests) == 1
    prices = LlmConfig(price_prompt=2.0, price_completion=10.0)
    assert first.usage.cost(prices) == pytest.approx(100 * 2e-6 + 20 * 10e-6)


def test_what_a_reply_depends_on_is_in_its_key(endpoint, tmp_path):
    one = chat(endpoint, tmp_path)
    seen = Question("a", [Picture("1" * 64, bytes)])
    keys = [one.key(q, Verdict) for q in (Question("a"), Question("b"), Question("a", (), 1), seen)]
    keys += [one.key(Question("a", [Picture("2" * 64, bytes)]), Verdict)]
    keys += [chat(endpoint, tmp_path, image_side=64).key(seen, Verdict)]
    keys += [chat(endpoint, tmp_path, **o).key(Question("a"), Verdict) for o in ({"model": "m"}, {"temperature": 0.1})]
    assert len(set(keys)) == len(keys)
    # Where an endpoint is and how patient one is with it changes no reply.
    same = chat(endpoint, tmp_path, base_url="http://elsewhere/v1", timeout=1.0, concurrency=3, image_side=64)
    assert same.key(Question("a"), Verdict) == keys[0]


def test_pictures_and_schema_are_sent(endpoint, tmp_path):
    chat(endpoint, tmp_path).ask(Question("look", [Picture("0" * 64, lambda: b"jpeg")]), Verdict)
    sent = endpoint.requests[0]
    image, text = sent["messages"][0]["content"]
    assert image["image_url"]["url"] == "data:image/jpeg;base64,anBlZw==" and text["text"] == "look"
    schema = sent["response_format"]["json_schema"]
    assert schema["strict"] is True and schema["schema"]["additionalProperties"] is False
    assert set(schema["schema"]["required"]) == {"contradiction", "reason"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (completion(None), "empty"),
        (completion("  "), "empty"),
        (b'{"choices": []}', "empty"),
        (b"{}", "empty"),
        (completion('{"contradiction": fal', "length"), "cut off"),
        (completion(None, refusal="no"), "refuses"),
        (completion('{"contradiction": fal'), "not as asked for"),
        (completion('{"contradiction": false}'), "reason: Field required"),
        (completion('{"contradiction": false, "reason": "", "more": 1}'), "more: Extra"),
        (completion('{"contradiction": "perhaps", "reason": ""}'), "contradiction"),
        (b"<html>busy</html>", "not JSON"),
    ],
)
def test_bad_replies_are_recorded_and_not_paid_again(endpoint, tmp_path, body, message):
    endpoint.scripted = [(200, body)]
    for _ in range(2):
        with pytest.raises(BadReply, match=message):
            chat(endpoint, tmp_path).ask(Question("well?"), Verdict)
    assert len(endpoint.requests) == 1
    assert chat(endpoint, tmp_path).ask(Question("well?", (), 1), Verdict).contradiction is False


def test_fenced_json_is_taken(endpoint, tmp_path):
    endpoint.scripted = [(200, completion('```json\n{"contradiction": true, "reason": "x"}\n```'))]
    assert chat(endpoint, tmp_path).ask(Question("well?"), Verdict) == Verdict(contradiction=True, reason="x")


@pytest.mark.parametrize("way", ["rate_limit", "server_error", "time_out", "cut"])
def test_transport_failures_are_survived(tmp_path, way):
    server = Endpoint(fail=0.5, ways=(way,), time_out=0.6)
    talk = chat(server, tmp_path, timeout=0.3, retries=8)
    for n in range(6):
        talk.ask(Question(f"question {n}"), Verdict)
    server.shutdown()
    assert server.failed[way] > 0 and talk.usage.calls == len(server.paid) == 6


def test_no_reply_after_all_retries_is_not_recorded(tmp_path):
    server = Endpoint(fail=1.0, ways=("server_error",))
    with pytest.raises(Unanswered, match="HTTP 500 busy"):
        chat(server, tmp_path / "ledger", retries=1).ask(Question("well?"), Verdict)
    server.fail = 0.0
    assert len(server.requests) == 2 and not (tmp_path / "ledger").exists()
    assert chat(server, tmp_path / "ledger").ask(Question("well?"), Verdict).contradiction is False
    server.shutdown()


def test_a_dead_endpoint_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(llm, "_HOPELESS", 3)
    talk = Chat(LlmConfig(base_url="http://127.0.0.1:9/v1", model="m", retries=0), Ledger(tmp_path))
    for n in range(2):
        with pytest.raises(Unanswered, match="connection failed"):
            talk.ask(Question(str(n)), Verdict)
    with pytest.raises(InputError, match=r"127\.0\.0\.1:9/v1 \(m\) answers nothing: connection failed, 3 calls"):
        talk.ask(Question("2"), Verdict)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_of_all_calls_stops_at_once(endpoint, tmp_path, status):
    endpoint.scripted = [(status, b'{"error": {"message": "not you"}}')]
    with pytest.raises(InputError, match=f"refuses: HTTP {status} not you"):
        chat(endpoint, tmp_path).ask(Question("well?"), Verdict)


def test_the_api_key_is_sent_and_never_written(endpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "sk-very-secret")
    talk = chat(endpoint, tmp_path, api_key_env="SOME_KEY")
    talk.ask(Question("well?"), Verdict)
    endpoint.scripted = [(401, b'{"error": {"message": "bad key"}}')]
    with pytest.raises(InputError) as caught:
        talk.ask(Question("again?"), Verdict)
    assert endpoint.authorizations == {"Bearer sk-very-secret"}
    written = "".join(p.read_text() for p in tmp_path.rglob("*") if p.is_file())
    assert "secret" not in written + str(caught.value) + repr(talk.config)


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host/v1", "http:///v1", "http://me:word@host/v1"])
def test_bad_addresses(tmp_path, url):
    with pytest.raises(InputError, match="base_url") as caught:
        Chat(LlmConfig(base_url=url, model="m"), Ledger(tmp_path))
    assert "word" not in str(caught.value).removeprefix("llm.base_url: must not hold a user name or password")


def test_several_writers_share_a_ledger_and_torn_lines_are_passed_over(endpoint, tmp_path):
    one, two = chat(endpoint, tmp_path), chat(endpoint, tmp_path)
    one.ask(Question("a"), Verdict)
    two.ask(Question("b"), Verdict)
    files = sorted(tmp_path.glob("*.jsonl"))
    assert len(files) == 2
    with files[0].open("ab") as file:
        file.write(b'{"key": "00ff", "text": "{\\"contra')
    three = chat(endpoint, tmp_path, replay=True)
    for text in "ab":
        three.ask(Question(text), Verdict)
    assert len(three.ledger) == 2 and three.usage.replayed == 2
    files[1].write_bytes(b"no ledger\n" + files[1].read_bytes())
    with pytest.raises(InputError, match=f"{files[1].name}:1: is not a ledger line"):
        Ledger(tmp_path)


def test_replay_asks_nothing(endpoint, tmp_path):
    with pytest.raises(Unanswered, match="no recorded reply"):
        chat(endpoint, tmp_path, replay=True).ask(Question("well?"), Verdict)
    assert not endpoint.requests
