"""Completion with a language model: what is written, what is refused and why, and that nothing is asked twice."""

import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_files import write_image, write_lines
from llm_server import Endpoint
from pairuni.cli.main import main
from pairuni.config import CompleteConfig, LlmConfig
from pairuni.data.complete import estimate, in_order, run_complete
from pairuni.data.completion import Attempt, Rejected
from pairuni.data.images import LoadedImage
from pairuni.data.llm_completer import INSTRUCTION, LETTERS, LlmCompleter, Templates, composed, dealt_letter, picture
from pairuni.errors import InputError
from pairuni.files import read_json, read_jsonl
from pairuni.llm import Chat, Ledger
from pairuni.records import read_quadruples
from pairuni.types import Sample, Side

OPEN = {"question": "What is the giraffe standing behind?", "answer": "tree"}


def make_sources(folder: Path, number: int) -> Path:
    """`number` samples per side; every seventh caption can never be verified, one image is missing."""
    rng = np.random.default_rng(0)
    for n in range(5):
        write_image(folder / f"images/{n}.png", rng.integers(0, 255, size=(24, 32, 3), dtype=np.uint8))
    images = [f"images/{n % 5}.png" for n in range(number)]
    asked = [{"id": f"u{n}", "image_path": i, **OPEN, "answer": f"tree {n}"} for n, i in enumerate(images)]
    asked[3]["image_path"] = "images/none.png"
    told = [
        {"id": f"g{n}", "image_path": i, "prompt": f"{'an impossible' if n % 7 == 6 else 'a'} sight, number {n}"}
        for n, i in enumerate(images)
    ]
    write_lines(folder / "understanding.jsonl", asked)
    write_lines(folder / "generation.jsonl", told)
    return folder


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    return make_sources(tmp_path / "sources", 28)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    yield server
    server.shutdown()


def config(sources: Path, output: Path, endpoint: Endpoint, **llm) -> CompleteConfig:
    options = LlmConfig(base_url=endpoint.url, model="scripted", concurrency=8, price_prompt=1.0, price_completion=2.0)
    files = (str(sources / f"{side}.jsonl") for side in Side)
    return CompleteConfig(*files, str(output), completer="llm", llm=replace(options, **llm))


def rejections(output: Path) -> Counter[str]:
    return Counter(row["reason"] for _, row in read_jsonl(output / "rejected.jsonl"))


def test_a_whole_run(sources, tmp_path, endpoint):
    settings = config(sources, tmp_path / "out", endpoint)
    summary = run_complete(settings)
    assert summary["counts"]["completed"] == {"understanding": 27, "generation": 24}
    assert rejections(tmp_path / "out") == {"the image does not exist": 1, "contradiction: it is not so": 4}
    assert summary["counts"]["reasons"] == {"contradiction": 4, "the image does not exist": 1}
    # Two calls per sample, and twice three for each that can never be verified.
    calls = 2 * (27 + 24) + 4 * 6
    assert summary["llm"]["calls"] == len(endpoint.requests) == calls
    assert summary["llm"]["cost"] == pytest.approx(calls * (100 + 2 * 20) / 1e6, abs=1e-4)
    quadruples = read_quadruples(tmp_path / "out" / "quadruples.jsonl", sources)
    assert [q.id for q in quadruples[:5]] == ["u0", "u1", "u2", "u4", "u5"]
    by_id = {q.id: q for q in quadruples}
    assert by_id["u4"].prompt.endswith(" Tree 4.") and by_id["u4"].answer == "tree 4"
    stem, _, last = by_id["g8"].question.partition("\n")
    assert last == INSTRUCTION and f" {by_id['g8'].answer}. a sight, number 8" in stem
    assert read_json(tmp_path / "out" / "completion.json") == json.loads(json.dumps(summary))
    first = (tmp_path / "out" / "quadruples.jsonl").read_bytes()
    again = run_complete(settings)
    assert again["llm"]["calls"] == 0 and again["llm"]["replayed"] == calls and len(endpoint.requests) == calls
    assert (tmp_path / "out" / "quadruples.jsonl").read_bytes() == first


def test_the_second_try_hears_what_was_wrong(sources, tmp_path, endpoint):
    run_complete(config(sources, tmp_path / "out", endpoint))
    texts = [r["messages"][0]["content"][-1]["text"] for r in endpoint.requests]
    told = [t for t in texts if "number 6" in t and "An earlier try was refused: contradiction: it is not so." in t]
    assert len(told) == 2 and not any("$" in t for t in texts)


def test_letters_are_balanced_whatever_the_model_does(sources, tmp_path, endpoint):
    run_complete(config(make_sources(tmp_path / "more", 70), tmp_path / "out", endpoint))
    answers = Counter(
        q.answer
        for q in read_quadruples(tmp_path / "out" / "quadruples.jsonl", tmp_path / "more")
        if q.side is Side.GENERATION
    )
    assert set(answers) == set(LETTERS) and max(answers.values()) - min(answers.values()) <= 8, answers
    assert Counter(dealt_letter(n, 3) for n in range(400)) == dict.fromkeys(range(4), 100)
    assert [dealt_letter(n, 0) for n in range(40)] != [dealt_letter(n, 1) for n in range(40)]


@pytest.mark.parametrize("letter", range(4))
def test_composed(letter):
    question, answer = composed("Which?", ["right", "x", "y", "z"], letter)
    assert f"{answer}. right" in question and answer == LETTERS[letter]
    assert all(f" {name}. " in question for name in LETTERS) and question.startswith("Which? A. ")
    assert sorted(question.replace("\n", " ").split(" ")).count("x") == 1


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ({"question": "Q?", "right": "a", "wrong": ["b", "c"], "consistent": True}, "all different"),
        ({"question": "Q?", "right": "a", "wrong": ["b", "c", "A"], "consistent": True}, "all different"),
        ({"question": "Q?", "right": "a", "wrong": ["b", "c", " "], "consistent": True}, "all different"),
        ({"question": " ", "right": "a", "wrong": ["b", "c", "d"], "consistent": True}, "question is empty"),
        ({"question": "Q?", "right": "a", "wrong": ["b", "c", "d"], "consistent": False}, "own question wrong"),
        ({"question": "Q?", "right": "a", "wrong": "bcd", "consistent": True}, "unusable reply: .*wrong"),
    ],
)
def test_useless_questions_are_refused(endpoint, tmp_path, reply, reason):
    message = {"role": "assistant", "content": json.dumps(reply)}
    endpoint.scripted = [(200, json.dumps({"choices": [{"index": 0, "message": message}]}).encode())]
    chat = Chat(LlmConfig(base_url=endpoint.url, model="m"), Ledger(tmp_path))
    completer = LlmCompleter(chat, Templates(), 0)
    image = LoadedImage(np.zeros((4, 4, 3), np.uint8), "0" * 64)
    with pytest.raises(Rejected, match=reason):
        completer.question(Sample("g", Side.GENERATION, "a.png", prompt="a cat"), image, Attempt())


def test_images_are_sent_small(endpoint, tmp_path):
    chat = Chat(LlmConfig(base_url=endpoint.url, model="m", image_side=20), Ledger(tmp_path))
    small = picture(LoadedImage(np.zeros((30, 60, 3), np.uint8), "0" * 64), chat)
    with Image.open(io.BytesIO(small.content())) as sent:
        assert sent.size == (20, 10) and sent.format == "JPEG"


def test_own_templates_replace_the_shipped_ones(sources, tmp_path, endpoint):
    own = tmp_path / "own"
    own.mkdir()
    (own / "caption.txt").write_text("Costs $$5. Right answer: $answer\n$complaint")
    run_complete(config(sources, tmp_path / "out", endpoint, prompts=str(own)))
    texts = [r["messages"][0]["content"][-1]["text"] for r in endpoint.requests]
    assert "Costs $5. Right answer: tree 4" in texts and any("multiple-choice" in t for t in texts)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [("caption.txt", "$prompt", "may use"), ("caption.txt", "5 $ a piece", "may use"), ("other.txt", "", "none of")],
)
def test_bad_templates(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        Templates(str(tmp_path))


def test_shards_share_nothing_but_the_ledger(sources, tmp_path, endpoint):
    settings = config(sources, tmp_path / "out", endpoint, ledger=str(tmp_path / "ledger"))
    alone = config(sources, tmp_path / "alone", endpoint)
    run_complete(alone)
    asked = len(endpoint.requests)
    parts = [run_complete(replace(settings, shards=3, shard=n)) for n in range(3)]
    assert sum(p["counts"]["inputs"] for p in parts) == 56 and len(endpoint.requests) == 2 * asked
    whole = run_complete(settings)
    assert whole["llm"]["calls"] == 0
    files = [tmp_path / name / "quadruples.jsonl" for name in ("out", "alone")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_dry_run_asks_and_writes_nothing(sources, tmp_path, endpoint, capsys):
    settings = config(sources, tmp_path / "out", endpoint)
    before = estimate(settings)
    assert before["calls"] == 2 * (27 + 28) and not endpoint.requests
    assert 82_000 < before["prompt_tokens"] < 150_000  # 1,000 for each of 2 x 27 + 28 pictures, and the words
    assert before["cost"] == round((before["prompt_tokens"] + 2 * before["completion_tokens"]) / 1e6, 2) > 0.1
    assert not (tmp_path / "out").exists()
    run_complete(settings)
    asked = len(endpoint.requests)
    after = estimate(settings)
    assert after["calls"] == after["cost"] == 0 and len(endpoint.requests) == asked
    arguments = [f"--{s}={sources / s}.jsonl" for s in Side] + [f"--output={tmp_path / 'o'}", "--completer=llm"]
    arguments += ["--llm.model=m", f"--llm.base_url={endpoint.url}", "--dry-run"]
    assert main(["complete", *arguments]) == 0
    assert "samples: 56\ncalls: 110\n" in capsys.readouterr().out and len(endpoint.requests) == asked


def test_samples_without_a_reply_are_counted_and_asked_again_later(sources, tmp_path, endpoint):
    settings = config(sources, tmp_path / "out", endpoint, retries=0)
    endpoint.fail, endpoint.ways = 0.2, ("server_error",)
    first = run_complete(settings)
    missed = first["counts"]["reasons"]["no reply"]
    assert missed > 0 and first["llm"]["failed"] == missed
    endpoint.fail = 0.0
    second = run_complete(settings)
    assert second["counts"]["completed"] == {"understanding": 27, "generation": 24}
    assert set(second["counts"]["reasons"]) == {"contradiction", "the image does not exist"}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": {"message": "Provider returned error", "code": 429}}', "Provider returned error (429)"),
        (b"<html>gateway</html>", "<html>gateway</html>"),
        (b'{"choices": []}', "HTTP 200 without choices"),
    ],
)
def test_failures_sent_as_200_are_no_replies(sources, tmp_path, endpoint, capsys, body, words):
    few = make_sources(tmp_path / "few", 4)  # eight samples: fewer than what counts as a dead endpoint
    endpoint.scripted = [(200, body)] * 7
    arguments = [f"--{s}={few / s}.jsonl" for s in Side] + [f"--output={tmp_path / 'o'}", "--completer=llm"]
    arguments += ["--llm.model=m", f"--llm.base_url={endpoint.url}", "--llm.retries=0"]
    assert main(["complete", *arguments]) != 0
    said = capsys.readouterr()
    assert "nothing was completed: all 8 samples were rejected (7 x no reply, 1 x the image does not exist)" in said.err
    reasons = rejections(tmp_path / "o")
    assert [words in reason for reason in reasons if reason.startswith("no reply: ")] == [True]
    assert not any((tmp_path / "o" / "ledger").glob("*.jsonl"))
    assert main(["complete", *arguments]) == 0
    assert len(read_quadruples(tmp_path / "o" / "quadruples.jsonl", few)) == 7


def test_in_order_keeps_order_and_reads_ahead_a_little():
    taken = []

    def items() -> Iterator[int]:
        for n in range(200):
            taken.append(n)
            yield n

    seen = []
    for item, result in in_order(lambda n: n * n, items(), 3):
        assert result == item * item
        seen.append(item)
        assert len(taken) <= len(seen) + 3 * 4 + 1
    assert seen == list(range(200))


def test_in_order_stops_at_the_first_error():
    def fail(n: int) -> int:
        if n == 5:
            raise InputError("five")
        return n

    begun = []
    with pytest.raises(InputError, match="five"):
        begun.extend(in_order(fail, iter(range(10**9)), 4))
    assert len(begun) == 5
