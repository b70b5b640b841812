"""`pairuni check` says all that is wrong with a file: the first 20 faults and their number."""

import json
from pathlib import Path

import pytest
from PIL import Image

from pairuni.cli.main import main

HALF = {"prompt": "a red circle", "question": "Which? A. red B. blue", "answer": "A"}


def rows(kind: str, images: list[str]) -> list[dict]:
    if kind == "pairs":
        halves = [{**HALF, "image_path": image} for image in images]
        return [{"similarity": 1.0, "generate_ann": half, "understand_ann": half} for half in halves]
    made = [{"id": str(n), "image_path": image, **HALF} for n, image in enumerate(images)]
    if kind == "quadruples":
        return [{**row, "side": "generation"} for row in made]
    return [{name: row[name] for name in ("id", "image_path", "prompt")} for row in made]


def write(path: Path, made: list[dict], start: bytes = b"") -> Path:
    path.write_bytes(start + "".join(json.dumps(row) + "\n" for row in made).encode())
    return path


@pytest.mark.parametrize("kind", ["pairs", "quadruples", "samples"])
def test_all_faults_are_said_in_the_order_of_lines(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for n in range(6):
        Image.new("RGB", (8, 8), (40 * n, 0, 0)).save(tmp_path / f"{n}.png")
    (tmp_path / "1.png").write_bytes(b"no image")
    (tmp_path / "4.png").unlink()
    made = rows(kind, [f"{n}.png" for n in range(6)])
    made[2]["score"] = float("nan")
    made[5].pop("similarity" if kind == "pairs" else "prompt")
    path = write(tmp_path / "rows.jsonl", made)
    with path.open("a") as file:
        file.write("{oops\n")
    assert main(["check", str(path)]) == 2
    first, *said = capsys.readouterr().err.splitlines()
    assert first.endswith("5 faults") and str(path) in first
    assert [line.partition("rows.jsonl:")[2].partition(":")[0] for line in said] == ["2", "3", "5", "6", "7"]
    for line, part in zip(said, ["1.png", "score", "no such image", "", "JSON"], strict=True):
        assert part in line


def test_many_faults_are_cut_at_twenty_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "q.jsonl", rows("quadruples", [f"{n}.png" for n in range(1234)]))
    assert main(["check", str(path)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0].endswith("1,234 faults") and len(said) == 22 and said[-1].strip() == "and 1,214 more"


def test_a_byte_order_mark_is_no_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    path = write(tmp_path / "q.jsonl", rows("quadruples", ["a.png"]), b"\xef\xbb\xbf")
    assert main(["check", str(path)]) == 0
    assert "1 quadruples" in capsys.readouterr().out


CHOICE = "What is it? A. red B. blue C. green"


@pytest.mark.parametrize("kind", ["pairs", "quadruples", "samples"])
def test_golds_that_are_no_option_are_named(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "0.png")
    golds = ["F", "B", "a green", "yellow", "c"]
    halves = [{**HALF, "image_path": "0.png", "question": CHOICE, "answer": gold} for gold in golds]
    made = [{"id": str(n), **half} for n, half in enumerate(halves)]
    if kind == "pairs":
        made = [{"similarity": 1.0, "generate_ann": half, "understand_ann": {**half, "answer": "A"}} for half in halves]
    elif kind == "samples":
        made = [{key: row[key] for key in ("id", "image_path", "question", "answer")} for row in made]
    else:
        made = [{**row, "side": "generation"} for row in made]
    assert main(["check", str(write(tmp_path / "rows.jsonl", made))]) == 2
    said = capsys.readouterr().err
    field = "generate_ann.answer" if kind == "pairs" else "answer"
    assert f"rows.jsonl:1: {field}: is 'F', none of the options in the question (A, B, C)" in said
    assert f"rows.jsonl:4: {field}: is 'yellow', none of" in said and "2 faults" in said


@pytest.mark.parametrize(
    ("question", "gold"),
    [
        ("How many? (a) one (b) two", "b"),
        ("How many?\n1. one\n2. two", "2"),
        ("How many?\n1. 10\n2. 20", "2"),
        ("How many?\n1. 10\n2. 20", "20"),
        ("Do this:\n1. count the dogs\n2. add one", "four"),  # no options, but steps
        ("Which angle is drawn?", "F"),
        ("图中有几只猫？\nA、一只\nB、两只", "两只"),
        ("Is it? A. yes B. no", "no"),
    ],
)
def test_golds_that_can_be_right_are_no_fault(question: str, gold: str, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "0.png")
    row = {"id": "0", "image_path": "0.png", "question": question, "answer": gold}
    assert main(["check", str(write(tmp_path / "rows.jsonl", [row]))]) == 0


@pytest.mark.parametrize(("gold", "code"), [("3", 2), ("C", 2), ("1", 0)])
def test_golds_of_numbered_options(gold: str, code: int, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "0.png")
    row = {"id": "0", "image_path": "0.png", "question": "How many?\n1. one\n2. two", "answer": gold}
    assert main(["check", str(write(tmp_path / "rows.jsonl", [row]))]) == code
