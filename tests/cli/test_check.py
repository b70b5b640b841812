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
