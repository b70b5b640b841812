"""Malformed images, checkpoints, rewards and endpoints, one by one: a message or a counted skip for each.

Configs, records and commands are tests/cli/test_bad_input.py; replies of an http reward tests/rewards/test_remote.py.
"""

import io
import json
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from llm_server import Endpoint
from pairuni.cli.main import main
from pairuni.config import (
    CompleteConfig,
    DataConfig,
    LlmConfig,
    LogConfig,
    ModelConfig,
    RewardConfig,
    RolloutConfig,
    TrainConfig,
)
from pairuni.data.complete import run_complete
from pairuni.data.images import load_image, look
from pairuni.errors import InputError
from pairuni.files import file_hash, read_json, read_jsonl, write_json
from pairuni.rewards import side_reward
from pairuni.rewards.base import RewardInput, score_all
from pairuni.runs import RunDir
from pairuni.train.loop import train
from pairuni.types import Quadruple, Side

# ---- images -----------------------------------------------------------------------------------------------------


def encoded(kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(width: int, height: int) -> bytes:
    """A small PNG whose header promises many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = png_chunk(b"IHDR", header), png_chunk(b"IDAT", zlib.compress(b"\0" * 100)), png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


PNG, JPEG, WEBP, GIF = (encoded(kind) for kind in ("PNG", "JPEG", "WEBP", "GIF"))
IMAGES = {
    "nothing": b"",
    "one byte": b"\x89",
    "text": b"not an image",
    "an HTML page": b"<!doctype html><title>404</title>",
    "SVG, which could hold a script": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "a PDF": b"%PDF-1.4\n1 0 obj<<>>endobj",
    "a zip": b"PK\x03\x04" + b"\0" * 60,
    "zeros": b"\0" * 4096,
    "a PNG's signature alone": PNG[:8],
    "a PNG cut in its header": PNG[:20],
    "a PNG cut in its pixels": PNG[: len(PNG) // 2],
    "a PNG with a wrong checksum": flipped(PNG, 30),
    "a PNG with broken pixels": flipped(PNG, len(PNG) // 2),
    "a PNG that promises 60,000 x 60,000 pixels": bomb(60_000, 60_000),
    "a PNG that promises 2^31 columns": bomb(2**31 - 1, 1),
    "a PNG of no columns": bomb(0, 10),
    "a PNG with fewer pixels than promised": bomb(500, 500),
    "a JPEG's marker alone": JPEG[:3],
    "a JPEG cut in its header": JPEG[:60],
    "a JPEG cut in its pixels": JPEG[: len(JPEG) // 2],
    "a WebP cut": WEBP[: len(WEBP) // 2],
    "a GIF cut in its header": GIF[:9],
    "a TIFF that points past its end": b"II*\0\xff\xff\xff\x7f",
    "a BMP of negative size": b"BM"
    + struct.pack("<IHHIIiiHHIIiiII", 60, 0, 0, 54, 40, -5, 10, 1, 24, 0, 0, 0, 0, 0, 0),
}


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_refused_by_name_or_left_out_with_a_reason(name: str, tmp_path: Path) -> None:
    reason = look(IMAGES[name])
    assert isinstance(reason, str) and reason.startswith("the image")
    file = tmp_path / "x.png"
    file.write_bytes(IMAGES[name])
    with pytest.raises(InputError) as caught:
        load_image(file)
    assert caught.value.file == file or str(caught.value.file) == str(file)
    assert "cannot be read as an image" in str(caught.value)


# ---- checkpoints ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tiny_janus_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A run of two steps with a checkpoint of each."""
    folder = tmp_path_factory.mktemp("corpus")
    Image.new("RGB", (16, 16), "red").save(folder / "a.png")
    half = {"image_path": "a.png", "prompt": "a red circle", "question": "Which? A. red B. blue", "answer": "A"}
    pair = {"similarity": 1.0, "kind": "aligned", "generate_ann": half, "understand_ann": half}
    (folder / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    config = TrainConfig(
        output=str(folder / "run"),
        steps=2,
        model=ModelConfig(path=str(tiny_janus_folder), device="cpu"),
        data=DataConfig(pairs=str(folder / "pairs.jsonl"), batch=1),
        rollout=RolloutConfig(rollouts=2, guidance=2.0, max_new_tokens=3),
        rewards=RewardConfig(generation="brightness"),
        log=LogConfig(samples_every=0, checkpoint_every=1, keep_checkpoints=0),
    )
    train(config)
    return config


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    path.write_bytes(flipped(path.read_bytes(), path.stat().st_size // 2))


def forged(path: Path, text: str) -> None:
    """Another content, with the list of hashes put right: not a crash, but someone's doing."""
    path.write_text(text)
    listed = path.parent / "files.json"
    write_json(listed, read_json(listed) | {f"state/{path.name}": file_hash(path)})


STATE, WEIGHTS = "state/state.json", "model/model.safetensors"
# Damage of the last checkpoint -> what the warning says; training then goes on from the one before.
PASSED_OVER: dict[str, tuple[Callable[[Path], Any], str]] = {
    "weights gone": (lambda c: (c / WEIGHTS).unlink(), f"{WEIGHTS} is missing"),
    "weights cut": (lambda c: cut(c / WEIGHTS), f"{WEIGHTS} is damaged or cut short"),
    "weights with a flipped byte": (lambda c: flip(c / WEIGHTS), f"{WEIGHTS} is damaged"),
    "weights empty": (lambda c: (c / WEIGHTS).write_bytes(b""), f"{WEIGHTS} is damaged"),
    "moments cut": (lambda c: cut(c / "state/optimizer.safetensors"), "state/optimizer.safetensors is damaged"),
    "moments gone": (lambda c: (c / "state/optimizer.safetensors").unlink(), "optimizer.safetensors is missing"),
    "random state cut": (lambda c: cut(c / "state/random.safetensors"), "state/random.safetensors is damaged"),
    "random state gone": (lambda c: (c / "state/random.safetensors").unlink(), "random.safetensors is missing"),
    "state cut": (lambda c: cut(c / STATE), f"{STATE} is damaged"),
    "state gone": (lambda c: (c / STATE).unlink(), f"{STATE} is missing"),
    "model's config changed": (lambda c: (c / "model/config.json").write_text("{}"), "model/config.json is damaged"),
    "tokenizer gone": (lambda c: (c / "model/tokenizer.json").unlink(), "model/tokenizer.json is missing"),
    "hashes gone": (lambda c: (c / "state/files.json").unlink(), "files.json: no such file"),
    "hashes cut": (lambda c: cut(c / "state/files.json"), "files.json:"),
    "all empty": (lambda c: [shutil.rmtree(c), c.mkdir()], "files.json: no such file"),
}
# The same, where whoever did it also forged the hashes -> the one message.
REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "state that is a list": (lambda c: forged(c / STATE, "[1]"), "state.json: must be a JSON object"),
    "state without a step": (lambda c: forged(c / STATE, '{"sampler": {}}'), "state.json: step: is missing"),
    "state of another run": (
        lambda c: forged(c / STATE, json.dumps(read_json(c / STATE) | {"config_hash": "0" * 64})),
        "was made under another config",
    ),
    "a run of other random streams": (
        lambda c: forged(c / STATE, json.dumps(read_json(c / STATE) | {"sampler": {"step": 2, "fingerprint": "0"}})),
        "was made with random streams version 1, and this release draws version 2",
    ),
    "moments that are no safetensors": (lambda c: forged(c / "state/optimizer.safetensors", "junk"), "cannot be read"),
    "random state that is none": (lambda c: forged(c / "state/random.safetensors", "{}"), "cannot be read"),
}


def again(finished: TrainConfig, tmp_path: Path) -> tuple[RunDir, list[str]]:
    """A copy of the run, and the command that would train it two steps further."""
    source = Path(finished.output).parent
    shutil.copytree(source, tmp_path / "copy")
    run = RunDir(tmp_path / "copy" / "run")
    text = run.config.read_text().replace(str(source), str(tmp_path / "copy")).replace("steps: 2\n", "steps: 3\n")
    run.config.write_text(text)
    (run.path / ".pairuni.json").unlink()  # it says that config.yaml was edited
    (tmp_path / "c.yaml").write_text(text)
    # The pairs' folder is part of the config that a checkpoint belongs to.
    for step in (1, 2):
        _rebind(run, step, tmp_path / "c.yaml")
    return run, ["train", "--config", str(tmp_path / "c.yaml")]


def _rebind(run: RunDir, step: int, config: Path) -> None:
    from pairuni.cli.options import parse_config
    from pairuni.train.resume import config_hash, flat

    state = run.checkpoint(step) / STATE
    bound = config_hash(flat(asdict(parse_config(TrainConfig, ["--config", str(config)], "train"))))
    forged(state, json.dumps(read_json(state) | {"config_hash": bound}))


@pytest.mark.parametrize("name", PASSED_OVER)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    name: str, finished: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, command = again(finished, tmp_path)
    damage, expected = PASSED_OVER[name]
    damage(run.checkpoint(2))
    assert main(command) == 0
    said = capsys.readouterr()
    assert expected in said.out + said.err and "trying the checkpoint before it" in said.out + said.err
    assert [row["step"] for row in run.read_metrics()] == [1, 2, 3]


@pytest.mark.parametrize("name", REFUSED)
def test_a_forged_checkpoint_is_one_message(
    name: str, finished: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, command = again(finished, tmp_path)
    damage, expected = REFUSED[name]
    damage(run.checkpoint(2))
    before = run.metrics.read_bytes()
    assert main(command) == 2
    said = capsys.readouterr()
    assert expected in said.err and "Traceback" not in said.err and run.metrics.read_bytes() == before


# ---- rewards ----------------------------------------------------------------------------------------------------

ITEMS = [
    RewardInput(Side.UNDERSTANDING, Quadruple("q", Side.UNDERSTANDING, "a.png", "p", "q", "A"), text=t) for t in "ab"
]
RETURNED: dict[str, tuple[Callable[[Sequence[RewardInput]], Any], str]] = {
    "nothing": (lambda items: None, "must return a list of numbers"),
    "text": (lambda items: "good", "must return a list of numbers"),
    "texts": (lambda items: ["1", "2"], "must return a list of numbers"),
    "one number": (lambda items: 0.5, "for 2 items"),
    "too few": (lambda items: [1.0], "1 numbers for 2 items"),
    "too many": (lambda items: [1.0] * 3, "3 numbers for 2 items"),
    "none at all": (lambda items: [], "0 numbers for 2 items"),
    "ragged": (lambda items: [[1], [1, 2]], "must return a list of numbers"),
    "a table": (lambda items: [[1.0, 2.0], [3.0, 4.0]], "shape (2, 2) for 2 items"),
    "not a number": (lambda items: [1.0, float("nan")], "returned nan for 'q'"),
    "infinity": (lambda items: [float("inf"), 1.0], "returned inf for 'q'"),
    "a missing one": (lambda items: [1.0, None], "must return a list of numbers"),
    "complex": (lambda items: [1j, 1.0], "must return a list of numbers"),
    "a mapping": (lambda items: {"scores": [1, 2]}, "must return a list of numbers"),
    "a generator": (lambda items: (1.0 for _ in items), "must return a list of numbers"),
    "dates": (
        lambda items: np.array(["2026-01-01", "2026-01-02"], dtype="datetime64"),
        "must return a list of numbers",
    ),
}
_RETURNS: Callable[[Sequence[RewardInput]], Any] = lambda items: None  # noqa: E731


def returns(items: Sequence[RewardInput]) -> Any:
    return _RETURNS(items)


@pytest.mark.parametrize("name", RETURNED)
def test_what_a_reward_must_not_return(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function, expected = RETURNED[name]
    monkeypatch.setattr(__import__(__name__), "_RETURNS", function)
    reward = side_reward(RewardConfig(understanding=f"{__name__}:returns"), Side.UNDERSTANDING)
    with pytest.raises(InputError) as caught:
        score_all(reward, ITEMS)
    assert expected in str(caught.value) and "returns" in str(caught.value.field)


# ---- endpoints --------------------------------------------------------------------------------------------------


def said(text: str) -> bytes:
    """A reply of the chat protocol that says `text`."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    reply = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return json.dumps(reply).encode()


ENDPOINTS = {
    "no JSON": (200, b"oops"),
    "a web page": (200, b"<html>log in first</html>"),
    "nothing": (200, b""),
    "a list": (200, b"[]"),
    "no choices": (200, b'{"id": "1", "choices": []}'),
    "an answer that is no JSON": (200, said("A red circle.")),
    "JSON cut short": (200, said('{"question": "What')),
    "JSON of another form": (200, said('{"colour": "red"}')),
    "JSON of other types": (200, said('{"question": 7, "answer": []}')),
    "numbers of thousands of digits": (200, said('{"question": ' + "9" * 5000 + "}")),
    "JSON nested deeply": (200, said("[" * 5000)),
    "text that is not UTF-8": (200, b"\xff\xfe\xfa"),
    "not allowed": (401, b'{"error": {"message": "no such key"}}'),
    "forbidden": (403, b"{}"),
    "no such model": (404, b'{"error": {"message": "no such model"}}'),
    "too large": (413, b"too large"),
    "not understood": (422, b'{"error": {"message": "no images here"}}'),
    "broken": (500, b"oops"),
    "overloaded": (503, b""),
}


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    yield server
    server.shutdown()


@pytest.mark.parametrize("name", ENDPOINTS)
def test_a_useless_reply_is_a_counted_rejection_or_one_message(name: str, endpoint: Endpoint, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    (tmp_path / "g.jsonl").write_text(json.dumps({"id": "g", "image_path": "a.png", "prompt": "a red square"}) + "\n")
    asked = {"id": "u", "image_path": "a.png", "question": "Which colour?", "answer": "red"}
    (tmp_path / "u.jsonl").write_text(json.dumps(asked) + "\n")
    endpoint.scripted += [ENDPOINTS[name]] * 50
    config = CompleteConfig(
        understanding=str(tmp_path / "u.jsonl"),
        generation=str(tmp_path / "g.jsonl"),
        output=str(tmp_path / "out"),
        completer="llm",
        attempts=2,
        llm=LlmConfig(base_url=endpoint.url, model="m", retries=1, timeout=5, concurrency=1),
    )
    try:
        counts = run_complete(config)["counts"]
    except InputError as err:
        assert endpoint.url in str(err) or "llm" in str(err.field)
        assert not (tmp_path / "out" / "quadruples.jsonl").exists()
        return
    assert counts["inputs"] == 2 and sum(counts["rejected"].values()) == 2 == sum(counts["reasons"].values())
    rows = [row for _, row in read_jsonl(tmp_path / "out" / "rejected.jsonl")]
    assert {row["id"] for row in rows} == {"u", "g"} and all(row["reason"] for row in rows)
    assert (tmp_path / "out" / "quadruples.jsonl").read_text() == ""
