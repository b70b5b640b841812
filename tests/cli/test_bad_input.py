"""A user's mistakes, one by one: exit code 2, one message that names file, line and field, no traceback."""

import json
from pathlib import Path

import pytest
from PIL import Image

from pairuni.cli.main import main

HALF = {"image_path": "a.png", "prompt": "a red circle", "question": "Which? A. red B. blue", "answer": "A", "tag": "t"}
PAIR = {"similarity": 0.7, "kind": "retrieved", "generate_ann": HALF, "understand_ann": HALF}
QUADRUPLE = {"id": "x", "side": "generation", **HALF}
TRAIN = "output: {out}\ndata:\n  pairs: {pairs}\n"


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text) if isinstance(text, bytes) else path.write_text(text, encoding="utf-8")
    return path


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    write(tmp_path / "empty.png", b"")
    write(tmp_path / "cut.png", (tmp_path / "a.png").read_bytes()[:40])
    write(tmp_path / "pairs.jsonl", lines(PAIR))
    write(tmp_path / "ok.yaml", TRAIN.format(out=tmp_path / "run", pairs=tmp_path / "pairs.jsonl"))
    return tmp_path


def config(world: Path, extra: str) -> list[str]:
    write(world / "c.yaml", (world / "ok.yaml").read_text() + extra)
    return ["check", str(world / "c.yaml")]


def pairs(world: Path, *rows: object) -> list[str]:
    return ["check", str(write(world / "p.jsonl", lines(*rows)))]


def half(**changes: object) -> dict[str, object]:
    return {**PAIR, "understand_ann": {**HALF, **changes}}


CASES = {
    "unknown command": (lambda w: ["trian"], ["trian"]),
    "unknown option": (lambda w: ["train", "--config", str(w / "ok.yaml"), "--optim.lrx", "1"], ["optim.lrx"]),
    "no such config": (lambda w: ["train", "--config", str(w / "none.yaml")], ["none.yaml", "no such file"]),
    "needed option": (lambda w: ["pair"], ["quadruples"]),
    "unknown key": (lambda w: config(w, "optim:\n  lrr: 1\n"), ["c.yaml:5", "optim.lrr"]),
    "unknown top key": (lambda w: config(w, "stepz: 3\n"), ["c.yaml:4", "stepz", "unknown option"]),
    "wrong type": (lambda w: config(w, "optim:\n  lr: fast\n"), ["c.yaml:5", "optim.lr", "float"]),
    "not a choice": (lambda w: config(w, "weighting: cubic\n"), ["c.yaml:4", "weighting", "cubic"]),
    "out of range": (lambda w: config(w, "optim:\n  lr: -1\n"), ["c.yaml:5", "optim.lr", "positive"]),
    "group of one": (lambda w: config(w, "rollout:\n  rollouts: 1\n"), ["c.yaml:5", "rollout.rollouts"]),
    "broken yaml": (lambda w: config(w, " steps: 3\n"), ["c.yaml:4", "YAML"]),
    "yaml list": (lambda w: ["check", str(write(w / "l.yaml", "- a\n"))], ["l.yaml", "mapping"]),
    "binary yaml": (lambda w: ["check", str(write(w / "b.yaml", b"\xff\xfe\x00"))], ["b.yaml", "UTF-8"]),
    "bad json line": (lambda w: ["check", str(write(w / "p.jsonl", lines(PAIR) + "{oops\n"))], ["p.jsonl:2", "JSON"]),
    "cut last line": (lambda w: ["check", str(write(w / "p.jsonl", (lines(PAIR) * 2)[:-30]))], ["p.jsonl:2", "JSON"]),
    "not an object": (lambda w: pairs(w, PAIR, [1]), ["p.jsonl:2", "object"]),
    "missing field": (
        lambda w: pairs(w, {**PAIR, "understand_ann": {k: v for k, v in HALF.items() if k != "answer"}}),
        ["p.jsonl:1", "understand_ann.answer"],
    ),
    "wrong field type": (lambda w: pairs(w, half(prompt=7)), ["p.jsonl:1", "understand_ann.prompt"]),
    "empty caption": (lambda w: pairs(w, half(prompt=" ")), ["p.jsonl:1", "understand_ann.prompt", "empty"]),
    "similarity": (lambda w: pairs(w, {**PAIR, "similarity": 1.4}), ["p.jsonl:1", "similarity", "1.4"]),
    "similarity text": (lambda w: pairs(w, {**PAIR, "similarity": "high"}), ["p.jsonl:1", "similarity"]),
    "unknown kind": (lambda w: pairs(w, {**PAIR, "kind": "similar"}), ["p.jsonl:1", "kind"]),
    "path upwards": (lambda w: pairs(w, half(image_path="../a.png")), ["p.jsonl:1", "image_path"]),
    "absolute path": (lambda w: pairs(w, half(image_path="/etc/passwd")), ["p.jsonl:1", "image_path"]),
    "missing image": (lambda w: pairs(w, half(image_path="b.png")), ["b.png"]),
    "empty image": (lambda w: pairs(w, half(image_path="empty.png")), ["empty.png"]),
    "cut image": (lambda w: pairs(w, half(image_path="cut.png")), ["cut.png"]),
    "empty file": (lambda w: ["check", str(write(w / "e.jsonl", ""))], ["e.jsonl"]),
    "same id twice": (
        lambda w: ["check", str(write(w / "q.jsonl", lines(QUADRUPLE, QUADRUPLE)))],
        ["q.jsonl:2", "id", "line 1"],
    ),
    "not a run": (lambda w: ["check", str(w)], ["config.yaml"]),
    "no such path": (lambda w: ["check", str(w / "nowhere")], ["nowhere"]),
    "pairs file missing": (
        lambda w: ["train", "--output", str(w / "run"), "--data.pairs", str(w / "none.jsonl")],
        ["none.jsonl", "no such file"],
    ),
    "no such model": (lambda w: ["eval", "--model", str(w / "nomodel")], ["nomodel"]),
    "unknown benchmark": (lambda w: ["eval", "--benchmarks", "mmlu", "--output", str(w)], ["mmlu"]),
    "unknown reward": (
        lambda w: ["train", "--config", str(w / "ok.yaml"), "--rewards.generation", "beauty"],
        ["rewards.generation", "beauty"],
    ),
    "no such reward function": (
        lambda w: ["train", "--config", str(w / "ok.yaml"), "--rewards.generation", "json:nothing"],
        ["rewards.generation", "nothing"],
    ),
    "sample without a question": (lambda w: ["sample", "--image", str(w / "a.png")], ["question"]),
    "sample of nothing": (lambda w: ["sample"], ["prompt"]),
    "report of nothing": (lambda w: ["report", str(w / "nowhere")], ["nowhere"]),
    "source field": (
        lambda w: [
            "complete",
            *("--understanding", str(write(w / "u.jsonl", lines({"id": "u", "image_path": "a.png", "question": "q"})))),
            *("--generation", str(write(w / "g.jsonl", lines({"id": "g", "image_path": "a.png", "prompt": "p"})))),
            *("--output", str(w / "out")),
        ],
        ["u.jsonl:1", "answer"],
    ),
    "empty mode": (
        lambda w: ["train", "--config", str(w / "ok.yaml"), "--pairing.mode", "aligned_only"],
        ["aligned"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_one_clear_message(name: str, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, expected = CASES[name]
    before = {p: p.stat().st_mtime_ns for p in world.rglob("*")}
    arguments = make(world)
    made = set(world.rglob("*")) - set(before)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    message = captured.err.strip().splitlines()
    assert message and message[0].startswith("pairuni"), captured.err
    assert "Traceback" not in captured.err
    if name != "unknown command":
        assert len(message) == 1, captured.err
    for part in expected:
        assert part in captured.err, captured.err
    # Nothing half-written is left behind.
    assert set(world.rglob("*")) - set(before) <= made


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "train" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert main([]) == 2


@pytest.mark.parametrize("command", ["train", "pair", "complete", "eval", "sample", "pretrain", "shapes", "tiny"])
def test_every_command_documents_its_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert "--config" in capsys.readouterr().out
