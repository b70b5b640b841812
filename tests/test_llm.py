"""The network code against a real local endpoint: replies, failures, the ledger, and what must never be written."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from llm_server import Endpoint
from pairuni import llm
from pairuni.cli.options import parse_config
from pairuni.config import CompleteConfig, LlmConfig
from pairuni.errors import InputError
from pairuni.llm import BadReply, Chat, ChatRequest, Ledger, Reply, SentImage, Unanswered

SOURCES = ["--understanding=u.jsonl", "--generation=g.jsonl", "--output=o", "--completer=llm", "--llm.model=m"]


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
    asked = ChatRequest("well?")
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
    seen = ChatRequest("a", [SentImage("1" * 64, bytes)])
    keys = [one.key(q, Verdict) for q in (ChatRequest("a"), ChatRequest("b"), ChatRequest("a", (), 1), seen)]
    keys += [one.key(ChatRequest("a", [SentImage("2" * 64, bytes)]), Verdict)]
    keys += [chat(endpoint, tmp_path, image_side=64).key(seen, Verdict)]
    keys += [
        chat(endpoint, tmp_path, **o).key(ChatRequest("a"), Verdict) for o in ({"model": "m"}, {"temperature": 0.1})
    ]
    assert len(set(keys)) == len(keys)
    # Where an endpoint is and how patient one is with it changes no reply.
    same = chat(endpoint, tmp_path, base_url="http://elsewhere/v1", timeout=1.0, concurrency=3, image_side=64)
    assert same.key(ChatRequest("a"), Verdict) == keys[0]


def test_pictures_and_schema_are_sent(endpoint, tmp_path):
    chat(endpoint, tmp_path).ask(ChatRequest("look", [SentImage("0" * 64, lambda: b"jpeg")]), Verdict)
    sent = endpoint.requests[0]
    image, text = sent["messages"][0]["content"]
    assert image["image_url"]["url"] == "data:image/jpeg;base64,anBlZw==" and text["text"] == "look"
    schema = sent["response_format"]["json_schema"]
    assert schema["strict"] is True and schema["schema"]["additionalProperties"] is False
    assert set(schema["schema"]["required"]) == {"contradiction", "reason"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (completion(None), "no text"),
        (completion("  "), "no text"),
        (completion('{"contradiction": fal', "length"), "cut off"),
        (completion(None, refusal="no"), "refuses"),
        (completion('{"contradiction": fal'), "not as asked for"),
        (completion('{"contradiction": false}'), "reason: is missing"),
        (completion('{"contradiction": false, "reason": "", "more": 1}'), "more: unknown field"),
        (completion('{"contradiction": "perhaps", "reason": ""}'), "contradiction"),
    ],
)
def test_bad_replies_are_recorded_and_not_paid_again(endpoint, tmp_path, body, message):
    endpoint.scripted = [(200, body)]
    for _ in range(2):
        with pytest.raises(BadReply, match=message):
            chat(endpoint, tmp_path).ask(ChatRequest("well?"), Verdict)
    assert len(endpoint.requests) == 1
    assert chat(endpoint, tmp_path).ask(ChatRequest("well?", (), 1), Verdict).contradiction is False


FAILURES_AS_200 = {
    "error": (b'{"error": {"message": "Provider returned error", "code": 429}}', r"Provider returned error \(429\)"),
    "error of words": (b'{"error": "upstream is gone"}', "upstream is gone"),
    "error beside null choices": (b'{"choices": null, "error": {"message": "busy", "code": "overloaded"}}', "busy"),
    "error in the choice": (
        b'{"choices": [{"index": 0, "finish_reason": "error", "error": {"message": "lost", "code": 502},'
        b' "message": {"role": "assistant", "content": "{"}}]}',
        r"lost \(502\)",
    ),
    "no choices": (b'{"id": "c", "object": "chat.completion"}', "without choices"),
    "empty choices": (b'{"choices": [], "detail": "warming up"}', "without choices: warming up"),
    "no message": (b'{"choices": [{"index": 0, "message": null}]}', "without a message"),
    "a page": (b"<html>gateway busy</html>", "not JSON: <html>gateway busy"),
    "nothing": (b"", "with nothing"),
    "cut": (b'{"choices": [{"mess', "not JSON"),
    "a list": (b"[1]", "no chat completion"),
}


@pytest.mark.parametrize("name", FAILURES_AS_200)
def test_a_failure_sent_as_200_is_retried_and_never_recorded(endpoint, tmp_path, name):
    body, words = FAILURES_AS_200[name]
    endpoint.scripted = [(200, body)] * 2
    talk = chat(endpoint, tmp_path / "ledger", retries=1)
    with pytest.raises(Unanswered, match=words):
        talk.ask(ChatRequest("well?"), Verdict)
    assert len(endpoint.requests) == 2 and not any((tmp_path / "ledger").glob("*.jsonl")) and talk.usage.failed == 1
    endpoint.scripted = [(200, body)]
    assert talk.ask(ChatRequest("well?"), Verdict).contradiction is False  # the second try has a reply
    assert len(endpoint.requests) == 4 and len(talk.ledger) == 1 and talk.usage.calls == 1


@pytest.mark.parametrize("code", [401, 402, 403, 404])
def test_a_refusal_sent_as_200_stops_at_once(endpoint, tmp_path, code):
    endpoint.scripted = [(200, json.dumps({"error": {"message": "no credit", "code": code}}).encode())]
    with pytest.raises(InputError, match=f"refuses: .*no credit \\({code}\\)"):
        chat(endpoint, tmp_path).ask(ChatRequest("well?"), Verdict)
    assert len(endpoint.requests) == 1


def test_a_ledger_with_failures_is_healed(endpoint, tmp_path, capsys):
    talk = chat(endpoint, tmp_path)
    rows = [
        {"fault": f}
        for f in ("the reply is empty", "the reply is not JSON", "the reply is not one of the chat protocol")
    ]
    rows += [{"fault": "the reply is empty", "prompt_tokens": 7}]  # it was paid for: a reply
    for n, row in enumerate(rows):
        talk.ledger.add(talk.key(ChatRequest(str(n)), Verdict), {"text": None, "prompt_tokens": 0, **row})
    talk.ledger.close()
    healed = chat(endpoint, tmp_path)
    assert "3 recorded replies are failures of the endpoint" in capsys.readouterr().out
    assert (len(healed.ledger), healed.usage.healed) == (1, 3)
    assert [healed.ask(ChatRequest(str(n)), Verdict).contradiction for n in range(3)] == [False] * 3
    with pytest.raises(BadReply, match="empty"):
        healed.ask(ChatRequest("3"), Verdict)
    assert len(endpoint.requests) == 3 and len(chat(endpoint, tmp_path, replay=True).ledger) == 4


def test_null_usage_counts_as_nothing(endpoint, tmp_path):
    body = json.loads(completion('{"contradiction": true, "reason": "x"}'))
    body["usage"] = {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None}
    endpoint.scripted = [(200, json.dumps(body).encode())]
    talk = chat(endpoint, tmp_path)
    assert talk.ask(ChatRequest("well?"), Verdict).contradiction
    assert (talk.usage.prompt_tokens, talk.usage.completion_tokens) == (0, 0)


WANTED = '{"contradiction": true, "reason": "x {1}"}'


@pytest.mark.parametrize(
    "text",
    [
        f"```json\n{WANTED}\n```",
        f"```{WANTED}```",
        f"<think>\nIt shows {{two}} cats, or {{}}.\n</think>\n\n{WANTED}",
        f'It shows {{"cats": 2}}.\n</think>\n\n{WANTED}',
        f"Here is the JSON you asked for:\n\n```json\n{WANTED}\n```",
        f"```json\n{WANTED}\n```\n\nLet me know if you need anything else!",
        f"Sure! {WANTED}",
        f"{WANTED}\n\nAgain: {WANTED}",
        f"The set {{a, b}} is meant. {WANTED}",
    ],
)
def test_the_one_json_object_of_a_reply_is_read(endpoint, tmp_path, text):
    endpoint.scripted = [(200, completion(text))]
    assert chat(endpoint, tmp_path).ask(ChatRequest("well?"), Verdict) == Verdict(contradiction=True, reason="x {1}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{WANTED} or {WANTED.replace('true', 'false')}", "2 different JSON objects"),
        (f"```json\n{WANTED}\n```\n```json\n{{}}\n```", "2 different JSON objects"),
        (f'{{"verdict": {WANTED}', "not as asked for"),  # cut off: what is inside is not taken for the whole
        (f'{{"verdict": {WANTED}, oh}}', "not as asked for"),
        (f"<think>It may be {WANTED}", "not as asked for"),
        (WANTED.replace("true", '"true-ish"'), "contradiction"),
        ("no object at all", "not as asked for"),
    ],
)
def test_what_holds_no_one_object_is_refused(endpoint, tmp_path, text, message):
    endpoint.scripted = [(200, completion(text))]
    with pytest.raises(BadReply, match=message):
        chat(endpoint, tmp_path).ask(ChatRequest("well?"), Verdict)


def error(status: int, message: str, **more) -> tuple[int, bytes]:
    return status, json.dumps({"error": {"message": message, **more}}).encode()


NO_MAX_TOKENS = error(
    400, "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
)
NO_TEMPERATURE = error(400, "Unsupported value: 'temperature' does not support 0.7 with this model.")


def test_other_spellings_are_tried_once_and_kept(endpoint, tmp_path, capsys):
    endpoint.scripted = [NO_MAX_TOKENS, NO_TEMPERATURE]
    talk = chat(endpoint, tmp_path)
    talk.ask(ChatRequest("well?"), Verdict)
    talk.ask(ChatRequest("and now?"), Verdict)
    sent = [("max_tokens" in r, "max_completion_tokens" in r, "temperature" in r) for r in endpoint.requests]
    assert sent == [(True, False, True), (False, True, True), (False, True, False), (False, True, False)]
    said = capsys.readouterr().out
    assert said.count("llm.max_tokens_name") == said.count("no temperature is sent (llm.temperature)") == 1
    again = chat(endpoint, tmp_path, replay=True)  # a run that spells as the first one did finds the replies
    assert again.ask(ChatRequest("well?"), Verdict).contradiction is False


def test_the_only_temperature_that_a_model_takes_is_sent(endpoint, tmp_path):
    only = error(400, "'temperature' does not support 0.7 with this model. Only the default (1) value is supported.")
    endpoint.scripted = [only]
    talk = chat(endpoint, tmp_path)
    talk.ask(ChatRequest("well?"), Verdict)
    assert [r.get("temperature") for r in endpoint.requests] == [0.7, 1.0]
    endpoint.scripted = [only]
    talk.ask(ChatRequest("and now?"), Verdict)
    assert [r.get("temperature") for r in endpoint.requests[2:]] == [1.0, None]


def test_other_spellings_by_option(endpoint, tmp_path):
    chat(endpoint, tmp_path, temperature=None, max_tokens_name="max_completion_tokens").ask(
        ChatRequest("well?"), Verdict
    )
    (sent,) = endpoint.requests
    assert sent["max_completion_tokens"] == 1024 and not {"max_tokens", "temperature"} & sent.keys()
    assert parse_config(CompleteConfig, [*SOURCES, "--llm.temperature=null"], "complete").llm.temperature is None


@pytest.mark.parametrize(
    "refusal",
    [
        error(400, "Invalid schema for response_format 'Verdict'", param="response_format"),
        error(400, "no such thing", code="unsupported_parameter", param="top_k"),
        error(400, "max_tokens must be at most 512"),
        error(422, "response_format: Extra inputs are not permitted"),
        error(200, "Unknown parameter: response_format", code=400),
        error(429, "You exceeded your current quota", code="insufficient_quota"),
    ],
)
def test_a_parameter_that_is_refused_stops_at_once(endpoint, tmp_path, refusal):
    endpoint.scripted = [refusal] * 9
    words = json.loads(refusal[1])["error"]["message"]
    with pytest.raises(InputError, match=f"refuses: HTTP .*{words}"):
        chat(endpoint, tmp_path).ask(ChatRequest("well?"), Verdict)
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(
    "refusal",
    [
        error(400, "The response was filtered: content management policy", code="content_filter"),
        error(400, "maximum context length is 4096 tokens, max_tokens is invalid", param="max_tokens"),
        error(400, "Invalid image", param="messages.[0].content", code="unsupported_value"),
    ],
)
def test_a_call_that_is_refused_for_what_it_holds_is_one_without_reply(endpoint, tmp_path, refusal):
    endpoint.scripted = [refusal]
    with pytest.raises(Unanswered, match="HTTP 400"):
        chat(endpoint, tmp_path).ask(ChatRequest("well?"), Verdict)
    assert chat(endpoint, tmp_path).ask(ChatRequest("well?"), Verdict).contradiction is False


@pytest.mark.parametrize("way", ["rate_limit", "server_error", "time_out", "cut"])
def test_transport_failures_are_survived(tmp_path, way):
    server = Endpoint(fail=0.5, ways=(way,), time_out=0.6)
    talk = chat(server, tmp_path, timeout=0.3, retries=8)
    for n in range(6):
        talk.ask(ChatRequest(f"question {n}"), Verdict)
    server.shutdown()
    assert server.failed[way] > 0 and talk.usage.calls == len(server.paid) == 6


def test_no_reply_after_all_retries_is_not_recorded(tmp_path):
    server = Endpoint(fail=1.0, ways=("server_error",))
    with pytest.raises(Unanswered, match="HTTP 500 busy"):
        chat(server, tmp_path / "ledger", retries=1).ask(ChatRequest("well?"), Verdict)
    server.fail = 0.0
    assert len(server.requests) == 2 and not any((tmp_path / "ledger").glob("*.jsonl"))
    assert chat(server, tmp_path / "ledger").ask(ChatRequest("well?"), Verdict).contradiction is False
    server.shutdown()


def test_a_dead_endpoint_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(llm, "_HOPELESS", 3)
    talk = Chat(LlmConfig(base_url="http://127.0.0.1:9/v1", model="m", retries=0), Ledger(tmp_path))
    for n in range(2):
        with pytest.raises(Unanswered, match="connection failed"):
            talk.ask(ChatRequest(str(n)), Verdict)
    with pytest.raises(InputError, match=r"127\.0\.0\.1:9/v1 \(m\) answers nothing: connection failed, 3 calls"):
        talk.ask(ChatRequest("2"), Verdict)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_of_all_calls_stops_at_once(endpoint, tmp_path, status):
    endpoint.scripted = [(status, b'{"error": {"message": "not you"}}')]
    with pytest.raises(InputError, match=f"refuses: HTTP {status} not you"):
        chat(endpoint, tmp_path).ask(ChatRequest("well?"), Verdict)


def test_the_api_key_is_sent_and_never_written(endpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "sk-very-secret")
    talk = chat(endpoint, tmp_path, api_key_env="SOME_KEY")
    talk.ask(ChatRequest("well?"), Verdict)
    endpoint.scripted = [(401, b'{"error": {"message": "bad key"}}')]
    with pytest.raises(InputError) as caught:
        talk.ask(ChatRequest("again?"), Verdict)
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
    one.ask(ChatRequest("a"), Verdict)
    two.ask(ChatRequest("b"), Verdict)
    files = sorted(tmp_path.glob("*.jsonl"))
    assert len(files) == 2
    with files[0].open("ab") as file:
        file.write(b'{"key": "00ff", "text": "{\\"contra')
    three = chat(endpoint, tmp_path, replay=True)
    for text in "ab":
        three.ask(ChatRequest(text), Verdict)
    assert len(three.ledger) == 2 and three.usage.replayed == 2
    files[1].write_bytes(b"no ledger\n" + files[1].read_bytes())
    with pytest.raises(InputError, match=f"{files[1].name}:1: is not a ledger line"):
        Ledger(tmp_path)


def test_replay_asks_nothing(endpoint, tmp_path):
    with pytest.raises(Unanswered, match="no recorded reply"):
        chat(endpoint, tmp_path, replay=True).ask(ChatRequest("well?"), Verdict)
    assert not endpoint.requests


def test_a_second_process_sees_the_replies_of_the_first(tmp_path: Path) -> None:
    key, other = "ab" * 32, "cd" * 32
    first, second = Ledger(tmp_path), Ledger(tmp_path)
    first.add(key, {"text": "one"})
    assert second.find(key) == {"key": key, "text": "one"}
    second.add(other, {"text": "two"})
    first.add("ef" * 32, {"text": "three"})
    assert first.find(other) == {"key": other, "text": "two"} and len(second) == 2
    assert second.find("ef" * 32) is not None and len(second) == 3


_ASK = """
import sys
from pathlib import Path
from pairuni.config import LlmConfig
from pairuni.llm import Chat, ChatRequest, Ledger
talk = Chat(LlmConfig(base_url=sys.argv[1], model="m"), Ledger(Path(sys.argv[2])))
print("ready", flush=True)
sys.stdin.readline()
print(talk.say(ChatRequest("How many?")), talk.usage.calls)
"""


def test_two_processes_that_ask_at_once_pay_once(tmp_path: Path) -> None:
    def slowly(request: dict) -> str:
        time.sleep(0.5)
        return f"reply {len(endpoint.requests)}"

    endpoint = Endpoint(say=slowly)
    ask = [sys.executable, "-c", _ASK, endpoint.url, str(tmp_path)]
    going = [subprocess.Popen(ask, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in going:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in going:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate()[0].split() for process in going]
    endpoint.shutdown()
    assert len(endpoint.requests) == 1
    assert sorted(calls for *_, calls in said) == ["0", "1"] and said[0][:-1] == said[1][:-1] == ["reply", "1"]


def test_threads_that_ask_at_once_pay_once(tmp_path: Path) -> None:
    def slowly(request: dict) -> str:
        time.sleep(0.3)
        return "reply"

    endpoint = Endpoint(say=slowly)
    talk = Chat(LlmConfig(base_url=endpoint.url, model="m"), Ledger(tmp_path))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: talk.say(ChatRequest("How many?")), range(4))) == ["reply"] * 4
        different = list(pool.map(lambda n: talk.say(ChatRequest(f"{n}?")), range(4)))
    endpoint.shutdown()
    assert (talk.usage.calls, talk.usage.replayed, different) == (5, 3, ["reply"] * 4)
